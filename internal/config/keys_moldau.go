package config

// moldauKeys: what Kafka has no property for.
func moldauKeys() []Key {
	return []Key{
		{Name: "moldau.audit.log", Type: String, Default: "", Importance: Low, State: Used,
			Doc: "File that gets a line of JSON for everything that access control denies and every change of its rules, kept below 16 MiB and once more as FILE.1; off for none. Empty is audit.log in the metadata directory."},
		{Name: "moldau.group.history.bytes", Type: Int, Default: "8388608", Valid: atLeast(0), Importance: Low, State: Used,
			Doc: "Memory for what happened to groups, which moldau group explain shows, shared by all groups that the broker coordinates; the groups with the most events forget first. 0 keeps nothing."},
		{Name: "moldau.group.metrics.partitions", Type: Int, Default: "10000", Valid: atLeast(0), Importance: Low, State: Used,
			Doc: "Committed offsets with series of their own in /metrics, five each at most: whole groups in the order of their names, as long as there is room. moldau_consumergroups_left_out counts the others. 0 leaves out all."},
		{Name: "moldau.http.details", Type: String, Default: "auto", Valid: oneOf("auto", "local", "all"), Importance: Low, State: Used,
			Doc: "Who gets /group, /quota and /debug/pprof of the HTTP listener: all, or local, who asks on the broker's own machine. auto is local where access control is on or a listener asks its clients who they are. /live, /ready and /metrics are for all."},
		{Name: "moldau.http.listener", Type: String, Default: "localhost:9644", Valid: hostPortOrOff(), Importance: Medium, State: Used,
			Doc: "Address of /live, /ready, /metrics, /group, /quota and /debug/pprof as host:port, or off. No host means every interface; port 0 picks a free one."},
		{Name: "moldau.log.scrub.bytes.per.second", Type: Long, Default: "1000000", Valid: atLeast(0), Importance: Low, Dynamic: ClusterWide, State: Used,
			Doc: "Rate at which segments are read in the background to find damage on the disk before a consumer does; 0 does not look. A terabyte takes twelve days at the default."},
		{Name: "moldau.metastore.election.ms", Type: Int, Default: "150", Valid: between(50, 50000), Importance: Low, State: Used,
			Doc: "Silence after which a member of the metadata store stands for election; at least five ticks."},
		{Name: "moldau.metastore.tick.ms", Type: Int, Default: "30", Valid: between(10, 10000), Importance: Low, State: Used,
			Doc: "Heartbeat of the metadata store. Shorter ticks start faster and cost more when idle."},
		{Name: "moldau.produce.validation", Type: String, Default: "full", Valid: oneOf("full", "header"), Importance: Low, Dynamic: ClusterWide, State: Used,
			Doc: "How produced batches are checked: full walks every record; header does not inflate a compressed batch where no rule of its topic needs the records, but for the first of a connection and a random sample."},
		{Name: "moldau.request.slow.ms", Type: Long, Default: "1000", Valid: atLeast(0), Importance: Low, State: Used,
			Doc: "Requests that take longer are logged with the time of each stage; 0 logs none."},
		{Name: "moldau.stall.ms", Type: Long, Default: "500", Valid: atLeast(0), Importance: Low, State: Used,
			Doc: "When the process does not run for so long, or the own work of one request takes longer, the log says so; 0 never looks."},
		{Name: "moldau.stall.trace", Type: Boolean, Default: "false", Importance: Low, State: Used,
			Doc: "Record what the scheduler does, and write the last ten seconds to stalls/ in the metadata directory when there is a stall, for go tool trace."},
		{Name: "moldau.tls", Type: String, Default: "off", Valid: oneOf("off", "auto"), Importance: Medium, State: Used,
			Doc: "auto makes a CA and a certificate in tls/ of the metadata directory, for listeners with TLS that have no keystore of their own, and tells what clients need."},
	}
}
