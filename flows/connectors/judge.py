"""Raw rows of one source partition -> what the partition says: decoded, judged, counted. For every source alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.connectors.files import NOTHING, Chunk
from flows.connectors.partitions import Partitions
from operators.adapters.messages import SourceBatch, Timing
from operators.adapters.tally import Tally
from operators.columnar.checks import NO_REJECTS
from operators.columnar.codec import Codec, Decoded
from operators.columnar.intake import Intake, IntakeSpec
from operators.columnar.mapping import Mapping
from operators.columnar.watermark import END, NO_MARK
from operators.columnar.windows import late_before_us
from operators.domain import Domain
from schemas.settings import Settings
from schemas.streams import Stream

FAR_US = 2**55  # a thousand years
Offsets = NDArray[np.int64]


def now_us() -> int:
    """This machine's clock."""
    return time.time_ns() // 1000


def codec_of(stream: Stream, settings: Settings, mapping: Mapping | None) -> Codec:
    """The decoder of a stream under these settings. Errors: UsageError for a mapping that does not fit."""
    return Codec(stream, ts_unit=settings.ts_unit, line_bytes_max=settings.line_bytes_max, mapping=mapping)


def intake_of(
    domain: Domain, stream: Stream, settings: Settings, mapping: Mapping | None, *, live: bool = False
) -> IntakeSpec:
    """How rows of a stream are judged under these settings; by a mapping, time may run per key.

    Context of a bounded source needs no watermark and no guard: each row counts from its own time on, wherever it
    stands in its file, and one that is dated too far ahead reaches no window.
    """
    whole = stream.role == "context" and not live
    layout = mapping.streams.get(stream.name) if mapping else None
    return IntakeSpec(
        role=stream.role,
        wait_us=FAR_US if whole else int(settings.allowed_lateness_s * 1e6),
        max_future_us=FAR_US if whole else int(settings.max_future_s * 1e6),
        lookahead_rows=settings.future_lookahead_rows,
        dedupe_horizon_us=int(settings.dedupe_horizon_s * 1e6),
        seq=stream.seq,
        per_key_time=layout is not None and layout.time == "key",
        late_before=partial(late_before_us, spec=domain.window) if stream.role == "events" else None,
    )


def decode(codec: Codec, chunk: Chunk, offsets: Offsets | int) -> Decoded:
    """Decode rows that stand at these offsets (n,), which rise; an int is the first of a run without gaps."""
    if isinstance(offsets, int):
        first, sparse = offsets, None
    elif not len(offsets) or offsets[-1] - offsets[0] == len(offsets) - 1:
        first, sparse = int(offsets[0]) if len(offsets) else 0, None
    else:
        first, sparse = 0, offsets
    if chunk.cells is None:
        decoded = codec.decode_lines(chunk.lines, first)
    else:
        decoded = codec.decode_frame(chunk.cells, first, chunk.raw)
    if sparse is None:
        return decoded
    return Decoded(_placed(decoded.rows, sparse), _placed(decoded.rejects, sparse), decoded.checked)


def _placed(rows: pl.DataFrame, offsets: Offsets) -> pl.DataFrame:
    if not rows.height:
        return rows
    return rows.with_columns(pl.Series("offset", offsets[rows["offset"].to_numpy()]))


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one partition as they came. offsets: of each row, rising; an int is the first of a run without gaps.

    rejects: rows that are out before any decoding (columns `checks.REJECTS`), their offsets not among the others.
    For tracing: links of the messages that brought them; link_offsets: of each, its first row; polled_ns: when they
    were asked for (monotonic), if it was noted.
    """

    chunk: Chunk = NOTHING
    offsets: Offsets | int = 0
    rejects: pl.DataFrame = field(default_factory=NO_REJECTS.clear)
    header: bytes | None = None
    links: tuple[str, ...] = ()
    link_offsets: tuple[int, ...] = ()
    polled_ns: int | None = None


class Judge:
    """One partition's rows on their way in. state: what `snapshot` gave, None at the start.

    clock_us: this machine's clock where rows come as they happen; None over a bounded source.
    notice: one sentence for the log where something of the state could not be used, else None.
    """

    def __init__(
        self,
        name: str,
        stream: Stream,
        codec: Codec,
        intake: IntakeSpec,
        tally: Tally,
        clock_us: Callable[[], int] | None,
        state: bytes | None = None,
    ) -> None:
        self._name, self._stream, self._codec, self._tally = name, stream, codec, tally
        self._clock_us, self._wait_us = clock_us, intake.wait_us
        self._intake = Intake(intake, state)
        self._said_us = NO_MARK
        self.notice = self._intake.notice

    @property
    def held_offset(self) -> int | None:
        """Offset of the first row that is not judged yet: with `snapshot` as it is now, read again from there."""
        return self._intake.held_offset

    def snapshot(self) -> bytes:
        """What is remembered of the rows so far, or before `held_offset`."""
        return self._intake.snapshot()

    def judge(self, piece: Piece, *, ended: bool = False, known_us: int = END) -> SourceBatch:
        """Decode, judge and count. Without rows it says how far time has come.

        ended: the partition says no more. known_us: live, what was sent before this time has been read, as far as can
        be told; NO_MARK where there is more to read. A context's mark follows the clock no further than that.
        The batch's `now_us` is `clock_us` as of now.
        """
        began_ns = time.monotonic_ns()
        chunk, offsets = piece.chunk, piece.offsets
        decoded = decode(self._codec, chunk, offsets)
        now = None if self._clock_us is None else self._clock_us()

        def raw(wanted: Offsets) -> Sequence[bytes]:
            places = wanted - offsets if isinstance(offsets, int) else np.searchsorted(offsets, wanted)
            return list(map(chunk.raw, places.tolist()))

        admitted = self._intake.admit(decoded.rows, raw, now, ended)
        some = [rejects for rejects in (piece.rejects, decoded.rejects, admitted.rejects) if rejects.height]
        rejects = pl.concat(some) if some else NO_REJECTS
        self._tally.admitted(
            used=admitted.rows.height + decoded.checked,
            duplicate=admitted.duplicates,
            rejected=dict(rejects["reason"].value_counts().iter_rows()) if rejects.height else {},
        )
        rows, mark_us = admitted.rows, admitted.mark_us
        if now is not None and self._stream.role == "context":
            # Live, notes are rare and must hold no decision back: what has not come by now counts from when it comes.
            rows = rows.with_columns(pl.max_horizontal("mark_us", pl.lit(self._said_us)).alias("mark_us"))
            mark_us = max(mark_us, self._said_us, min(now - self._wait_us, known_us))
        self._said_us = mark_us
        done_ns = time.monotonic_ns()
        return SourceBatch(
            partition=self._name,
            stream=self._stream.name,
            rows=rows,
            rejects=rejects,
            mark_us=mark_us,
            now_us=now,
            finished=ended,
            received_ns=done_ns,
            beside=dict.fromkeys(rejects["offset"], piece.header) if piece.header is not None else {},
            links=piece.links,
            link_offsets=piece.link_offsets,
            timing=Timing(began_ns if piece.polled_ns is None else piece.polled_ns, began_ns, done_ns),
        )


def whole(parts: Sequence[SourceBatch]) -> SourceBatch:
    """The batches of a bounded context partition as one, in event time: known before anything is decided."""
    first, last = parts[0].timing, parts[-1]
    return SourceBatch(
        partition=last.partition,
        stream=last.stream,
        rows=pl.concat([part.rows for part in parts]).sort("event_us", maintain_order=True),
        rejects=pl.concat([part.rejects for part in parts]),
        mark_us=last.mark_us,
        now_us=last.now_us,
        finished=last.finished,
        received_ns=last.received_ns,
        beside={offset: kept for part in parts for offset, kept in part.beside.items()},
        links=tuple(link for part in parts for link in part.links),
        link_offsets=tuple(offset for part in parts for offset in part.link_offsets),
        timing=Timing(first.polled_ns, first.judged_ns, last.received_ns) if first else None,
    )


@dataclass(frozen=True)
class Opened:
    """A source ready to run. partitions: (name, stream) of each, in a fixed order.

    changed: after the dataflow has ended, why it has to be started again from its recovery store, or None.
    close: let go of what the source holds beside its partitions.
    """

    source: Partitions
    partitions: Sequence[tuple[str, str]]
    changed: Callable[[], str | None] = lambda: None
    close: Callable[[], None] = lambda: None
