"""Produces and reads with one of the Python clients.

    client.py LIBRARY produce BOOTSTRAP TOPIC NAME   records of every codec to the codec's partition; prints "CODEC FIRST LAST" offsets
    client.py LIBRARY digest BOOTSTRAP TOPIC         reads everything; prints "PARTITION COUNT FIRST NEXT SHA256" lines

LIBRARY is confluent-kafka, kafka-python or aiokafka. Partitions are assigned, no group is involved. The records to produce
are described in otherclients_test.go, the digest in digest_test.go.
"""

import asyncio
import hashlib
import struct
import sys
import time

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]  # the index is the partition
RECORDS = 40
PATIENCE_S = 60


def records(name, codec):
    """(key, value, headers) of each record that NAME produces with a codec."""
    for i in range(RECORDS):
        key = None if i == 1 else f"{name}/{codec}/{i}".encode()
        value = None if i == 0 else b"" if i == 2 else f"{name} writes {codec} record {i}. ".encode() * i
        yield key, value, [("client", name.encode()), ("i", str(i).encode()), ("empty", b"")]


class Digest:
    def __init__(self):
        self.sha, self.count, self.first, self.next = hashlib.sha256(), 0, None, 0

    def add(self, offset, timestamp, key, value, headers):
        parts = [struct.pack(">qq", offset, timestamp), *framed(key), *framed(value), struct.pack(">i", len(headers))]
        for k, v in headers:
            parts += framed(k.encode())
            parts += framed(v)
        self.sha.update(b"".join(parts))
        if self.first is None:
            self.first = offset
        self.next = offset + 1
        self.count += 1


def framed(b):
    return (struct.pack(">i", -1),) if b is None else (struct.pack(">i", len(b)), b)


def print_digests(digests):
    for p in sorted(digests):
        d = digests[p]
        print(p, d.count, d.first or 0, d.next, d.sha.hexdigest())


def confluent_produce(bootstrap, topic, name):
    from confluent_kafka import Producer

    for partition, codec in enumerate(CODECS):
        offsets = []

        def delivered(err, msg):
            if err:
                raise SystemExit(f"{codec}: {err}")
            offsets.append(msg.offset())

        producer = Producer({
            "bootstrap.servers": bootstrap, "compression.type": codec, "enable.idempotence": True, "linger.ms": 20,
            "topic.metadata.refresh.interval.ms": 1000,
        })
        for key, value, headers in records(name, codec):
            producer.produce(topic, partition=partition, key=key, value=value, headers=headers, on_delivery=delivered)
        if producer.flush(PATIENCE_S):
            raise SystemExit(f"{codec}: not all records were delivered")
        print(codec, offsets[0], offsets[-1])


def confluent_digest(bootstrap, topic):
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True,
        "check.crcs": True, "auto.offset.reset": "error", "queued.max.messages.kbytes": 32768,
    })
    partitions = sorted(consumer.list_topics(topic, timeout=PATIENCE_S).topics[topic].partitions)
    digests = {p: Digest() for p in partitions}
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
    at_end = set()
    deadline = time.monotonic() + PATIENCE_S
    while len(at_end) < len(partitions):
        # It waits for that many or that long, so the timeout is what the tail of a topic costs.
        batch = consumer.consume(num_messages=10000, timeout=0.2)
        if batch:
            deadline = time.monotonic() + PATIENCE_S
        elif time.monotonic() > deadline:
            raise SystemExit(f"no record for {PATIENCE_S} s; at the end: {sorted(at_end)} of {partitions}")
        for m in batch:
            if m.error():
                if m.error().code() == KafkaError._PARTITION_EOF:
                    at_end.add(m.partition())
                    continue
                raise SystemExit(str(m.error()))
            digests[m.partition()].add(m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or [])
    consumer.close()
    print_digests(digests)


def kafka_python_produce(bootstrap, topic, name):
    from kafka import KafkaProducer

    for partition, codec in enumerate(CODECS):
        producer = KafkaProducer(
            bootstrap_servers=bootstrap, compression_type=None if codec == "none" else codec, acks="all", linger_ms=20,
        )
        futures = [producer.send(topic, value=value, key=key, headers=headers, partition=partition)
                   for key, value, headers in records(name, codec)]
        offsets = [f.get(timeout=PATIENCE_S).offset for f in futures]
        producer.close()
        print(codec, offsets[0], offsets[-1])


def kafka_python_digest(bootstrap, topic):
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="none",
                             check_crcs=True)
    partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    digests = {tp.partition: Digest() for tp in partitions}
    ends = consumer.end_offsets(partitions)
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    deadline = time.monotonic() + PATIENCE_S
    while any(consumer.position(tp) < ends[tp] for tp in partitions):
        if time.monotonic() > deadline:
            raise SystemExit(f"not at the end after {PATIENCE_S} s")
        for tp, batch in consumer.poll(timeout_ms=500).items():
            for r in batch:
                digests[tp.partition].add(r.offset, r.timestamp, r.key, r.value, r.headers)
    consumer.close()
    print_digests(digests)


async def aiokafka_produce(bootstrap, topic, name):
    from aiokafka import AIOKafkaProducer

    for partition, codec in enumerate(CODECS):
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, compression_type=None if codec == "none" else codec,
                                    enable_idempotence=True, linger_ms=20)
        await producer.start()
        try:
            futures = [await producer.send(topic, value=value, key=key, headers=headers, partition=partition)
                       for key, value, headers in records(name, codec)]
            offsets = [(await asyncio.wait_for(f, PATIENCE_S)).offset for f in futures]
        finally:
            await producer.stop()
        print(codec, offsets[0], offsets[-1])


async def aiokafka_digest(bootstrap, topic):
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False,
                                auto_offset_reset="earliest", check_crcs=True)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
        digests = {tp.partition: Digest() for tp in partitions}
        ends = await consumer.end_offsets(partitions)
        await consumer.seek_to_beginning(*partitions)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            positions = [await consumer.position(tp) for tp in partitions]
            if all(at >= ends[tp] for at, tp in zip(positions, partitions)):
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"not at the end after {PATIENCE_S} s")
            for tp, batch in (await consumer.getmany(timeout_ms=500)).items():
                for r in batch:
                    digests[tp.partition].add(r.offset, r.timestamp, r.key, r.value, r.headers)
    finally:
        await consumer.stop()
    print_digests(digests)


def main():
    library, command, *args = sys.argv[1:]
    function = globals()[f"{library.replace('-kafka', '').replace('-', '_')}_{command}"]
    if asyncio.iscoroutinefunction(function):
        asyncio.run(function(*args))
    else:
        function(*args)


if __name__ == "__main__":
    main()
