// Package clients holds the tests in which clients that we did not write use the broker as they use Apache Kafka: Kafka's own tools,
// Connect and MirrorMaker, kcat, confluent-kafka, kafka-python, aiokafka, kafkajs, sarama, franz-go and Kafka's Java consumer. The broker is
// a process of its own, reached over TCP only; what a client must not notice (kill -9, bad input from a neighbour) is tested here as well.
//
// The tests have the build tag clients and do not run with go test ./...; make test-clients installs the tools (see install) and runs
// them. A missing tool is a failure. MOLDAU_TARGET=kafka runs the same tests against Apache Kafka instead: what fails there is a
// mistake of the test. testdata/parity holds what members of a group have logged, and what Kafka's tool has printed of groups, with Apache Kafka;
// make parity asks both brokers.
//
// Each test starts a broker of its own on an empty directory. Invariants that every test has: the broker ends when told to, and it has
// not written of a panic, of a data race or of a broken invariant.
package clients
