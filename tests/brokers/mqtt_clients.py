"""Clients for the tests against a real Mosquitto."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from flows.connectors.mqtt.broker import Address
from flows.connectors.mqtt.client import Subscriber, Subscription
from flows.connectors.mqtt.spool import Message, Spool
from flows.status import Status
from schemas.settings import Settings

WAIT_S = 30
NAME = "vitals/0"


class Publisher:
    """Publishes with QoS 1, in order, and says when the broker has it. Also hears what is published."""

    def __init__(self, port: int) -> None:
        self.heard: list[mqtt.MQTTMessage] = []
        self._granted = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(500)
        self._client.on_message = lambda client, data, message: self.heard.append(message)
        self._client.on_subscribe = lambda *_: self._granted.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def send(self, messages: Sequence[tuple[str, bytes]], trace: str | None = None) -> None:
        told = Properties(PacketTypes.PUBLISH)
        if trace is not None:
            told.UserProperty = ("traceparent", trace)
        sent = [self._client.publish(topic, payload, qos=1, properties=told) for topic, payload in messages]
        for each in sent:
            each.wait_for_publish(WAIT_S)

    def listen(self, topic: str) -> None:
        """From when this returns: another client's message may overtake the wish to hear it."""
        self._client.subscribe(topic, qos=1)
        assert self._granted.wait(WAIT_S)


def until(what: Callable[[], Any], said: Callable[[], str] = lambda: "") -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, f"it did not come to that within {WAIT_S} s {said()}"
        time.sleep(0.02)


class Taking:
    """A subscriber with its spool, in this process."""

    def __init__(self, port: int, folder: Path, filters: Sequence[str], client_id: str = "taking", **more: Any) -> None:
        self.status = Status()
        self.spool = Spool(folder, more.pop("bytes_max", 1 << 24))
        broker = Address.parse(f"mqtt://127.0.0.1:{port}").broker(Settings(mqtt_keepalive_s=5, mqtt_inflight_max=50))
        wanted = Subscription(NAME, client_id, tuple(filters), False, more.pop("status_topic", ""), 1000)
        self.client = Subscriber(broker, wanted, self.spool, folder, self.status)
        until(lambda: (folder / "subscribed.json").exists() and self.status.snapshot().sources[NAME].connected)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.spool.close()

    def cut(self) -> None:
        """The connection is gone without a word, as when we are killed."""
        self.client._ending.set()
        self.client._leave = lambda: None
        self.client._thread.join()
        self.client._client._sock_close()
        self.spool.close()

    @property
    def all(self) -> list[Message]:
        return self.spool.read(0, 100_000)


def numbered(first: int, last: int, topic: str = "t/1") -> list[tuple[str, bytes]]:
    return [(topic, b"%d" % number) for number in range(first, last)]


def payloads(messages: Sequence[Message]) -> list[bytes]:
    return [message.payload for message in messages]


def expected(first: int, last: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, last)]
