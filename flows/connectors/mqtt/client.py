"""A client that takes messages from a broker into the spool, in a thread of its own.

One loop does all of it in turn: read what has come, append it to the spool and wait for the disk once, acknowledge.
So an acknowledgement never goes out before its message is safe, or on another connection than its message came in on.
What is not acknowledged the broker sends again, `mqtt_inflight_max` messages at most: they are all that waits in memory
while the spool, or the disk, is full.

A message can be in the spool without the broker knowing, where we died, or the connection did, before the
acknowledgement arrived. The broker sends it again, under its old packet identifier and marked as a duplicate. It is
known by that: the newest message with this identifier, among the last `mqtt_inflight_max` in the spool (no more can be
open), has the same topic and payload. So it is acknowledged, and not kept twice. Where a broker has lost our session
nothing is known any more. What gets past this, as from a broker that has come back in an older state, Intake finds by
what the row holds, where it brings its own time.
"""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

from flows.connectors.mqtt.broker import CONNECT_S, Broker, Refused, said, serve, step, wait_for_answer
from flows.connectors.mqtt.spool import Message, Spool
from schemas.errors import UsageError

log = logging.getLogger(__name__)

WAIT_S = 0.1
GOODBYE_S = 1.5
RETRY_S, RETRY_S_MAX = 0.2, 5.0
BATCH_MAX = 1000
TRACE_CHARS_MAX = 128
ONLINE, OFFLINE = b"online", b"offline"


class Told(Protocol):
    """Who wants to know whether a source can be reached."""

    def source(self, name: str, connected: bool, why: str = "") -> None:
        """Take note."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one client asks for. filters: with `$share/...` where it is shared. retained: whether what a topic holds
    is sent when it is first subscribed to. status_topic: says `online` or `offline`, also when we are gone without a
    word; empty for none. payload_bytes_max: a longer payload is kept cut to this and one byte more.
    """

    name: str
    client_id: str
    filters: tuple[str, ...]
    retained: bool
    status_topic: str
    payload_bytes_max: int


@dataclass(frozen=True, slots=True)
class _Arrived:
    message: Message
    qos: int
    again: bool


class Subscriber:
    """Takes what a subscription brings into `spool`, until it is closed. failure: what no waiting mends, or None."""

    def __init__(self, broker: Broker, wanted: Subscription, spool: Spool, folder: Path, status: Told) -> None:
        self._broker, self._wanted, self._spool, self._status = broker, wanted, spool, status
        self._subscribed = folder / "subscribed.json"
        self.failure: UsageError | None = None
        self._ending = threading.Event()
        self._spooling = threading.Lock()
        self._arrived: list[_Arrived] = []
        self._held: dict[int, bytes] = {}  # packet identifier -> topic and payload, oldest first
        for message in spool.read(max(spool.first, spool.next - broker.inflight_max), broker.inflight_max):
            self._remember(message)
        self._client = broker.client(wanted.client_id, manual_ack=True)
        self._client.on_connect, self._client.on_message = self._let_in, self._take
        self._client.on_subscribe = self._granted
        if wanted.status_topic:
            self._client.will_set(wanted.status_topic, OFFLINE, qos=1, retain=True)
        self._status.source(wanted.name, False, "not connected yet")
        self._thread = threading.Thread(target=self._run, name=wanted.client_id, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Say goodbye and end. The session stays: the broker keeps what comes from now on."""
        self._ending.set()
        self._thread.join(GOODBYE_S)
        with self._spooling:  # one that still waits for an answer ends by itself, and leaves the spool alone
            pass

    def _run(self) -> None:
        wait_s = RETRY_S
        while not self._ending.is_set() and self.failure is None:
            self._arrived.clear()  # of a lost connection: not acknowledged, comes again
            try:
                self._broker.connect(self._client, keep_session=True)
                wait_for_answer(self._client, CONNECT_S)
                wait_s = RETRY_S
                with self._spooling:
                    self._serve()
            except Exception as error:  # whatever it is, a thread that is gone takes no messages
                if not isinstance(error, OSError | Refused):
                    log.exception("%s: the connection is given up and made anew", self._wanted.name)
                self._status.source(self._wanted.name, False, f"{self._broker.address}: {said(error)}")
                self._ending.wait(wait_s)
                wait_s = min(2 * wait_s, RETRY_S_MAX)
        self._leave()

    def _serve(self) -> None:
        """Take messages until we are to end. Errors: OSError when the connection is lost."""
        full = ""
        self._status.source(self._wanted.name, True)
        while not self._ending.is_set() and self.failure is None:
            step(self._client, WAIT_S)
            self._read_on()
            before, full = full, self._keep() if self._arrived else full
            if full != before:
                self._status.source(self._wanted.name, not full, full)
            if full:
                self._ending.wait(WAIT_S)

    def _read_on(self) -> None:
        """Read what else has come: a batch shares one wait for the disk."""
        count = 0
        while count < len(self._arrived) < BATCH_MAX:
            count = len(self._arrived)
            if self._client.loop_read() != mqtt.MQTT_ERR_SUCCESS:
                raise ConnectionResetError("the connection was lost")

    def _keep(self) -> str:
        """Spool what has arrived and acknowledge it; gives why some of it cannot be kept now, else nothing."""
        fresh = [each.message for each in self._arrived if not self._is_held(each)]
        why = ""
        try:
            kept = self._spool.append(fresh)
        except OSError as error:
            kept, why = 0, f"the spool cannot be written ({said(error)}): nothing is acknowledged until it can"
        if kept < len(fresh) and not why:
            why = (
                "the spool is full, and nothing is acknowledged until what it holds has been worked off: "
                "see whether the flow keeps up, or raise mqtt_spool_bytes_max"
            )
        done = 0
        for each in self._arrived:
            if not self._is_held(each):
                if not kept:
                    break
                kept -= 1
                self._remember(each.message)
            done += 1
            if each.qos:
                self._client.ack(each.message.packet, each.qos)
        del self._arrived[:done]
        return why

    def _is_held(self, arrived: _Arrived) -> bool:
        return arrived.again and self._held.get(arrived.message.packet) == _digest(arrived.message)

    def _remember(self, message: Message) -> None:
        if message.packet:  # 0: sent without wanting to know whether it arrives
            self._held.pop(message.packet, None)
            self._held[message.packet] = _digest(message)
            if len(self._held) > self._broker.inflight_max:
                del self._held[next(iter(self._held))]

    def _leave(self) -> None:
        """Last words, where somebody listens."""
        topic = self._wanted.status_topic
        with suppress(OSError, ValueError, RuntimeError):
            if topic and self._client.is_connected():
                sent = self._client.publish(topic, OFFLINE, qos=1, retain=True)
                serve(self._client, 1.0, sent.is_published)
        self._client.disconnect()
        if self.failure is None:
            self._status.source(self._wanted.name, False, "closed")

    def _let_in(self, client: mqtt.Client, data: Any, flags: mqtt.ConnectFlags, code: Any, told: Any) -> None:
        if code.is_failure:
            return
        if not flags.session_present:
            self._held.clear()
            if self._spool.next:
                log.warning(
                    "%s: the broker %s has no session of ours: what came while we were away is not here",
                    self._wanted.name,
                    self._broker.address,
                )
        gone = [name for name in self._subscribed_before() if name not in self._wanted.filters]
        if gone:
            client.unsubscribe(gone)
        # 1: only when this is a new subscription; 2: never.
        options = SubscribeOptions(qos=1, retainHandling=1 if self._wanted.retained else 2)
        client.subscribe([(name, options) for name in self._wanted.filters])
        if self._wanted.status_topic:
            client.publish(self._wanted.status_topic, ONLINE, qos=1, retain=True)

    def _subscribed_before(self) -> Sequence[str]:
        """A session remembers its subscriptions, also those that we do not want any more."""
        if not self._subscribed.exists():
            return []
        names: list[str] = json.loads(self._subscribed.read_text())
        return names

    def _granted(self, client: mqtt.Client, data: Any, packet: int, codes: Sequence[Any], told: Any) -> None:
        refused = [name for name, code in zip(self._wanted.filters, codes, strict=True) if code.is_failure]
        if refused:
            why = str(codes[self._wanted.filters.index(refused[0])])
            self.failure = UsageError(
                f"the MQTT broker {self._broker.address} refuses the subscription {refused[0]} ({why}): check the "
                "filter, and what this user may read"
            )
            self._status.source(self._wanted.name, False, str(self.failure))
        else:
            self._subscribed.write_text(json.dumps(self._wanted.filters))

    def _take(self, client: mqtt.Client, data: Any, message: mqtt.MQTTMessage) -> None:
        payload = bytes(message.payload[: self._wanted.payload_bytes_max + 1])
        pairs = getattr(message.properties, "UserProperty", ())
        trace = next((value for name, value in pairs if name == "traceparent"), "")[:TRACE_CHARS_MAX]
        kept = Message(time.time_ns() // 1000, message.mid if message.qos else 0, message.topic, payload, trace)
        self._arrived.append(_Arrived(kept, message.qos, message.dup))


def _digest(message: Message) -> bytes:
    return hashlib.blake2b(message.topic.encode() + b"\0" + message.payload, digest_size=16).digest()
