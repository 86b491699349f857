"""One member of a group with one of the Python clients. What a member is told and what it reports is described in members_test.go.

    member.py LIBRARY BOOTSTRAP GROUP TOPIC NAME ASSIGNOR SESSION_MS [INSTANCE]

LIBRARY is confluent-kafka, kafka-python or aiokafka. Only the first has patterns, names of instances and assignors of the broker.
"""

import asyncio
import json
import queue
import sys
import threading
import time

HEARTBEAT_MS = 300
REMOTE = "consumer-"  # an assignor of the broker
MORE = "-more"
output = threading.Lock()


def say(event, **rest):
    t = time.time_ns() // 1000
    with output:
        print(json.dumps({"t": t, "event": event, **rest}), flush=True)


def say_error(doing, e):
    say("error", error=f"{doing}: {e}")


class Positions:
    """What to commit: the offset after the last record read, by partition owned."""

    def __init__(self):
        self.next = {}

    def read(self, partition, offset):
        say("read", partition=partition, offset=offset)
        self.next[partition] = offset + 1

    def gone(self, event, partitions):
        partitions = sorted(partitions)
        say(event, partitions=partitions)
        for p in partitions:
            self.next.pop(p, None)


def commands_of_stdin(put):
    """Hands every command over, the last one being leave."""

    def run():
        for line in sys.stdin:
            put(line.split())
        put(["leave"])

    threading.Thread(target=run, daemon=True).start()


def confluent(bootstrap, group, subscription, name, assignor, session_ms, instance=None):
    from confluent_kafka import Consumer, TopicPartition

    positions = Positions()
    topic = subscription.removeprefix("^").removesuffix(".*")

    def number(tp):
        return tp.partition + (100 if tp.topic.endswith(MORE) else 0)

    def partition(number, *offset):
        return TopicPartition(topic, number, *offset) if number < 100 else TopicPartition(topic + MORE, number - 100, *offset)

    def committed(err, partitions):
        if err is not None:
            say_error("commit", err.name())
            return
        say("committed", offsets={str(number(p)): p.offset for p in partitions})

    config = {
        "bootstrap.servers": bootstrap, "group.id": group, "client.id": name, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "fetch.wait.max.ms": 100, "on_commit": committed,
    }
    if assignor.startswith(REMOTE):  # the broker has the times
        config |= {"group.protocol": "consumer", "group.remote.assignor": assignor.removeprefix(REMOTE)}
    else:
        config |= {"partition.assignment.strategy": assignor, "session.timeout.ms": session_ms, "heartbeat.interval.ms": HEARTBEAT_MS}
    if instance:
        config["group.instance.id"] = instance
    consumer = Consumer(config)
    # The library assigns and unassigns by itself after the callbacks.
    consumer.subscribe(
        [subscription],
        on_assign=lambda _, tps: say("assigned", partitions=sorted(map(number, tps))),
        on_revoke=lambda _, tps: positions.gone("revoked", map(number, tps)),
        on_lost=lambda _, tps: positions.gone("lost", map(number, tps)),
    )
    commands = queue.Queue()
    commands_of_stdin(commands.put)
    while True:
        m = consumer.poll(0.05)
        while m is not None:
            if m.error():
                say_error("poll", m.error().name())
                if m.error().fatal():  # it is of no use any more
                    consumer.close()
                    say("left")
                    return
            else:
                positions.read(number(TopicPartition(m.topic(), m.partition())), m.offset())
            m = consumer.poll(0)
        while not commands.empty():
            command, *args = commands.get()
            if command == "leave":
                consumer.close()
                say("left")
                return
            if command == "commit":
                offsets = [partition(p, o) for p, o in positions.next.items()]
                if args[0] == "async":
                    consumer.commit(offsets=offsets, asynchronous=True)  # committed is called
                else:
                    done = consumer.commit(offsets=offsets, asynchronous=False)
                    failed = [tp for tp in done if tp.error]
                    if failed:
                        say_error("commit", failed[0].error.name())
                    else:
                        say("committed", offsets={str(number(tp)): tp.offset for tp in done})
            elif command == "seek":
                consumer.seek(partition(int(args[0]), int(args[1])))
            elif command == "pause":
                consumer.pause([partition(int(args[0]))])
            elif command == "resume":
                consumer.resume([partition(int(args[0]))])
            say("done", command=command)


def kafka_python(bootstrap, group, topic, name, assignor, session_ms):
    from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
    from kafka.coordinator.assignors.range import RangePartitionAssignor
    from kafka.structs import OffsetAndMetadata

    positions = Positions()

    class Listener(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            say("assigned", partitions=sorted(tp.partition for tp in assigned))

        def on_partitions_revoked(self, revoked):
            positions.gone("revoked", [tp.partition for tp in revoked])

        def on_partitions_lost(self, lost):
            positions.gone("lost", [tp.partition for tp in lost])

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, client_id=name, session_timeout_ms=session_ms, heartbeat_interval_ms=HEARTBEAT_MS,
        auto_offset_reset="earliest", enable_auto_commit=False, fetch_max_wait_ms=100,
        partition_assignment_strategy=[{"range": RangePartitionAssignor, "cooperative-sticky": CooperativeStickyAssignor}[assignor]],
    )
    consumer.subscribe([topic], listener=Listener())
    commands = queue.Queue()
    commands_of_stdin(commands.put)

    def async_committed(offsets, result):
        if isinstance(result, Exception):
            say_error("commit", type(result).__name__)
        else:
            say("committed", offsets={str(tp.partition): o.offset for tp, o in offsets.items()})

    while True:
        for batch in consumer.poll(timeout_ms=50).values():
            for r in batch:
                positions.read(r.partition, r.offset)
        while not commands.empty():
            command, *args = commands.get()
            if command == "leave":
                consumer.close()
                say("left")
                return
            if command == "commit":
                offsets = {TopicPartition(topic, p): OffsetAndMetadata(o, "", -1) for p, o in positions.next.items()}
                if args[0] == "async":
                    consumer.commit_async(offsets, callback=async_committed)
                else:
                    try:
                        consumer.commit(offsets)
                        say("committed", offsets={str(p): o for p, o in positions.next.items()})
                    except Exception as e:
                        say_error("commit", type(e).__name__)
            elif command == "seek":
                consumer.seek(TopicPartition(topic, int(args[0])), int(args[1]))
            elif command == "pause":
                consumer.pause(TopicPartition(topic, int(args[0])))
            elif command == "resume":
                consumer.resume(TopicPartition(topic, int(args[0])))
            say("done", command=command)


async def aiokafka(bootstrap, group, topic, name, assignor, session_ms):
    from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
    from aiokafka.coordinator.assignors.range import RangePartitionAssignor

    positions = Positions()

    class Listener(ConsumerRebalanceListener):
        async def on_partitions_assigned(self, assigned):
            say("assigned", partitions=sorted(tp.partition for tp in assigned))

        async def on_partitions_revoked(self, revoked):
            positions.gone("revoked", [tp.partition for tp in revoked])

    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, client_id=name, session_timeout_ms=session_ms, heartbeat_interval_ms=HEARTBEAT_MS,
        auto_offset_reset="earliest", enable_auto_commit=False, fetch_max_wait_ms=100,
        partition_assignment_strategy=[{"range": RangePartitionAssignor}[assignor]],
    )
    consumer.subscribe([topic], listener=Listener())
    commands = asyncio.Queue()
    loop = asyncio.get_running_loop()
    commands_of_stdin(lambda c: loop.call_soon_threadsafe(commands.put_nowait, c))
    await consumer.start()

    async def commit():
        offsets = dict(positions.next)
        try:
            await consumer.commit({TopicPartition(topic, p): o for p, o in offsets.items()})
            say("committed", offsets={str(p): o for p, o in offsets.items()})
        except Exception as e:
            say_error("commit", type(e).__name__)

    committing = set()
    while True:
        for batch in (await consumer.getmany(timeout_ms=50)).values():
            for r in batch:
                positions.read(r.partition, r.offset)
        while not commands.empty():
            command, *args = commands.get_nowait()
            if command == "leave":
                await asyncio.gather(*committing)
                await consumer.stop()
                say("left")
                return
            if command == "commit":
                if args[0] == "async":
                    task = asyncio.create_task(commit())
                    committing.add(task)
                    task.add_done_callback(committing.discard)
                else:
                    await commit()
            elif command == "seek":
                consumer.seek(TopicPartition(topic, int(args[0])), int(args[1]))
            elif command == "pause":
                consumer.pause(TopicPartition(topic, int(args[0])))
            elif command == "resume":
                consumer.resume(TopicPartition(topic, int(args[0])))
            say("done", command=command)


def main():
    library, bootstrap, group, topic, name, assignor, session_ms, *instance = sys.argv[1:]
    args = bootstrap, group, topic, name, assignor, int(session_ms), *instance
    if library == "aiokafka":
        asyncio.run(aiokafka(*args))
    else:
        {"confluent-kafka": confluent, "kafka-python": kafka_python}[library](*args)


if __name__ == "__main__":
    main()
