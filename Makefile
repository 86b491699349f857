# Moldau needs none of this: go run ./cmd/moldau server, go test ./... . These are the longer runs of its developers.

GO ?= go
STATICCHECK_VERSION := v0.8.2
CLIENTS := $(GO) test -tags clients -count=1 ./test/clients/

.DEFAULT_GOAL := help
.PHONY: $(shell awk -F: '/^[a-z0-9-]+:/ { print $$1 }' $(MAKEFILE_LIST)) many

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/moldau, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/moldau ./cmd/moldau

check: ## before a commit: format, vet for three systems, staticcheck, tidy, short tests with the race detector
	@files=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$files" ]; then echo "not formatted (gofmt -w):"; echo "$$files"; exit 1; fi
	$(GO) mod tidy -diff
	GOOS=linux $(GO) vet ./...
	GOOS=linux $(GO) vet -tags clients ./test/clients/
	GOOS=darwin $(GO) vet ./...
	GOOS=windows $(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION) -tags clients ./...
	$(GO) test -race -short ./...

test: ## all tests that need nothing but Go
	$(GO) test ./...

test-clients: install-clients ## real clients and Kafka's tools against the broker; as root on Debian 12 it installs them itself
	$(CLIENTS) -timeout 40m -v

install-clients:
	test/clients/install

bench: ## the benchmarks of all packages
	$(GO) test -run '^$$' -bench . -benchmem ./...

bench-kafka: ## Moldau beside Apache Kafka on this machine, about half an hour; BENCH_FLAGS=--full takes hours; needs Java and Maven
	$(GO) run ./test/bench $(BENCH_FLAGS)

# Produce with and without compression, consume, latencies, Kafka's own clients, memory, starts and cold reads: what the data path is judged by.
DATA_PATH = ^(produce-1024-|produce-large|consume-|latency$$|(producer|consumer)-perf-|start$$|cold-(20|100)$$)

bench-data-path: ## the part of bench-kafka that the data path is judged by, about 35 minutes; as root also cold reads; BENCH_FLAGS adds to it
	$(GO) run ./test/bench --scenario '$(DATA_PATH)' $(BENCH_FLAGS)

fuzz: ## every fuzz target for FUZZTIME (default 30s)
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $${FUZZTIME:-30s} $$pkg; \
	  done; \
	done

kill9: ## KILLS (default 100) times kill -9 under load, nothing lost and nothing twice
	KILLS=$${KILLS:-100} $(CLIENTS) -timeout 4h -v -run '^TestKill9$$'

kill9-groups: install-clients ## KILLS (default 200) times kill -9 while members of a group join, leave and commit; then again with both group protocols
	KILLS=$${KILLS:-200} $(CLIENTS) -timeout 6h -v -run '^TestKill9(Consumer)?Groups$$'

group-scale: install-clients ## a group of MEMBERS (default 1000), MANY (default 5000) groups: memory, processor time, heartbeats of others meanwhile; first Apache Kafka, then Moldau
	@ulimit -n $$(ulimit -Hn); GROUP_SCALE=kafka MEMBERS=$${MEMBERS:-1000} MANY=$${MANY:-5000} $(CLIENTS) -timeout 1h -v -run '^TestGroupScale$$'

parity: install-clients ## members of groups with seven clients and both protocols, and Kafka's tool for groups, against Apache Kafka and Moldau side by side
	PARITY=live $(CLIENTS) -timeout 30m -v -run '^Test(Groups|GroupTools|QuotaTool)Parity$$'

parity-record: install-clients ## write Kafka's logs, with which test-clients compares, anew
	MOLDAU_TARGET=kafka PARITY=record $(CLIENTS) -timeout 30m -v -run '^Test((Groups|GroupTools|QuotaTool)Parity|SecurityClients|DelegationTokens)$$'

group-join: install-clients ## JOINS (default 5) times one more member joins a group of fifty: for how long partitions stand still, beside Apache Kafka
	JOINS=$${JOINS:-5} $(CLIENTS) -timeout 2h -v -run '^TestJoinFigures$$'

acl-parity: ## SEEDS (default 20) random worlds of 200 rules, 5000 questions each, to Kafka's StandardAuthorizer and to Moldau, from SEED (default 1000) on; needs Java
	$(GO) test -count=1 -timeout 1h -v -run '^TestAnswersAreKafkas$$' ./internal/acl/acltest -acl.live=$${SEEDS:-20} -acl.seed=$${SEED:-1000}

access-record: ## write anew what Kafka's brokers answer to clients with few rights, with which internal/handler compares; needs Java
	test/clients/kafka/access-record

quotas: install-clients ## two tenants, one at full speed with a quota of 5 MB/s each way: its rates over QUOTA_SECONDS (default 30), the other's p99; Moldau and Apache Kafka, QUOTA_RUNS (default 1) times
	QUOTA_SECONDS=$${QUOTA_SECONDS:-30} $(CLIENTS) -timeout 2h -v -run '^TestQuotas$$'

roundtrip: install-clients ## at least 1 GB of text through every codec and four clients
	ROUNDTRIP_BYTES=$${ROUNDTRIP_BYTES:-1073741824} $(CLIENTS) -timeout 6h -v -run '^TestRoundTrip$$'

powerloss: ## SEEDS (default 1000) brokers under load lose their power again and again, nothing acknowledged is lost
	SEEDS=$${SEEDS:-1000} $(GO) test -count=1 -timeout 2h -v -run '^TestPowerLoss' ./test/chaos/

compaction: install-clients ## KEYS (default 10000000) keys by a Java producer, compacted, killed in the middle, read back and dumped
	KEYS=$${KEYS:-10000000} $(CLIENTS) -timeout 12h -v -run '^TestCompactedTopic$$'

storage-rot: ## SEEDS (default 5000) seeds of the model test of the log with bits that change on the disk, from SEED (default 1) on
	$(GO) test -count=1 -timeout 12h -v -run '^TestModelFlips$$' ./internal/storage -storage.seeds=$${SEEDS:-5000} -storage.seed=$${SEED:-1}

storage-model: ## SEEDS (default 5000) seeds of the model test of the log, from SEED (default 1) on
	$(GO) test -count=1 -timeout 12h -v -run '^TestModel$$' ./internal/storage -storage.seeds=$${SEEDS:-5000} -storage.seed=$${SEED:-1}

group-world: ## SEEDS (default 3000) seeds of simulated groups: joins, leaves, losses, crashes, on a fake clock
	GROUP_SEEDS=$${SEEDS:-3000} $(GO) test -count=1 -timeout 2h -v -run '^TestWorld' ./internal/coordinator/group

cross: ## build and vet for macOS and Windows too
	@for os in darwin windows; do echo "== $$os"; GOOS=$$os $(GO) build -o /dev/null ./cmd/moldau && GOOS=$$os $(GO) vet ./... || exit 1; done

connections: ## CONNECTIONS (default 10000) idle connections beside a hundredth of active ones; needs twice as many descriptors
	@ulimit -n $$(ulimit -Hn); CONNECTIONS=$${CONNECTIONS:-10000} $(GO) test -count=1 -timeout 30m -v -run '^TestConnections$$' ./test/mission/

storm: ## CONNECTIONS (default 20000) that do not authenticate, of thirteen kinds: what a producer gets alone and beside them, in turns of STORM_SECONDS (default 5); needs more descriptors than CONNECTIONS
	@ulimit -n $$(ulimit -Hn); CONNECTIONS=$${CONNECTIONS:-20000} STORM_SECONDS=$${STORM_SECONDS:-5} $(GO) test -count=1 -timeout 1h -v -run '^TestStorm$$' ./test/mission/

retained: ## processor time of appends and fetches with RETAINED_BYTES (default 1 GiB) in segments of SEGMENT_BYTES (default 1 MiB) behind them
	RETAINED_BYTES=$${RETAINED_BYTES:-1073741824} $(GO) test -count=1 -timeout 2h -v -run '^TestRetainedCPU$$' ./internal/storage

soak: ## SOAK (default 1h) of everything that comes and goes; goroutines, descriptors and memory stay what they were; SEED chooses
	SOAK=$${SOAK:-1h} $(GO) test -count=1 -timeout 24h -v -run '^TestSoak$$' ./test/mission/

many: ## PARTITIONS (default 10000) partitions over stops and kills: memory, the times of stop, start, first and second record, what answers with all of them cost
	PARTITIONS=$${PARTITIONS:-10000} $(GO) test -count=1 -timeout 2h -v -run '^TestManyPartitions$$' ./test/mission/

few-descriptors: ## PARTITIONS (default 2000) partitions and more clients than a broker with ulimit -n 256, and one with 1024, has descriptors for
	PARTITIONS=$${PARTITIONS:-2000} $(GO) test -count=1 -timeout 30m -v -run '^TestFewDescriptors$$' ./test/mission/

recovery: ## ten partitions of RECOVERY_BYTES (default 1 GiB) after kill -9; prints the time by partition
	RECOVERY_BYTES=$${RECOVERY_BYTES:-1073741824} $(CLIENTS) -timeout 2h -v -run '^TestRecovery$$'

start-figures: ## 20 starts, memory and processor time when idle, as a table
	STARTS=$${STARTS:-20} IDLE_SECONDS=$${IDLE_SECONDS:-30} $(CLIENTS) -timeout 1h -v -run '^TestStartIdle$$'
