"""Brokers that stop, are killed, move their leaders and lose their logs under the Kafka source."""

import time

import pytest

from schemas.errors import SourceLost, UsageError
from tests.brokers.kafka import Cluster
from tests.brokers.reading import Reading, vital

FAST = {"kafka_watch_s": 0.3}
AWAY_S = 4.0


def test_a_broker_that_is_away_is_waited_for_and_nothing_is_lost(own_kafka: Cluster) -> None:
    topic, broker = own_kafka.create("vitals"), own_kafka.brokers[0]
    own_kafka.produce(topic, [vital(second) for second in range(100)])
    with Reading(f"kafka://{own_kafka.bootstrap}?vitals={topic}", settings=FAST) as reading:
        reading.until(lambda: reading.count() == 100)
        for nth, end in enumerate((broker.stop, broker.kill), 1):
            end()
            reading.until(lambda: not reading.connected())
            said = len(reading.batches["vitals/0"])
            reading.until(lambda: len(reading.batches["vitals/0"]) > said)  # noqa: B023
            before_us, away = reading.batches["vitals/0"][-1].now_us, time.monotonic()
            reading.until(lambda: time.monotonic() - away > AWAY_S)  # noqa: B023
            after_us = reading.batches["vitals/0"][-1].now_us
            assert after_us is not None
            assert before_us is not None
            assert after_us - before_us < 1_000_000  # silence of the broker is no silence of the senders
            broker.start()
            own_kafka.wait()
            own_kafka.produce(topic, [vital(second) for second in range(100 * nth, 100 * nth + 100)])
            reading.until(lambda: reading.count() == 100 * nth + 100, 60)  # noqa: B023
            reading.until(reading.connected)
        assert reading.rows()["offset"].to_list() == list(range(300))
        states = reading.states()

        broker.kill()
        broker.wipe()
        broker.start()
        own_kafka.wait()
        with pytest.raises(SourceLost, match=r"was deleted|made anew|wiped"):
            reading.until(lambda: False, 60)
    own_kafka.create(topic)
    own_kafka.produce(topic, [vital(second) for second in range(400)])
    with pytest.raises(UsageError, match="start with a new --recovery folder"):
        Reading(f"kafka://{own_kafka.bootstrap}?vitals={topic}", states)


def test_a_leader_that_moves_loses_nothing_and_is_no_outage(three_kafkas: Cluster) -> None:
    topic = three_kafkas.create("vitals", 1, 3, min_insync_replicas="2")
    three_kafkas.produce(topic, [vital(second) for second in range(50)])
    with Reading(f"kafka://{three_kafkas.bootstrap}?vitals={topic}", settings=FAST) as reading:
        reading.until(lambda: reading.count() == 50)
        leader = three_kafkas.leader(topic)
        leader.kill()
        three_kafkas.produce(topic, [vital(second) for second in range(50, 100)])
        reading.until(lambda: reading.count() == 100, 60)
        reading.until(reading.connected)
        assert reading.rows()["offset"].to_list() == list(range(100))
