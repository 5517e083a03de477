"""Decisions to Kafka, with an idempotent producer: key = decision id, in the order of the store.

Sent at least once: what was sent but not noted as acknowledged is sent again after a kill or a broken connection.
With `transactional=true` each batch is one transaction, and the place in the store is committed in it, as an offset of
a consumer group named for the store and the outlet (offset: the number of the last item; metadata: its mark). So a
consumer that reads only what is committed gets each item exactly once: after a kill the transaction that was open is
aborted, the place is read back, and an earlier process that still lives can send no more. Kafka forgets an offset that
has not moved for a week; the place in the store, which moves after it, then stands for it.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from flows.connectors.kafka.client import client_properties, sentence
from flows.connectors.outlets import Address, Item, Kind, Mark, Outlet, OutletDown, Refusal
from schemas.errors import UsageError
from schemas.settings import Settings

log = logging.getLogger(__name__)

NEVER = frozenset(
    {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD, KafkaError.RECORD_LIST_TOO_LARGE}
)
"""Errors of one message, which no repetition mends."""
CLOSE_S = 5.0


class KafkaOutlet(Outlet):
    """A topic for decisions and, where it is named, one for dead letters. topics: kind -> topic."""

    def __init__(
        self, name: str, topics: Mapping[Kind, str], properties: Mapping[str, Any], timeout_s: float, group: str | None
    ) -> None:
        """properties: librdkafka's. group: of the place that is kept in Kafka; None: not transactional."""
        self.name = name
        self.dead_letters = "dead_letter" in topics
        self._topics, self._timeout_s, self._group = topics, timeout_s, group
        self._servers = str(properties["bootstrap.servers"])
        sending = {
            "linger.ms": 5,
            "compression.type": "lz4",
            # The local limit is not the one that counts: the broker refuses what is too large for the topic.
            "message.max.bytes": 100_000_000,
            # A topic that is not there is said to be missing before a message runs out of time.
            "topic.metadata.propagation.max.ms": int(timeout_s * 500),
            **properties,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": int(timeout_s * 1000),
            "error_cb": self._heard,
        }
        if group is not None:
            sending |= {"transactional.id": group, "transaction.timeout.ms": int(timeout_s * 1000)}
        self._sending = sending
        self._reading = {**properties, "group.id": group, "enable.auto.commit": False, "error_cb": self._heard}
        self._producer: Producer | None = None
        self._metadata: Any = None
        self._last: KafkaError | None = None
        self._refused: list[Refusal] = []
        self._failed: list[KafkaError] = []
        self.acknowledged = 0
        """Messages that Kafka has taken since the start."""

    def check(self) -> None:
        """Whether librdkafka takes the properties; connects to nothing that must answer. Errors: UsageError."""
        try:
            producer = Producer(self._sending, logger=log)
        except KafkaException as error:
            raise UsageError(f"the settings for Kafka do not hold ({error.args[0].str()}): mend [kafka]") from error
        producer.close()

    def remembered(self) -> Mapping[Kind, Mark]:
        """The place committed with the last transaction; nothing where there are none. Errors: OutletDown."""
        if self._group is None:
            return {}
        try:
            self._ready()  # first: it ends what an earlier process left open, and lets it send no more
            consumer = Consumer(self._reading, logger=log)
            try:
                asked = [TopicPartition(topic, 0) for topic in self._topics.values()]
                places = consumer.committed(asked, timeout=self._timeout_s)
                self._metadata = consumer.consumer_group_metadata()
            finally:
                consumer.close()
            for place in places:
                if place.error is not None:
                    raise KafkaException(place.error)
        except KafkaException as error:
            raise self._down(error) from error
        kinds: dict[str, Kind] = {topic: kind for kind, topic in self._topics.items()}
        return {kinds[place.topic]: Mark(place.offset, place.metadata or "") for place in places if place.offset >= 0}

    def send(self, items: Sequence[Item]) -> Sequence[Refusal]:
        """Send, and wait for every acknowledgement. Errors: OutletDown, with everything to be sent again."""
        try:
            return self._send_once(items) if self._group is not None else self._send(items)
        except (KafkaException, BufferError, SystemError) as error:  # the last: a callback during a fatal error
            raise self._down(error) from error
        except OutletDown:
            self._let_go()
            raise

    def close(self) -> None:
        """Let go of the producer."""
        self._let_go()

    def _send(self, items: Sequence[Item]) -> Sequence[Refusal]:
        refused = self._deliver(self._ready(), items, alone=False)
        # Too large may be only what librdkafka put together: then each goes again by itself, in order.
        return self._deliver(self._ready(), items, alone=True) if refused and len(items) > 1 else refused

    def _send_once(self, items: Sequence[Item]) -> Sequence[Refusal]:
        refused: list[Refusal] = []
        alone = False
        while True:
            never = {id(refusal.item) for refusal in refused}
            spoiler = self._publish(items, [item for item in items if id(item) not in never], alone)
            if spoiler is None:
                return refused
            if alone:
                refused.append(spoiler)
            alone = True  # one that is refused spoils the transaction, which does not say which one it was

    def _publish(self, items: Sequence[Item], wanted: Sequence[Item], alone: bool) -> Refusal | None:
        """One transaction: `wanted`, and the place after all of `items`. None, or what spoiled it: nothing is sent.

        alone: each is waited for, so that the last one tried is the one that was refused.
        """
        producer = self._ready()
        if self._metadata is None:
            self.remembered()
        producer.begin_transaction()
        last = {item.kind: item for item in items}
        places = [TopicPartition(self._topics[kind], 0, item.n, item.mark) for kind, item in last.items()]
        tried = items[0]
        deadline = self._begin()
        try:
            for tried in wanted:
                try:
                    self._produce(producer, tried, deadline)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError._STATE:
                        raise
                    break  # it is spoiled: what comes next says by what
                if alone:
                    self._flush(producer, deadline)
                if self._failed or self._refused:
                    break
            self._flush(producer, deadline)
            self._send_places(producer, places)
            if self._failed or self._refused:
                raise OutletDown(f"{self._servers}: a message was not acknowledged, and the transaction not refused")
            self._commit(producer)
        except KafkaException as error:
            if error.args[0].code() not in NEVER:
                raise
            self._let_go()  # this aborts it
            return Refusal(tried, error.args[0].str())
        return None

    def _send_places(self, producer: Producer, places: list[TopicPartition]) -> None:
        """librdkafka may wait for a group coordinator that went away past any time limit (its issues 5456 and 5511).

        Then the producer is given up with the thread that waits in it; the next one, of the same id, fences it.
        """
        failed: list[KafkaException] = []

        def call() -> None:
            try:
                producer.send_offsets_to_transaction(places, self._metadata, self._timeout_s)
            except KafkaException as error:
                failed.append(error)

        waits = threading.Thread(target=call, name=f"places {self.name}", daemon=True)
        waits.start()
        waits.join(self._timeout_s + CLOSE_S)
        if waits.is_alive():
            self._producer = self._metadata = None
            raise OutletDown(f"{self._servers}: the coordinator of the consumer group {self._group} does not answer")
        if failed:
            raise failed[0]

    def _commit(self, producer: Producer) -> None:
        producer.commit_transaction(self._timeout_s)

    def _deliver(self, producer: Producer, items: Sequence[Item], alone: bool) -> list[Refusal]:
        """Send `items`; alone: each in a message set of its own."""
        deadline = self._begin()
        for item in items:
            try:
                self._produce(producer, item, deadline)
            except KafkaException as error:
                if error.args[0].code() not in NEVER:
                    raise
                self._refused.append(Refusal(item, error.args[0].str()))
            if alone:
                self._flush(producer, deadline)
        self._flush(producer, deadline)
        if self._failed:
            raise OutletDown(self._reason(self._failed[0]))
        return self._refused

    def _begin(self) -> float:
        """Count anew; gives the time by which all must be acknowledged."""
        self._refused, self._failed = [], []
        return time.monotonic() + self._timeout_s

    def _flush(self, producer: Producer, deadline: float) -> None:
        # A message ends by itself within its own time limit; this waits a little longer than that.
        if producer.flush(max(deadline - time.monotonic(), 0) + CLOSE_S):
            raise OutletDown(self._reason(KafkaError(KafkaError._MSG_TIMED_OUT)))

    def _produce(self, producer: Producer, item: Item, deadline: float) -> None:
        headers: list[tuple[str, str | bytes | None]] | None = None
        if item.traceparent is not None:
            headers = [("traceparent", item.traceparent.encode())]
        topic, key = self._topics[item.kind], item.id.encode()
        while True:
            try:
                producer.produce(topic, item.body, key, headers=headers, on_delivery=partial(self._delivered, item))
                producer.poll(0)
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise
                producer.poll(0.1)

    def _delivered(self, item: Item, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        elif error.code() in NEVER:
            self._refused.append(Refusal(item, error.str()))
        else:
            self._failed.append(error)

    def _ready(self) -> Producer:
        if self._producer is None:
            producer = Producer(self._sending, logger=log)
            try:
                if self._group is not None:
                    producer.init_transactions(self._timeout_s)
            except BaseException:
                producer.close()
                raise
            self._producer, self._metadata = producer, None
        return self._producer

    def _heard(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self._last is None:
            self._last = error

    def _reason(self, error: KafkaError) -> str:
        """What the connection last said tells more than that time ran out."""
        last, self._last = self._last, None
        late = error.code() in (KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT)
        return sentence(last if late and last is not None else error, self._servers)

    def _down(self, error: Exception) -> OutletDown:
        self._let_go()
        cause = error.__cause__ if isinstance(error, SystemError) and error.__cause__ is not None else error
        told = cause.args[0] if cause.args else cause
        return OutletDown(self._reason(told) if isinstance(told, KafkaError) else f"{self._servers}: {told}")

    def _let_go(self) -> None:
        """Start anew next time: what a failed producer still holds must not be sent beside what is sent again."""
        producer, self._producer, self._metadata = self._producer, None, None
        if producer is not None:
            with suppress(KafkaException, SystemError):  # one that was fenced cannot even end its transaction
                producer.purge()
                producer.close()


def kafka_outlet(address: Address, settings: Settings, token: str) -> KafkaOutlet:
    """`kafka://HOST:PORT[,...]?decisions=TOPIC[&dead_letters=TOPIC][&transactional=true]`. Errors: UsageError."""
    address.only("decisions", "dead_letters", "transactional")
    servers = address.parts.netloc
    if not servers or "@" in servers or address.parts.path.strip("/"):
        address.refuse("give kafka://HOST:PORT[,HOST:PORT]?decisions=TOPIC; user and password go into [kafka]")
    topics: dict[Kind, str] = {}
    if "decisions" not in address.options:
        address.refuse("it names no topic for decisions: give ?decisions=TOPIC")
    topics["decision"] = address.options["decisions"]
    if "dead_letters" in address.options:
        topics["dead_letter"] = address.options["dead_letters"]
    if len(set(topics.values())) < len(topics):
        address.refuse("decisions and dead letters go to the same topic: name two")
    name = address.named(f"kafka://{servers}/{topics['decision']}")
    group = None
    if address.switch("transactional"):
        group = f"tidegate-{token}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    properties = client_properties(servers, settings)
    made = KafkaOutlet(name, topics, properties, settings.outlet_timeout_s, group)
    made.check()
    return made
