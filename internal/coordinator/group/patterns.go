package group

import (
	"fmt"
	"regexp"

	"moldau/internal/wire"
)

// patternPauseMs is the least time between two times that a group's patterns are looked up again.
const patternPauseMs = 10_000

// updatePattern makes a pattern known that the member's subscription has now, and forgets the one that it had when nobody
// else uses it. The draft's member has the new one already.
func (d *draft) updatePattern(old, now string) (changed bool, why *refusal) {
	if old == now {
		return false, nil
	}
	if old != "" && d.c.users(old) == 0 {
		d.dropPattern(old)
	}
	if now != "" && d.c.patterns[now] == nil {
		re, err := compilePattern(now)
		if err != nil {
			return false, &refusal{wire.InvalidRegularExpression, fmt.Sprintf("SubscribedTopicRegex `%s` is not a valid regular expression: %s.", now, err)}
		}
		d.putPattern(now, d.s.resolve(re))
	}
	return true, nil
}

// refreshPatterns looks patterns up again when there are topics that they have not seen, or after a long time. It reports
// whether one stands for other topics than before.
func (d *draft) refreshPatterns() (renewed bool) {
	c, s := d.c, d.s
	if len(c.patterns) == 0 {
		return false
	}
	oldest, version := int64(1<<62), int64(1<<62)
	for _, p := range c.patterns {
		oldest, version = min(oldest, p.resolvedMs), min(version, p.version)
	}
	age := s.now.WallMs - oldest
	if age >= 0 && (age <= patternPauseMs || version >= s.meta.NewTopics && age <= s.cfg.PatternRefreshMs) {
		return false
	}
	for _, pattern := range sortedKeysOf(c.patterns) {
		re, err := compilePattern(pattern)
		if err != nil {
			continue // another writer knew another syntax: it goes on to stand for what it stood for
		}
		r := s.resolve(re)
		renewed = renewed || joinedNames(r.topics) != joinedNames(d.c.patterns[pattern].topics)
		d.putPattern(pattern, r)
	}
	return renewed
}

// compilePattern compiles a pattern. It matches the names of which it matches the whole, see resolve.
func compilePattern(pattern string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(pattern)
	if err == nil {
		re.Longest() // so that a match of the whole name is found if there is one
	}
	return re, err
}

// resolve looks up what a pattern stands for: of all topics those that the client may know of whose request makes it necessary. As in
// Kafka the whole group then has that answer, until the pattern is looked up again.
func (s *Shard) resolve(re *regexp.Regexp) *resolved {
	r := &resolved{version: s.meta.Version, resolvedMs: s.now.WallMs}
	for _, t := range s.meta.byName {
		if at := re.FindStringIndex(t.Name); at != nil && at[0] == 0 && at[1] == len(t.Name) && (s.mayDescribe == nil || s.mayDescribe(t.Name)) {
			r.topics = append(r.topics, t.Name)
		}
	}
	return r
}
