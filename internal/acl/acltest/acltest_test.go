package acltest

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"moldau/internal/acl"
)

var (
	live   = flag.Uint64("acl.live", 0, "compare this many further worlds with Kafka's own StandardAuthorizer; needs Java")
	from   = flag.Uint64("acl.seed", 1, "the first of them")
	record = flag.Bool("acl.record", false, "write what Kafka answers for the seeds 1 to 8 anew; needs Java")
)

// compare holds Moldau's answers for the world of a seed to Kafka's.
func compare(t *testing.T, seed uint64, w World, kafka []bool) {
	t.Helper()
	users := map[string]bool{}
	for _, u := range w.SuperUsers {
		users[u] = true
	}
	changes := map[acl.Pattern][]acl.Entry{}
	for _, r := range w.Rules {
		changes[r.Pattern] = append(changes[r.Pattern], r.Entry)
	}
	set := (*acl.Set)(nil).With(changes)
	rules := &acl.Rules{SuperUsers: users, AllowUnlisted: w.AllowUnlisted}
	yes := 0
	for i, q := range w.Questions {
		if got := Answer(rules, set, q); got != kafka[i] {
			t.Errorf("seed %d, question %d: %+v is %v, by Kafka %v", seed, i, q, got, kafka[i])
		}
		if kafka[i] {
			yes++
		}
	}
	if set.Len() != len(w.Rules) || yes < len(kafka)/10 || yes > len(kafka)*9/10 {
		t.Errorf("seed %d: %d rules, %d of %d allowed: that proves little", seed, set.Len(), yes, len(kafka))
	}
}

// askKafka asks StandardAuthorizer, in a process of its own.
func askKafka(t *testing.T, w World) []bool {
	t.Helper()
	dir, err := filepath.Abs("../../../test/clients/kafka")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "kafka"), "class", filepath.Join(dir, "AclAnswers.java"))
	cmd.Stdin, cmd.Stderr = strings.NewReader(w.Text()), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers []bool
	for line := range strings.Lines(string(out)) {
		answers = append(answers, strings.TrimSpace(line) == "1")
	}
	if len(answers) != len(w.Questions) {
		t.Fatalf("%d answers to %d questions", len(answers), len(w.Questions))
	}
	return answers
}

func TestAnswersAreKafkas(t *testing.T) {
	if *record {
		var out strings.Builder
		for seed := range uint64(8) {
			out.WriteString(Recorded{seed + 1, askKafka(t, New(seed+1, RecordedRules, RecordedQuestions))}.Line())
		}
		if err := os.WriteFile("kafka-4.3.1.txt", []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		recorded = out.String()
	}
	all, err := Answers()
	if err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	for _, r := range all {
		compare(t, r.Seed, New(r.Seed, RecordedRules, RecordedQuestions), r.Answers)
	}
	for seed := *from; seed < *from+*live; seed++ {
		w := New(seed, RecordedRules, RecordedQuestions)
		compare(t, seed, w, askKafka(t, w))
		t.Logf("seed %d: %d rules, %d questions, no difference", seed, len(w.Rules), len(w.Questions))
	}
}
