package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// report is everything that was measured: results.json is this.
type report struct {
	Facts     []fact         `json:"facts"`
	Scenarios []scenarioText `json:"scenarios"`
	Runs      []run          `json:"runs"`
	Starts    []startRun     `json:"starts"`
	Colds     []coldRun      `json:"colds,omitempty"`
	Manies    []manyRun      `json:"manyPartitions,omitempty"`
	ManyTitle string         `json:"manyPartitionsTitle,omitempty"`

	ColdSkipped []string `json:"coldSkipped,omitempty"`
}

type scenarioText struct {
	Name  string `json:"name"`
	Group string `json:"group"`
	Title string `json:"title"`
	Modes []mode `json:"modes"`
}

func describe(matrix []scenario) (list []scenarioText) {
	for _, sc := range matrix {
		list = append(list, scenarioText{sc.name, sc.group, sc.title, sc.modes})
	}
	return list
}

// write puts the report into the directory, over one of the same day.
func (r *report) write(s *settings) error {
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	files := map[string]string{"results.json": string(text) + "\n"}
	files["README.md"] = r.markdown(files)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "written:", filepath.Join(s.out, "README.md"))
	return nil
}

// markdown writes the page and adds its charts to files.
func (r *report) markdown(files map[string]string) string {
	var b strings.Builder
	b.WriteString("# Moldau beside Apache Kafka\n\n")
	b.WriteString("How this was measured and how to read it: [docs/benchmarks/README.md](../README.md). All runs are in [results.json](results.json).\n\n")
	b.WriteString("| | |\n|---|---|\n")
	for _, f := range r.Facts {
		fmt.Fprintf(&b, "| %s | %s |\n", f.Name, strings.ReplaceAll(f.Value, "|", "\\|"))
	}
	counted := 0
	for _, run := range r.Runs {
		if run.Error == "" && len(run.Invalid) == 0 {
			counted++
		}
	}
	fmt.Fprintf(&b, "\n%d of %d runs count. † marks figures for which no pair counts: the machine was not quiet, read them as a hint only. "+
		"≥ marks a throughput at which the client took most of the machine: the broker could do more.\n", counted, len(r.Runs))
	chart := 0
	group := ""
	for _, f := range figures() {
		rows := r.rows(f)
		if len(rows) == 0 {
			continue
		}
		if f.group != group {
			group = f.group
			fmt.Fprintf(&b, "\n## %s\n", group)
		}
		fmt.Fprintf(&b, "\n### %s\n\n", f.title)
		if f.chart {
			chart++
			name := fmt.Sprintf("chart-%02d.svg", chart)
			files[name] = pairedBars(f.title, f.unit, f.digits, rows)
			fmt.Fprintf(&b, "![%s: %s](%s)\n\n", f.group, f.title, name)
		}
		writeTable(&b, f, rows)
	}
	r.writeMemory(&b)
	r.writeStarts(&b)
	r.writeColds(&b)
	r.writeManies(&b)
	r.writeInvalid(&b)
	return b.String()
}

func (r *report) rows(f figure) (rows []summary) {
	for _, sc := range r.Scenarios {
		if sc.Group != f.group {
			continue
		}
		for _, m := range sc.Modes {
			if s, ok := summarize(r.Runs, f, sc.Name, sc.Title, m); ok {
				rows = append(rows, s)
			}
		}
	}
	return rows
}

func writeTable(b *strings.Builder, f figure, rows []summary) {
	direction := "more is better"
	if f.lowerBetter {
		direction = "less is better"
	}
	fmt.Fprintf(b, "| %s, %s | | Moldau | Kafka | Moldau is better by | pairs |\n|---|---|--:|--:|--:|--:|\n", f.unit, direction)
	for _, s := range rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %d of %d |\n", s.title, s.mode, s.ours(f.digits), number(s.kafka, f.digits), s.better(), s.pairs*truth(!s.doubtful), s.all)
		if s.failed != "" {
			fmt.Fprintf(b, "| | a run failed: %s | | | | |\n", strings.ReplaceAll(s.failed, "|", "\\|"))
		}
	}
}

func truth(v bool) int {
	if v {
		return 1
	}
	return 0
}

// ours is Moldau's value as it is printed.
func (s *summary) ours(digits int) string {
	text := number(s.moldau, digits)
	if s.bound {
		text = "≥ " + text
	}
	return text
}

// better is the ratio as it is printed: median, least and most of the pairs.
func (s *summary) better() string {
	if s.ratio == 0 {
		return "–"
	}
	mark := ""
	if s.doubtful {
		mark = " †"
	}
	return fmt.Sprintf("%.2f× (%.2f–%.2f)%s", s.ratio, s.least, s.most, mark)
}

func number(v float64, digits int) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf("%.*f", digits, v)
}

// writeMemory shows the largest resident set after a run, by broker and mode.
func (r *report) writeMemory(b *strings.Builder) {
	type key struct {
		mode   mode
		broker string
	}
	loaded, idle := map[key]float64{}, map[key][]float64{}
	for _, run := range r.Runs {
		k := key{processMode(run.Mode), run.Broker}
		loaded[k] = max(loaded[k], float64(run.RSSBytes)/(1<<20))
	}
	for _, s := range r.Starts {
		if s.Error == "" {
			k := key{s.Mode, s.Broker}
			idle[k] = append(idle[k], float64(s.IdleBytes)/(1<<20))
		}
	}
	b.WriteString("\n## Memory\n\nResident set of the process: after the first record on an empty directory (median), and the largest after any run above.\n\n" +
		"| MiB, less is better | Moldau first | Kafka first | Moldau loaded | Kafka loaded | Moldau is better by, loaded |\n|---|--:|--:|--:|--:|--:|\n")
	for _, m := range []mode{pageCache, defaults} {
		ours, theirs := key{m, moldau}, key{m, kafka}
		better := "–"
		if loaded[ours] > 0 && loaded[theirs] > 0 {
			better = fmt.Sprintf("%.1f×", loaded[theirs]/loaded[ours])
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", m, number(median(idle[ours]), 0), number(median(idle[theirs]), 0),
			number(loaded[ours], 0), number(loaded[theirs], 0), better)
	}
}

func (r *report) writeStarts(b *strings.Builder) {
	if len(r.Starts) == 0 {
		return
	}
	b.WriteString("\n## Start\n\nSeconds from the start of the process. For Kafka the directory was formatted before; Moldau does that itself. " +
		"The last two have a partition with records to recover, and end with a record that is acknowledged.\n\n" +
		"| less is better | | Moldau | Kafka | Moldau is better by |\n|---|---|--:|--:|--:|\n")
	for _, row := range []struct {
		title string
		of    func(startRun) float64
	}{
		{"to the first answer", func(s startRun) float64 { return s.Start }},
		{"to the first record on a new topic", func(s startRun) float64 { return s.FirstRecord }},
		{"again, after a clean stop", func(s startRun) float64 { return s.Restart }},
		{"again, after kill -9", func(s startRun) float64 { return s.AfterKill }},
	} {
		for _, m := range []mode{pageCache, defaults} {
			pairs := map[int]*pairOf{}
			for _, s := range r.Starts {
				if s.Mode != m {
					continue
				}
				p := pairs[s.Pair]
				if p == nil {
					p = &pairOf{}
					pairs[s.Pair] = p
				}
				p.invalid = p.invalid || len(s.Invalid) > 0 || s.Error != ""
				if s.Broker == moldau {
					p.moldau, p.hasMoldau = row.of(s), row.of(s) > 0
				} else {
					p.kafka, p.hasKafka = row.of(s), row.of(s) > 0
				}
			}
			if len(pairs) == 0 {
				continue
			}
			var sum summary
			sum.take(pairs, true)
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", row.title, m, number(sum.moldau, 3), number(sum.kafka, 3), sum.better())
		}
	}
}

// writeInvalid lists the runs that do not count.
func (r *report) writeInvalid(b *strings.Builder) {
	b.WriteString("\n## Runs that do not count\n\n")
	n := 0
	line := func(scenario, load string, m mode, pair int, broker, failure string, invalid []string) {
		reason := strings.Join(invalid, "; ")
		if failure != "" {
			reason = "failed: " + failure
		}
		if reason == "" {
			return
		}
		if n++; n == 1 {
			b.WriteString("| scenario | load | mode | pair | broker | reason |\n|---|---|---|--:|---|---|\n")
		}
		fmt.Fprintf(b, "| %s | %s | %s | %d | %s | %s |\n", scenario, load, m, pair+1, broker, strings.ReplaceAll(reason, "|", "\\|"))
	}
	for _, run := range r.Runs {
		line(run.Scenario, run.Phase, run.Mode, run.Pair, run.Broker, run.Error, run.Invalid)
	}
	for _, s := range r.Starts {
		line("start", "", s.Mode, s.Pair, s.Broker, s.Error, s.Invalid)
	}
	for _, c := range r.Colds {
		line(c.Scenario, "", pageCache, c.Pair, c.Broker, c.Error, c.Invalid)
	}
	if n == 0 {
		b.WriteString("None.\n")
	}
}
