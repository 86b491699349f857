"""Connects with one of the Python clients, as the lines of its input say, and prints one line for each: the case, and ok or what the client calls the error.

    secure.py LIBRARY    confluent-kafka or aiokafka

A line has tabs between case, bootstrap server, security.protocol, sasl.mechanism, user, password or token, and file of the CA; what is not
needed is a dash.
"""

import asyncio
import logging
import ssl
import sys
import time


def confluent(server, protocol, mechanism, user, secret, ca):
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    seen = []
    conf = {"bootstrap.servers": server, "security.protocol": protocol, "error_cb": lambda e: seen.append(e.name()), "log_level": 0}
    if protocol.endswith("SSL"):
        conf["ssl.ca.location"] = ca
    if protocol.startswith("SASL"):
        conf["sasl.mechanism"] = mechanism
        if mechanism == "OAUTHBEARER":
            conf["oauth_cb"] = lambda _: (secret, time.time() + 3600)
        else:
            conf["sasl.username"], conf["sasl.password"] = user, secret
    client = AdminClient(conf)
    until = time.time() + 30
    while time.time() < until:
        try:
            client.list_topics(timeout=1)
            return "ok"
        except KafkaException:
            client.poll(0)
            for name in seen:
                if name in ("_AUTHENTICATION", "_SSL"):
                    return name
    return "nothing"


def aio(server, protocol, mechanism, user, secret, ca):
    import aiokafka
    from aiokafka.abc import AbstractTokenProvider
    from aiokafka.admin import AIOKafkaAdminClient

    class Token(AbstractTokenProvider):
        async def token(self):
            return secret

    async def connect():
        args = {"bootstrap_servers": server, "security_protocol": protocol, "request_timeout_ms": 10000}
        if protocol.endswith("SSL"):
            args["ssl_context"] = ssl.create_default_context(cafile=ca)
        if protocol.startswith("SASL"):
            args["sasl_mechanism"] = mechanism
            if mechanism == "OAUTHBEARER":
                args["sasl_oauth_token_provider"] = Token()
            else:
                args["sasl_plain_username"], args["sasl_plain_password"] = user, secret
        client = AIOKafkaAdminClient(**args)
        try:
            await client.start()
            await client.describe_cluster()
            return "ok"
        except Exception as e:
            return type(e).__name__
        finally:
            await client.close()

    logging.disable(logging.CRITICAL)
    return asyncio.run(connect())


if __name__ == "__main__":
    connect = {"confluent-kafka": confluent, "aiokafka": aio}[sys.argv[1]]
    for line in sys.stdin:
        case, *rest = line.rstrip("\n").split("\t")
        print(case, connect(*rest), sep="\t", flush=True)
