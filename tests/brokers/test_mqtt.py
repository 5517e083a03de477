"""Messages from a real Mosquitto into the spool: each once, in order, whatever dies."""

import json
import time
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from tests.brokers.mosquitto import Mosquitto
from tests.brokers.mqtt_clients import NAME, Publisher, Taking, expected, numbered, payloads, until


def test_messages_are_taken_in_order_with_their_traces(mosquitto: Mosquitto, tmp_path: Path) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with Publisher(mosquitto.port) as publisher, Taking(mosquitto.port, tmp_path, ["order/#"], "order") as taking:
        publisher.send(numbered(0, 300, "order/x"))
        publisher.send([("order/y", b"z" * 5000)], trace)
        until(lambda: taking.spool.next == 301)
        assert payloads(taking.all) == [
            *expected(0, 300),
            b"z" * 1001,
        ]  # one more byte than the limit: seen as too long
        assert [message.trace for message in taking.all[-2:]] == ["", trace]


def test_what_comes_while_we_are_away_is_there_when_we_are_back(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Publisher(mosquitto.port) as publisher:
        with Taking(mosquitto.port, tmp_path, ["away/#"], "away") as taking:
            publisher.send(numbered(0, 10, "away/x"))
            until(lambda: taking.spool.next == 10)
        publisher.send(numbered(10, 200, "away/x"))
        with Taking(mosquitto.port, tmp_path, ["away/#"], "away") as taking:
            until(lambda: taking.spool.next == 200)
            assert payloads(taking.all) == expected(0, 200)


def test_a_message_that_was_spooled_and_not_acknowledged_is_kept_once(
    mosquitto: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Publisher(mosquitto.port) as publisher:
        taking = Taking(mosquitto.port, tmp_path, ["dup/#"], "dup")
        with monkeypatch.context() as patched:
            patched.setattr(mqtt.Client, "ack", lambda *args: mqtt.MQTT_ERR_SUCCESS)  # dies before it says so
            publisher.send(numbered(0, 20, "dup/x"))
            until(lambda: taking.spool.next == 20)
            taking.cut()
        publisher.send(numbered(20, 30, "dup/x"))
        with Taking(mosquitto.port, tmp_path, ["dup/#"], "dup") as again:
            until(lambda: again.spool.next >= 30)
            publisher.send(numbered(30, 31, "dup/x"))
            until(lambda: again.spool.next >= 31)
            assert payloads(again.all) == expected(0, 31)


def test_equal_messages_one_after_the_other_are_all_kept(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Publisher(mosquitto.port) as publisher, Taking(mosquitto.port, tmp_path, ["same/#"], "same") as taking:
        publisher.send([("same/x", b"72")] * 200)
        until(lambda: taking.spool.next == 200)


def test_a_broker_that_restarts_costs_nothing(own_mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Taking(own_mosquitto.port, tmp_path / "spool", ["t/#"]) as taking:
        with Publisher(own_mosquitto.port) as publisher:
            publisher.send(numbered(0, 50))
        until(lambda: taking.spool.next == 50)
        own_mosquitto.stop()
        until(lambda: not taking.status.snapshot().sources[NAME].connected)
        assert str(own_mosquitto.port) in taking.status.snapshot().sources[NAME].why
        own_mosquitto.start()
        until(lambda: taking.status.snapshot().sources[NAME].connected)
        with Publisher(own_mosquitto.port) as publisher:
            publisher.send(numbered(50, 90))
        until(lambda: taking.spool.next == 90)
        assert payloads(taking.all) == expected(0, 90)


def test_a_full_spool_acknowledges_no_more_and_says_so(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with (
        Publisher(mosquitto.port) as publisher,
        Taking(mosquitto.port, tmp_path, ["full/#"], "full", bytes_max=8000) as taking,
    ):
        publisher.send(numbered(0, 400, "full/x"))
        until(lambda: not taking.status.snapshot().sources[NAME].connected)
        assert "the spool is full" in taking.status.snapshot().sources[NAME].why
        got: list[bytes] = []
        while len(got) < 400:
            some = taking.spool.read(len(got), 40)
            got += payloads(some)
            taking.spool.release(len(got))
            time.sleep(0.01)
        assert got == expected(0, 400)
        until(lambda: taking.status.snapshot().sources[NAME].connected)


def test_the_last_will_is_heard_and_taken_back(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Publisher(mosquitto.port) as publisher:
        publisher.listen("site/status")
        taking = Taking(mosquitto.port, tmp_path, ["will/#"], "will", status_topic="site/status")
        until(lambda: [message.payload for message in publisher.heard] == [b"online"])
        taking.cut()
        until(lambda: [message.payload for message in publisher.heard] == [b"online", b"offline"])
        with Taking(mosquitto.port, tmp_path, ["will/#"], "will", status_topic="site/status"):
            until(lambda: [message.payload for message in publisher.heard[2:]] == [b"online"])
        until(lambda: [message.payload for message in publisher.heard[3:]] == [b"offline"])
    with Publisher(mosquitto.port) as late:
        late.listen("site/status")
        until(lambda: late.heard)
        assert late.heard[0].retain


def test_a_shared_subscription_over_two_clients_loses_and_doubles_nothing(mosquitto: Mosquitto, tmp_path: Path) -> None:
    filters = ["$share/group/share/#"]
    with (
        Publisher(mosquitto.port) as publisher,
        Taking(mosquitto.port, tmp_path / "a", filters, "share-a") as one,
        Taking(mosquitto.port, tmp_path / "b", filters, "share-b") as other,
    ):
        publisher.send(numbered(0, 400, "share/x"))
        until(lambda: one.spool.next + other.spool.next == 400)
        assert one.spool.next > 50
        assert other.spool.next > 50
        assert sorted(map(int, payloads(one.all) + payloads(other.all))) == list(range(400))


def test_a_filter_that_is_not_wanted_any_more_brings_nothing(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with Publisher(mosquitto.port) as publisher:
        with Taking(mosquitto.port, tmp_path, ["old/#"], "filters"):
            pass
        with Taking(mosquitto.port, tmp_path, ["new/#"], "filters") as taking:
            until(lambda: json.loads((tmp_path / "subscribed.json").read_text()) == ["new/#"])
            publisher.send([*numbered(0, 5, "old/x"), *numbered(5, 9, "new/x")])
            until(lambda: taking.spool.next >= 4)
            assert payloads(taking.all) == expected(5, 9)
