"""Decisions to MQTT topics: QoS 1, in the order of the store, each beside its id and revision as user properties.

Sent at least once: what was not acknowledged is sent again, over a new connection.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from flows.connectors.mqtt.broker import CONNECT_S, Address, Broker, Refused, said, serve, step, wait_for_answer
from flows.connectors.outlets import Item, Kind, Outlet, OutletDown, Refusal, taken_apart
from schemas.settings import Settings

NEVER = {149: "it is larger than the broker takes", 153: "the broker takes no such payload"}
"""Reason codes of an acknowledgement that refuse this one message for good."""
HEAD_BYTES_MAX = 2_000
"""What a message takes beside its body: topic, id, properties; at most about this."""


class MqttOutlet(Outlet):
    """Topics of a broker. A connection without traffic stays open: it is tried before it is used again."""

    def __init__(self, name: str, broker: Broker, client_id: str, topics: Mapping[Kind, str], timeout_s: float) -> None:
        self.name, self.dead_letters = name, "dead_letter" in topics
        self._broker, self._client_id, self._topics, self._timeout_s = broker, client_id, topics, timeout_s
        self._client: mqtt.Client | None = None
        self._bytes_max: int | None = None
        self._open_max = 1
        self._answers: dict[int, ReasonCode] = {}  # by packet identifier

    def send(self, items: Sequence[Item]) -> Sequence[Refusal]:
        """Publish them and wait until all are acknowledged. Errors: OutletDown, with how many are settled."""
        sent: list[int | Refusal] = []  # packet identifier, or why it was not sent
        lost: Exception | None = None
        self._answers.clear()
        try:
            client = self._ready()
            for item in items:
                packet = self._publish(client, item)
                sent.append(packet)
                if isinstance(packet, int):
                    self._wait(client, sent, self._open_max)
            self._wait(client, sent, 1)
        except (OSError, Refused) as error:
            lost = error
            self._let_go()
        done, refusals = 0, list[Refusal]()
        why = said(lost) if lost is not None else ""
        for item, packet in zip(items, sent, strict=False):
            if isinstance(packet, Refusal):
                refusals.append(packet)
            elif packet not in self._answers:
                break
            elif (code := self._answers[packet]).value in NEVER:
                refusals.append(Refusal(item, f"{self._broker.address}: {NEVER[code.value]}"))
            elif code.is_failure:
                why = why or f"it refuses the topic {self._topics[item.kind]} ({code}): check what this user may write"
                break
            done += 1
        if done < len(items):
            raise OutletDown(f"MQTT {self._broker.address}: {why}", done, refusals) from lost
        return refusals

    def close(self) -> None:
        """Say goodbye."""
        self._let_go()

    def check(self) -> None:
        """Errors: UsageError for what no waiting mends."""
        self._broker.check()

    def _wait(self, client: mqtt.Client, sent: Sequence[int | Refusal], most: int) -> None:
        """Wait until fewer than `most` are not acknowledged. Errors: OSError."""
        out = sum(isinstance(packet, int) for packet in sent)
        if out - len(self._answers) >= most:
            serve(client, self._timeout_s, lambda: out - len(self._answers) < most)

    def _publish(self, client: mqtt.Client, item: Item) -> int | Refusal:
        told = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        told.ContentType = "application/json"
        told.UserProperty = [("id", item.id), ("revision", str(item.revision))]
        if item.traceparent is not None:
            told.UserProperty = ("traceparent", item.traceparent)  # paho appends
        if self._bytes_max is not None and len(item.body) + HEAD_BYTES_MAX > self._bytes_max:
            return Refusal(item, f"{self._broker.address}: {NEVER[149]}")
        return client.publish(self._topics[item.kind], item.body, qos=1, properties=told).mid

    def _ready(self) -> mqtt.Client:
        """A connection that is open. Errors: OSError, Refused."""
        if self._client is not None:
            try:
                step(self._client, 0)
                return self._client
            except OSError:
                self._let_go()
        client = self._broker.client(self._client_id)
        client.on_connect, client.on_publish = self._let_in, self._acknowledged
        self._broker.connect(client, keep_session=False)
        wait_for_answer(client, CONNECT_S)
        self._client = client
        return client

    def _let_in(self, client: mqtt.Client, data: Any, flags: Any, code: ReasonCode, told: Properties | None) -> None:
        self._bytes_max = getattr(told, "MaximumPacketSize", None)
        self._open_max = min(self._broker.inflight_max, getattr(told, "ReceiveMaximum", 65_535))

    def _acknowledged(self, client: mqtt.Client, data: Any, packet: int, code: ReasonCode, told: Any) -> None:
        self._answers[packet] = code

    def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()


def mqtt_outlet(address: str, settings: Settings) -> MqttOutlet:
    """`mqtt://[USER@]HOST[:PORT]?decisions=TOPIC[&dead_letters=TOPIC]`; mqtts:// with TLS. Errors: UsageError."""
    taken = taken_apart(address)
    taken.only("decisions", "dead_letters")
    if "decisions" not in taken.options:
        taken.refuse("it names no topic for decisions: give ?decisions=TOPIC")
    topics: dict[Kind, str] = {"decision": taken.options["decisions"]}
    if "dead_letters" in taken.options:
        topics["dead_letter"] = taken.options["dead_letters"]
    if len(set(topics.values())) < len(topics):
        taken.refuse("decisions and dead letters go to the same topic: name two")
    if any(sign in topic for topic in topics.values() for sign in "+# "):
        taken.refuse("a topic to publish to holds no +, # or blank: name one topic")
    broker = replace(Address.parse(address).broker(settings), keepalive_s=0)
    name = taken.named(f"mqtt://{broker.address}/{topics['decision']}")
    client_id = f"{settings.mqtt_client_id}-out-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    made = MqttOutlet(name, broker, client_id, topics, settings.outlet_timeout_s)
    made.check()
    return made
