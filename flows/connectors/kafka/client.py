"""Talking to Kafka: the address, the client's properties, what topics there are, and what goes wrong in plain words."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from schemas.errors import SourceLost, TidegateError, UsageError
from schemas.settings import Settings

FORMATS = ("json", "arrow", "avro")
QUIET = {"log_level": 0}
"""librdkafka writes a line to stderr for every failed connection; what is wrong is said once, by `Watch`."""
_OURS = (
    "bootstrap.servers",
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "error_cb",
    "group.id",
)
ASK_S = 5.0
RETRY_S = 0.2
T = TypeVar("T")
_NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_HOPELESS = (
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
)
"""Waiting does not help: the settings are wrong."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that holds a stream, and how its messages are written: json, arrow or avro."""

    stream: str
    name: str
    format: str = "json"


@dataclass(frozen=True, slots=True)
class Address:
    """`kafka://host:port[,host:port]?STREAM=TOPIC[&STREAM.format=arrow][&format=avro]`, taken apart."""

    servers: str
    topics: tuple[Topic, ...]


def parse_address(address: str, streams: Sequence[str]) -> Address:
    """Take an address apart. streams: the names that may stand in it. Errors: UsageError."""
    example = f"kafka://host:9092?{'&'.join(f'{stream}=ward.{stream}' for stream in streams)}"
    parts = urlsplit(address)
    if parts.scheme != "kafka" or not parts.netloc or "@" in parts.netloc or parts.path.strip("/"):
        raise UsageError(f"the source {address} is no Kafka address: give {example}; a user goes into [kafka]")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"format", *streams, *(f"{stream}.format" for stream in streams)}
    strange = sorted(set(options) - known)
    if strange:
        raise UsageError(
            f"the source {address} has {', '.join(strange)}, which this flow does not know: give {example}"
        )
    topics = [
        Topic(stream, options[stream], options.get(f"{stream}.format", options.get("format", "json")))
        for stream in streams
        if options.get(stream)
    ]
    if not topics:
        raise UsageError(f"the source {address} names no topic: give {example}")
    for topic in topics:
        if topic.format not in FORMATS:
            raise UsageError(f"the source {address}: format {topic.format} is none of {', '.join(FORMATS)}")
    if len({topic.name for topic in topics}) < len(topics):
        raise UsageError(f"the source {address} names one topic for two streams: each has its own")
    return Address(parts.netloc, tuple(topics))


def client_properties(servers: str, settings: Settings) -> dict[str, Any]:
    """Properties of any client: the table `[kafka]`, what stands in files read. Errors: UsageError."""
    properties: dict[str, Any] = {}
    for name, value in settings.kafka.items():
        if name in _OURS:
            raise UsageError(f"[kafka] {name}: Tidegate sets this property itself, remove it")
        path = value.removeprefix("file:")
        try:
            properties[name] = value if path == value else Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"[kafka] {name}: the file {path} cannot be read ({error}): check the path") from error
    return {**QUIET, "client.id": "tidegate", **properties, "bootstrap.servers": servers}


def consumer_properties(servers: str, settings: Settings) -> dict[str, Any]:
    """Properties of a partition's consumer. What moves offsets is ours; the rest may be overridden in `[kafka]`."""
    return {
        # As it comes, a full queue makes librdkafka wait for a second before it fetches on.
        "fetch.queue.backoff.ms": 5,
        # More brings no speed, and a small message takes some 300 bytes beside its own while it waits.
        "queued.min.messages": 50_000,
        "queued.max.messages.kbytes": settings.kafka_queue_kb,
        "reconnect.backoff.max.ms": 2_000,
        "socket.keepalive.enable": True,
        **client_properties(servers, settings),
        "group.id": settings.kafka_group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        # An offset that is not there any more is an error, never a jump.
        "auto.offset.reset": "error",
    }


@dataclass(slots=True)
class Found:
    """What the brokers know of a topic. id: of this making of it, "" where they do not tell. leaderless: partitions
    that cannot be read now.
    """

    id: str
    partitions: int
    leaderless: list[int] = field(default_factory=list)


class Cluster:
    """Asks the brokers about topics. Any of them answers, except for the ids, which take the one that coordinates."""

    def __init__(self, servers: str, settings: Settings) -> None:
        """Errors: UsageError for properties that librdkafka refuses."""
        self.servers = servers
        self._last: KafkaError | None = None
        heard: dict[str, Any] = {"error_cb": self._heard}
        try:
            # A consumer, for it creates no topic by asking for one; made as the readers' are, its properties are tried.
            self._consumer = Consumer(consumer_properties(servers, settings) | heard)
            self._admin = AdminClient(client_properties(servers, settings) | {"error_cb": lambda error: None})
        except (KafkaException, ValueError, TypeError) as error:
            told = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            raise UsageError(f"[kafka] does not hold ({told}): mend it in the configuration file") from error

    def close(self) -> None:
        """Let go of the connections."""
        self._consumer.close()

    def _heard(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self._last is None:
            self._last = error

    def find(self, topics: Sequence[str], timeout_s: float) -> dict[str, Found | None]:
        """What there is of these topics, None where one is not. Errors: KafkaException where nobody answers."""
        found: dict[str, Found | None] = {}
        for name in topics:
            try:
                told = self._consumer.list_topics(name, timeout=timeout_s).topics[name]
            except KafkaException:
                self._consumer.poll(0)  # hear why
                raise
            if told.error is not None and told.error.code() not in (*_NO_TOPIC, KafkaError.LEADER_NOT_AVAILABLE):
                raise KafkaException(told.error)
            if told.error is not None or not told.partitions:
                found[name] = None
                continue
            leaderless = sorted(number for number, part in told.partitions.items() if part.leader < 0)
            found[name] = Found("", len(told.partitions), leaderless)
        self._last = None
        self._identify({name: topic for name, topic in found.items() if topic is not None}, timeout_s)
        return found

    def _identify(self, found: Mapping[str, Found], timeout_s: float) -> None:
        if not found:
            return
        asked = self._admin.describe_topics(TopicCollection(list(found)), request_timeout=timeout_s)
        for name, future in asked.items():
            with suppress(KafkaException, TimeoutError):
                found[name].id = str(future.result(timeout_s + 1).topic_id)

    def why(self, error: KafkaException) -> str:
        """What keeps the brokers from answering, in words."""
        return sentence(self._told(error), self.servers)

    def _told(self, error: KafkaException) -> KafkaError:
        return self._last if self._last is not None else error.args[0]

    def wait(self, topics: Sequence[str], timeout_s: float) -> dict[str, Found]:
        """What there is of these topics, as soon as a broker answers.

        Errors: SourceLost where none does in time; UsageError where it refuses us, and where a topic is not there.
        """
        end = time.monotonic() + timeout_s
        while True:
            found = self._answer(partial(self.find, topics), end, "check the address and [kafka]")
            there = {name: topic for name, topic in found.items() if topic is not None}
            if time.monotonic() > end or all(topic.id for topic in there.values()):
                break
            time.sleep(RETRY_S)
        missing = sorted(set(found) - set(there))
        if missing:
            known = sorted(name for name in self._consumer.list_topics(timeout=5).topics if not name.startswith("__"))
            raise UsageError(
                f"{self.servers} has no topic {' and no topic '.join(missing)} (it has "
                f"{', '.join(known[:20]) or 'none'}): create it, or mend the address"
            )
        return there

    def ends(self, partitions: Mapping[str, int], timeout_s: float) -> dict[tuple[str, int], tuple[int, int]]:
        """(first, end) offset of each partition of these topics: name -> how many. A leader that moves is waited for.

        Errors: SourceLost where none answers in time; UsageError where a broker refuses us.
        """

        def ask(ask_s: float) -> dict[tuple[str, int], tuple[int, int]]:
            return {
                (name, part): self._consumer.get_watermark_offsets(TopicPartition(name, part), timeout=ask_s)
                for name, count in partitions.items()
                for part in range(count)
            }

        return self._answer(ask, time.monotonic() + timeout_s, "the end of a topic cannot be found")

    def _answer(self, ask: Callable[[float], T], end: float, what: str) -> T:
        """What the brokers say, asked again where waiting may help, until `end`. ask: given so many seconds.

        Errors: SourceLost; UsageError where a broker refuses us.
        """
        while True:
            try:
                return ask(max(0.5, min(ASK_S, end - time.monotonic())))
            except KafkaException as error:
                failed = self._failed(error, what)
                if isinstance(failed, UsageError) or time.monotonic() > end:
                    raise failed from error
            time.sleep(RETRY_S)

    def _failed(self, error: KafkaException, what: str) -> TidegateError:
        """To be tried again where waiting may help: after a power cut the brokers may be back later than we are."""
        hopeless = self._told(error).code() in _HOPELESS
        return (UsageError if hopeless else SourceLost)(f"{self.why(error)}: {what}")


def sentence(error: KafkaError, servers: str) -> str:
    """An error of librdkafka in words, without an end."""
    code, told = error.code(), error.str()
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        return f"the broker at {servers} refuses the user or the password ({told})"
    if code == KafkaError._SSL:
        return f"no TLS connection to {servers} ({told})"
    if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return f"the broker at {servers} does not let this user read ({told})"
    if code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE):
        return f"no broker answers at {servers} ({told})"
    return f"Kafka at {servers}: {told}"
