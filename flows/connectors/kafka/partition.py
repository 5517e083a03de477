"""One partition of a topic: messages in, judged rows out. It never waits: it looks again soon."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from flows.connectors.files import Chunk
from flows.connectors.headers import packed
from flows.connectors.judge import Judge, Piece, whole
from flows.connectors.kafka.client import sentence
from flows.connectors.kafka.formats import Format
from flows.connectors.kafka.registry import RegistryDown
from flows.connectors.kafka.watch import WAY_OUT, Watch
from flows.connectors.partitions import SourcePartition
from flows.status import Status
from flows.tracing import sampled
from operators.adapters.messages import SourceBatch
from operators.adapters.tally import Tally
from operators.adapters.trace import LINKS_MAX
from operators.columnar.codec import Codec
from operators.columnar.intake import IntakeSpec
from operators.columnar.watermark import END, NO_MARK
from schemas.errors import UsageError
from schemas.streams import Stream

log = logging.getLogger(__name__)

State = tuple[str, int, bytes | None, int | None, str, bool]
"""Version, offset of the row to go on from, what the intake knows there, message offset at which a bounded run ends,
id of the topic, whether that end was reached."""
SNAPSHOT = "kafka/1"
COMMIT_S = 5.0
SAY_S = 0.2
"""Live, a partition without messages says so often how far time has come."""
TABLES_FIRST = 4
_JUMPED = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION)


@dataclass(frozen=True, slots=True)
class Part:
    """What is read. topic_id: of this making of the topic. end: message offset to stop at; None: live.

    first: oldest message offset there is. form: a new reader of its messages.
    """

    name: str
    topic: str
    number: int
    topic_id: str
    stream: Stream
    codec: Codec
    intake: IntakeSpec
    form: Callable[[], Format]
    first: int
    last: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all partitions of a source share. resumable: there is a recovery store. traced: links are collected.

    clock_us: when rows arrive, where they come as they happen.
    """

    properties: dict[str, Any]
    servers: str
    tally: Tally
    status: Status
    watch: Watch
    stop: threading.Event
    rows_max: int
    poll: timedelta
    resumable: bool
    traced: bool
    clock_us: Callable[[], int]


class KafkaPartition(SourcePartition):
    """A topic's partition. state: what `snapshot` gave.

    Errors: UsageError where the snapshot is of another log than the one that is there; later SourceLost.
    """

    def __init__(self, part: Part, around: Surroundings, state: State | None) -> None:
        version, row, intake, end, topic_id, finished = state or (SNAPSHOT, -1, None, part.end, part.topic_id, False)
        if version != SNAPSHOT:
            raise ValueError(f"the recovery store holds a {version} snapshot, this version reads {SNAPSHOT}")
        self._part, self._around, self._form = part, around, part.form()
        live = part.end is None
        self._end = None if live else end if end is not None else part.end
        self._finished, self._topic_id = finished, topic_id
        bits = self._form.row_bits
        self._row = row if row >= 0 else part.first << bits
        self._began: State = (SNAPSHOT, self._row, intake, self._end, topic_id, finished)
        if state is not None:
            self._check(self._row >> bits, live)
        self._judge = Judge(
            part.name, part.stream, part.codec, part.intake, around.tally, around.clock_us if live else None, intake
        )
        if self._judge.notice:
            log.warning("%s: %s", part.name, self._judge.notice)
        # Context of a bounded source is known whole before anything is decided.
        self._whole: list[SourceBatch] | None = [] if part.stream.role == "context" and not live else None
        self._most = around.rows_max if bits == 0 else TABLES_FIRST
        self._waiting: Sequence[Message] = ()
        self._recent: list[Message] = []  # whose rows are being judged, or held
        self._at_end = self._reached = self._troubled = False
        self._awake: datetime | None = None
        self._said_s, self._committed_s, self._polled_ns = 0.0, time.monotonic(), 0
        self._consumer = Consumer({**around.properties, "error_cb": lambda error: None})
        # A number: librdkafka waits for half a second before it asks where a log begins.
        self._consumer.assign([TopicPartition(part.topic, part.number, self._row >> bits)])
        if self._row >> bits < part.last:  # one that has nothing is not waited for
            around.status.watermark(part.name, NO_MARK)

    def next_batch(self) -> Iterable[SourceBatch]:
        around = self._around
        if self._finished or around.stop.is_set() or around.watch.changed is not None:
            raise StopIteration  # stopped, it has not finished: no window closes, and a resumed run goes on
        around.watch.check()
        self._polled_ns = time.monotonic_ns()
        messages = self._waiting or self._sound(self._consumer.consume(self._most, 0))
        try:
            pieces = self._pieces(messages) if messages else []
        except RegistryDown as down:
            self._waiting = messages
            self._trouble(str(down))
            self._awake = datetime.now(UTC) + timedelta(seconds=SAY_S)
            return []
        self._waiting = ()
        self._recent += messages
        if messages:
            self._row = ((messages[-1].offset() or 0) + 1) << self._form.row_bits
            if self._troubled:
                self._fine()
        if len(messages) < self._most // 2:  # a batch costs much the same, however small: let some more come
            self._awake = datetime.now(UTC) + around.poll
        bits = self._form.row_bits
        if self._end is not None and self._reached:
            self._row = max(self._row, self._end << bits)
        ended = self._end is not None and self._row >> bits >= self._end
        if ended:
            around.watch.confirm()
        batches = self._judged(pieces, ended)
        if messages or ended:
            self._commit(ended)
        return batches

    def next_awake(self) -> datetime | None:
        awake, self._awake = self._awake, None
        return awake

    def snapshot(self) -> State:
        if self._whole:
            return self._began  # nothing of it has been said
        if not self._around.resumable:  # asked for at the end all the same
            return SNAPSHOT, self._row, None, self._end, self._topic_id, self._finished
        held = self._judge.held_offset
        row = self._row if held is None else held
        return SNAPSHOT, row, self._judge.snapshot(), self._end, self._topic_id, self._finished

    def close(self) -> None:
        self._consumer.close()

    def _check(self, offset: int, live: bool) -> None:
        """Errors: UsageError where the log is not the one that the snapshot is of."""
        part = self._part
        if self._topic_id and part.topic_id and self._topic_id != part.topic_id:
            raise UsageError(
                f"{part.name}: the topic {part.topic} is not the one that the recovery folder is of; it was deleted "
                f"and made anew, or these are other brokers: {WAY_OUT}"
            )
        if not part.first <= offset <= part.last:
            raise UsageError(
                f"{part.name}: the recovery folder goes on at offset {offset}, and the topic {part.topic} has "
                f"{part.first} to {part.last}: its log was wiped, or what was not read yet has expired: {WAY_OUT}"
            )
        if self._finished and live:
            raise UsageError(
                f"{part.name}: the recovery folder is of a run with --until-end, which is over: start with a new "
                "--recovery, decisions go on in the same chains"
            )
        if self._finished and part.end is not None and part.end > offset:
            raise UsageError(
                f"{part.name} has more messages than when the run with this recovery folder ended: start with a new "
                "--recovery, decisions go on in the same chains"
            )

    def _sound(self, messages: list[Message]) -> list[Message]:
        """The messages of a batch that are some, before the end; what else is among them is heard."""
        if not any(map(Message.error, messages)):
            self._at_end = self._at_end and not messages
        else:
            for message in messages:
                error = message.error()
                self._at_end = error is not None and self._hear(error, message)
            messages = [message for message in messages if message.error() is None]
        if self._end is not None and messages and (messages[-1].offset() or 0) >= self._end:
            messages = [message for message in messages if (message.offset() or 0) < self._end]
            self._reached = True
        return messages

    def _hear(self, error: KafkaError, message: Message) -> bool:
        """Whether the end of the partition was reached. Errors: SourceLost."""
        part, offset = self._part, message.offset() or 0
        if error.code() == KafkaError._PARTITION_EOF:
            if self._troubled:
                self._fine()
            if self._end is not None and offset >= self._end:  # its last messages are no rows: compacted, or marks
                self._reached = True
            return True
        if error.code() in _JUMPED:
            at = self._row >> self._form.row_bits
            raise self._around.watch.lose(
                f"{part.name}: offset {at} of the topic {part.topic} is not there any more ({error.str()}): its log "
                f"was wiped, or what was not read yet has expired: {WAY_OUT}"
            )
        self._around.watch.doubt()
        self._trouble(sentence(error, self._around.servers))
        return False

    def _pieces(self, messages: Sequence[Message]) -> list[Piece]:
        values = list(map(Message.value, messages))
        first, last = messages[0].offset() or 0, messages[-1].offset() or 0
        if last - first == len(messages) - 1:
            offsets = np.arange(first, last + 1)
        else:  # compacted, or marks of transactions among them
            offsets = np.fromiter(map(Message.offset, messages), np.int64, len(messages))
        pieces = self._form.pieces(values, offsets)
        if self._form.row_bits:
            pieces = [_from(piece, self._row) for piece in pieces]
            rows = sum(len(piece.chunk) for piece in pieces)
            self._most = min(max(1, self._around.rows_max * len(messages) // max(rows, 1)), self._around.rows_max)
        if self._around.traced and pieces:
            links, rows_of = links_of(messages, self._form.row_bits)
            pieces[0] = replace(pieces[0], links=links, link_offsets=rows_of, polled_ns=self._polled_ns)
        return pieces

    def _judged(self, pieces: list[Piece], ended: bool) -> list[SourceBatch]:
        watch, last = self._around.watch, len(pieces) - 1
        now_s = time.monotonic()
        if not pieces:
            if not ended and (self._end is not None or now_s - self._said_s < SAY_S):
                return []
            pieces, last = [Piece()], 0
        self._said_s = now_s
        known_us = watch.answered_us if self._at_end else NO_MARK
        batches = [
            self._with_headers(self._judge.judge(piece, ended=ended and nth == last, known_us=known_us))
            for nth, piece in enumerate(pieces)
        ]
        held = self._judge.held_offset
        first = None if held is None else held >> self._form.row_bits
        self._recent = [] if first is None else [each for each in self._recent if (each.offset() or 0) >= first]
        if self._end is None:
            clock_us = watch.clock_us()
            batches = [replace(batch, now_us=clock_us) for batch in batches]
        if self._whole is not None:
            self._whole += batches
            batches, self._whole = ([whole(self._whole)], []) if ended else ([], self._whole)
        self._finished = ended
        mark_us = END if ended else batches[-1].mark_us if batches else NO_MARK
        if mark_us > NO_MARK:
            self._around.status.watermark(self._part.name, mark_us)
        return batches

    def _with_headers(self, batch: SourceBatch) -> SourceBatch:
        """With the headers of those messages whose rows are rejected."""
        if not batch.rejects.height:
            return batch
        bits = self._form.row_bits
        rows = batch.rejects["offset"].to_list()
        wanted = {row >> bits for row in rows}
        headers: dict[int | None, Any] = {
            offset: each.headers() for each in self._recent if (offset := each.offset()) in wanted
        }
        return replace(batch, beside={row: packed(found) for row in rows if (found := headers.get(row >> bits))})

    def _commit(self, ended: bool) -> None:
        if not ended and time.monotonic() - self._committed_s < COMMIT_S:
            return
        self._committed_s = time.monotonic()
        at = TopicPartition(self._part.topic, self._part.number, self._row >> self._form.row_bits)
        try:
            self._consumer.commit(offsets=[at], asynchronous=True)
        except KafkaException as error:
            log.debug("%s: the offset was not committed (%s)", self._part.name, error)

    def _trouble(self, why: str) -> None:
        if not self._troubled:
            log.warning("%s: %s; trying again until it does", self._part.name, why)
        self._troubled = True
        self._around.status.source(self._part.name, False, why)

    def _fine(self) -> None:
        self._troubled = False
        self._around.status.source(self._part.name, True)


def _from(piece: Piece, row: int) -> Piece:
    """The rows of a piece from this offset on: a snapshot can stand in the middle of a message's table."""
    offsets, cells = piece.offsets, piece.chunk.cells
    if isinstance(offsets, int) or cells is None or not len(offsets) or offsets[0] >= row:
        return piece if piece.rejects.is_empty() else replace(piece, rejects=_later(piece.rejects, row))
    at = int(np.searchsorted(offsets, row))
    return replace(piece, chunk=Chunk((), cells[at:]), offsets=offsets[at:], rejects=_later(piece.rejects, row))


def _later(rejects: pl.DataFrame, row: int) -> pl.DataFrame:
    return rejects.filter(pl.col("offset") >= row)


def links_of(messages: Iterable[Message], row_bits: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The W3C traceparents of the first sampled messages, and the offset of the first row of each."""
    links: list[str] = []
    rows: list[int] = []
    for message in messages:
        headers: Any = message.headers()
        for name, value in headers or ():
            if name == "traceparent":
                link = sampled(value)
                if link is not None:
                    links.append(link)
                    rows.append((message.offset() or 0) << row_bits)
                break
        if len(links) == LINKS_MAX:
            break
    return tuple(links), tuple(rows)
