"""Messages into a topic and back out of it, as the demo and the benchmark need them. The flow has ways of its own."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from schemas.errors import TidegateError

FLUSH_S = 60.0
READ_S = 10.0
ANY_PARTITION = -1
Headers = list[tuple[str, str | bytes | None]]


class Sending:
    """A producer. As a context it waits at its end until all is acknowledged. Errors: TidegateError where it is not."""

    def __init__(self, servers: str, **properties: Any) -> None:
        tuned = {"linger.ms": 5, "compression.type": "lz4", "message.max.bytes": 10_000_000, "log_level": 0}
        self._producer = Producer({"bootstrap.servers": servers, **tuned, **properties})
        self._failed: KafkaError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None = None,
        partition: int = ANY_PARTITION,
        headers: Headers | None = None,
    ) -> None:
        """Send a message; waits where too many are on their way."""
        while True:
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=self._delivered, headers=headers or [])
                return
            except BufferError:
                self._producer.poll(0.1)

    def poll(self) -> None:
        """Hear what was acknowledged."""
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all that was sent is acknowledged. Errors: TidegateError."""
        left = self._producer.flush(FLUSH_S)
        if left or self._failed is not None:
            why = self._failed.str() if self._failed is not None else f"{left} after {FLUSH_S:g} s"
            raise TidegateError(f"Kafka did not acknowledge messages: {why}")

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        self._failed = self._failed or error


class Read(NamedTuple):
    """A message that was read back. traceparent: its W3C header, if it has one."""

    key: str
    value: bytes
    traceparent: str | None


def read_all(servers: str, topic: str, partitions: Sequence[int] = (0,)) -> list[Read]:
    """All that is in these partitions of a topic now. Errors: TidegateError where no broker answers."""
    properties = {"group.id": "tidegate-look", "auto.offset.reset": "earliest", "enable.partition.eof": True}
    consumer = Consumer({"bootstrap.servers": servers, "log_level": 0, "enable.auto.commit": False, **properties})
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    found: list[Read] = []
    going = len(partitions)
    try:
        while going:
            messages = consumer.consume(1000, READ_S)
            if not messages:
                raise TidegateError(f"the topic {topic} did not come to its end within {READ_S:g} s")
            for message in messages:
                error = message.error()
                if error is None:
                    found.append(_read(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    going -= 1
                else:
                    raise TidegateError(f"the topic {topic} cannot be read: {error.str()}")
    finally:
        consumer.close()
    return found


def _read(message: Message) -> Read:
    headers: Any = dict(message.headers() or ())
    key, trace = message.key() or b"", headers.get("traceparent")
    return Read(
        key.decode() if isinstance(key, bytes) else key, message.value() or b"", trace.decode() if trace else None
    )
