"""Reads with librdkafka in a group of the consumer protocol (KIP-848), commits and leaves.

Usage: consumer_protocol.py BOOTSTRAP GROUP TOPIC RECORDS
TOPIC may be a pattern that begins with ^. Prints each record as PARTITION/OFFSET.
"""
import sys
import time

from confluent_kafka import Consumer

bootstrap, group, topic, records = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "group.protocol": "consumer", "auto.offset.reset": "earliest",
                     "enable.auto.commit": False})
consumer.subscribe([topic])
left, end = int(records), time.time() + 120
while left > 0 and time.time() < end:
    m = consumer.poll(0.2)
    if m is None:
        continue
    if m.error():
        sys.exit(str(m.error()))
    print(f"{m.partition()}/{m.offset()}")
    left -= 1
consumer.commit(asynchronous=False)
consumer.close()
