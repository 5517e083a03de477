"""Decisions to the topics of a real Mosquitto."""

import time
from pathlib import Path

import pytest

from flows.connectors.outlets import Item, OutletDown, outlet
from schemas.errors import UsageError
from schemas.settings import Settings
from tests.brokers.mosquitto import Mosquitto
from tests.brokers.mqtt_clients import Publisher, until


def item(number: int, body: bytes = b"", trace: str | None = None) -> Item:
    return Item(number, "decision", f"d{number}", 1, body or b'{"n":%d}' % number, trace)


def test_decisions_are_published_with_id_revision_and_trace(mosquitto: Mosquitto) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with Publisher(mosquitto.port) as hearing:
        hearing.listen("decided/#")
        made = outlet(
            f"mqtt://127.0.0.1:{mosquitto.port}?decisions=decided/all&dead_letters=decided/not", Settings(), "t"
        )
        sent = [item(number) for number in range(100)] + [item(100, trace=trace)]
        assert not made.send(sent)
        assert not made.send([Item(1, "dead_letter", "vitals/0:7:late", 0, b'{"raw":1}')])
        until(lambda: len(hearing.heard) == 102)
        made.close()
    assert [message.payload for message in hearing.heard[:101]] == [each.body for each in sent]
    assert hearing.heard[101].topic == "decided/not"
    assert hearing.heard[0].properties.UserProperty == [("id", "d0"), ("revision", "1")]
    assert hearing.heard[100].properties.UserProperty == [("id", "d100"), ("revision", "1"), ("traceparent", trace)]


def test_an_outlet_whose_broker_is_away_says_so_and_goes_on_when_it_is_back(own_mosquitto: Mosquitto) -> None:
    made = outlet(f"mqtt://127.0.0.1:{own_mosquitto.port}?decisions=decided", Settings(outlet_timeout_s=2), "t")
    made.send([item(0)])
    own_mosquitto.stop()
    with pytest.raises(OutletDown, match=str(own_mosquitto.port)) as down:
        made.send([item(1)])
    assert down.value.done == 0
    own_mosquitto.start()
    with Publisher(own_mosquitto.port) as hearing:
        hearing.listen("decided")
        time.sleep(0.2)
        assert not made.send([item(1), item(2)])
        until(lambda: len(hearing.heard) == 2)
    own_mosquitto.stop()
    own_mosquitto.start()
    assert not made.send([item(3)])  # an idle connection that was closed is opened again
    made.close()


def test_an_item_larger_than_the_broker_takes_is_refused_and_the_others_go_out(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "m", more=["max_packet_size 20000"]) as broker, Publisher(broker.port) as hearing:
        hearing.listen("decided")
        made = outlet(f"mqtt://127.0.0.1:{broker.port}?decisions=decided", Settings(), "t")
        refused = made.send([item(0), item(1, b"x" * 30_000), item(2)])
        assert [(each.item.n, each.why.endswith("it is larger than the broker takes")) for each in refused or ()] == [
            (1, True)
        ]
        until(lambda: [message.payload for message in hearing.heard] == [b'{"n":0}', b'{"n":2}'])
        made.close()


def test_an_outlet_that_may_not_publish_says_so(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\n")
    with Mosquitto(tmp_path / "m", more=[f"acl_file {rules}"]) as broker:
        made = outlet(f"mqtt://127.0.0.1:{broker.port}?decisions=decided", Settings(), "t")
        with pytest.raises(OutletDown, match=r"it refuses the topic decided .* check what this user may write"):
            made.send([item(0)])
        made.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "names no topic for decisions"),
        ("?decisions=a&dead_letters=a", "to the same topic"),
        ("?decisions=a/%23", "holds no"),
        ("?decisions=a&qos=2", "qos is no option of it"),
    ],
)
def test_an_outlet_address_that_cannot_be_is_refused(options: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        outlet(f"mqtt://127.0.0.1:1{options}", Settings(), "t")
