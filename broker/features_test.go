package broker_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/broker/brokertest"
	"moldau/test/logtext"
)

// TestFeatureLevelsStay: a new cluster has all features on; one without group.version, as an earlier build made it, starts with it off and
// says how to switch it on; what is switched on stays so.
func TestFeatureLevelsStay(t *testing.T) {
	var log logtext.Text
	c := brokertest.New(t, brokertest.Log(slog.New(slog.NewTextHandler(&log, nil))))
	const line = "feature=group.version level=0 latest=1"
	level := func(want int16) {
		t.Helper()
		v, err := kadm.NewClient(newClient(t, c)).ApiVersions(within(t))
		must(t, err)
		one := v[1]
		raw := one.Raw()
		got := int16(0)
		for _, f := range raw.FinalizedFeatures {
			if f.Name == "group.version" {
				got = f.MaxVersionLevel
			}
		}
		if got != want {
			t.Errorf("group.version is %d, want %d", got, want)
		}
	}
	set := func(to int16, kind int8) {
		t.Helper()
		r := kmsg.NewPtrUpdateFeaturesRequest()
		r.FeatureUpdates = []kmsg.UpdateFeaturesRequestFeatureUpdate{{Feature: "group.version", MaxVersionLevel: to, UpgradeType: kind}}
		resp, err := r.RequestWith(within(t), newClient(t, c))
		must(t, err)
		if resp.ErrorCode != 0 {
			t.Fatalf("%d: %s", resp.ErrorCode, *resp.ErrorMessage)
		}
	}
	restart := func() {
		t.Helper()
		c.Stop(0)
		must(t, c.Start(0))
	}
	level(1)
	if strings.Contains(log.String(), line) {
		t.Error("a new cluster says that a feature is off")
	}
	set(0, 3)
	level(0)
	restart()
	level(0)
	if !strings.Contains(log.String(), line) || !strings.Contains(log.String(), "upgrade --feature group.version=1") {
		t.Errorf("the start does not say that the feature is off, and what to do:\n%s", log.String())
	}
	set(1, 1)
	before := strings.Count(log.String(), line)
	restart()
	level(1)
	if strings.Count(log.String(), line) != before {
		t.Error("a feature that is on is told to be off")
	}
}
