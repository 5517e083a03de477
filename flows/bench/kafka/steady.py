"""A steady stream of events, each dated with the clock as it is sent.

As a program it has a process and a core of its own: SERVERS TOPIC SECONDS CORE.
"""

import os
import sys
import time

import numpy as np

from flows.bench.kafka.load import PARTITIONS, key_of
from flows.connectors.kafka.sending import Sending

PER_S = 5_000
TICK_S = 0.001


def send_steadily(servers: str, topic: str, seconds: float) -> None:
    """PER_S events a second, stamped with the clock as they are sent."""
    values = np.round(np.random.default_rng(7).normal(50, 10, PER_S), 2).tolist()
    with Sending(servers) as sending:
        began_s, sent, total = time.monotonic(), 0, int(PER_S * seconds)
        while sent < total:
            due = min(int((time.monotonic() - began_s) * PER_S), total)
            for row in range(sent, due):
                line = b'{"ts":%d,"device":"%s","value":%.2f}' % (
                    time.time_ns() // 1000,
                    key_of(row),
                    values[row % PER_S],
                )
                sending.send(topic, line, key_of(row), row % PARTITIONS)
            sent = due
            sending.poll()
            time.sleep(TICK_S)


if __name__ == "__main__":
    _, to, into, lasting_s, core = sys.argv
    os.sched_setaffinity(0, {int(core)})
    send_steadily(to, into, float(lasting_s))
