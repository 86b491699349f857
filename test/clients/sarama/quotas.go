package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// quotas gives a user a quota, is refused another one, prints all quotas of entities with that user, and takes its own back.
func quotas(version sarama.KafkaVersion, bootstrap, user string) error {
	c := sarama.NewConfig()
	c.Version = version
	admin, err := sarama.NewClusterAdmin([]string{bootstrap}, c)
	if err != nil {
		return err
	}
	defer admin.Close()
	entity := []sarama.QuotaEntityComponent{{EntityType: sarama.QuotaEntityUser, MatchType: sarama.QuotaMatchExact, Name: user}}
	if err := admin.AlterClientQuotas(entity, sarama.ClientQuotasOp{Key: "consumer_byte_rate", Value: 2048}, false); err != nil {
		return err
	}
	fmt.Println("refused:", admin.AlterClientQuotas(entity, sarama.ClientQuotasOp{Key: "consumer_byte_rate", Value: -1}, false))
	filter := []sarama.QuotaFilterComponent{{EntityType: sarama.QuotaEntityUser, MatchType: sarama.QuotaMatchExact, Match: user}}
	var lines []string
	for until := time.Now().Add(patience); len(lines) < 2 && time.Now().Before(until); time.Sleep(20 * time.Millisecond) { // a broker may learn it later
		lines = nil
		entries, err := admin.DescribeClientQuotas(filter, false)
		if err != nil {
			return err
		}
		for _, e := range entries {
			var parts []string
			for _, p := range e.Entity {
				parts = append(parts, string(p.EntityType)+"="+p.Name)
			}
			for _, k := range slices.Sorted(maps.Keys(e.Values)) {
				parts = append(parts, fmt.Sprint(k, "=", e.Values[k]))
			}
			slices.Sort(parts)
			lines = append(lines, strings.Join(parts, " "))
		}
	}
	slices.Sort(lines)
	fmt.Println(strings.Join(lines, "\n"))
	return admin.AlterClientQuotas(entity, sarama.ClientQuotasOp{Key: "consumer_byte_rate", Remove: true}, false)
}
