package broker

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.uber.org/goleak"
)

// TestQuotasSurviveARestart: a quota that was set is there when the answer is, and after a stop; so is that one was removed, and what was refused is nowhere.
func TestQuotasSurviveARestart(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	j := newJBOD(t)
	dirs := []string{"log.dirs=/a", "metadata.log.dir=/meta"}
	j.start(dirs...)
	odd := "a/b \xff"
	entities := []kadm.ClientQuotaEntity{{{Type: "user", Name: &odd}}, {{Type: "user"}, {Type: "client-id", Name: &odd}}, {{Type: "client-id"}}}
	shown := func() string {
		t.Helper()
		list, err := kadm.NewClient(j.client()).DescribeClientQuotas(j.ctx, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(list)
	}
	adm := kadm.NewClient(j.client())
	alter := func(entity kadm.ClientQuotaEntity, ops ...kadm.AlterClientQuotaOp) error {
		t.Helper()
		done, err := adm.AlterClientQuotas(j.ctx, []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: ops}})
		if err != nil {
			t.Fatal(err)
		}
		return done[0].Err
	}
	for i, e := range entities {
		if err := alter(e, kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Value: float64(1000 + i)}, kadm.AlterClientQuotaOp{Key: "request_percentage", Value: 0.5}); err != nil {
			t.Fatal(err)
		}
	}
	if err := alter(entities[2], kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Remove: true}, kadm.AlterClientQuotaOp{Key: "request_percentage", Remove: true}); err != nil {
		t.Fatal(err)
	}
	if err := alter(entities[0], kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Value: 7}, kadm.AlterClientQuotaOp{Key: "request_percentage", Value: 0}); !errors.Is(err, kerr.InvalidRequest) {
		t.Errorf("nothing at all: %v", err)
	}
	before := shown()
	for _, want := range []string{"user=a/b ", "[producer_byte_rate=1000.000000 request_percentage=0.500000]", "producer_byte_rate=1001.000000"} {
		if !strings.Contains(before, want) {
			t.Errorf("%q is not in %s", want, before)
		}
	}
	if strings.Count(before, "producer_byte_rate") != 2 {
		t.Error(before)
	}
	j.stop()
	j.start(dirs...)
	if after := shown(); after != before {
		t.Errorf("%s became %s", before, after)
	}
	j.stop()
}
