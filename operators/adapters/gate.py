"""Rule first, model when ready: the stateful step that turns ruled windows into sealed records.

Over a bounded source the model's part is waited for, so that two replays agree; live, the rule's decision leaves at
once and the model's part follows as a revision of the same decision, or its deadline does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Protocol

import bytewax.operators as op
import orjson

from operators.adapters.messages import Decided, Draft, Windowed
from operators.adapters.tally import Tally
from operators.adapters.trace import Read, Tracer, Way
from operators.domain import Domain
from operators.ledger import Drafted, Ledger, PlaceOf
from operators.record import Words, id_of, rows_of, text_of, words
from schemas.decisions import Sealed
from schemas.reading import Abstain, Reading

SNAPSHOT = "gate/1"
RECORDS_MAX = 2_000
"""Records in one message: a burst becomes several transactions, not one huge one."""
POLL = timedelta(milliseconds=5)
PENDING = Reading(abstain=Abstain.PENDING)
NO_TEXT = Reading(abstain=Abstain.NO_TEXT)


class Texts(Protocol):
    """Where readings come from. `unavailable` says why nothing is ever read; `submit` never blocks and never raises."""

    model: Mapping[str, str] | None
    unavailable: Abstain | None

    def submit(self, text: str) -> "Future[Reading]":
        """Start reading a text."""


@dataclass(frozen=True, slots=True)
class GateSpec:
    """What the step needs besides its state. `clock_ns` (monotonic) and `now` drive deadlines and latency only."""

    domain: Domain
    partitions: Sequence[str]
    texts: Texts
    tally: Tally
    clock_ns: Callable[[], int]
    now: Callable[[], datetime]
    deadline_ms: float
    deadline_on_replay: bool
    stall_s: float
    text_chars_max: int
    renotify_us: int
    place: PlaceOf
    settled: Callable[[str], bool] | None = None  # decision id -> it stands as it is, leave it alone
    tracer: Tracer | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A window before the gate: a row of the ruled frame, its text, and the record if it was drafted."""

    row: Mapping[str, Any]
    text: Words | None
    drafted: Drafted | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A decision that left with the rule alone and whose text is still being read."""

    row: Mapping[str, Any]
    text: Words
    action: str
    future: "Future[Reading]"
    deadline_ns: int
    way: Way | None


@dataclass(slots=True)
class Out:
    """What one activation emits. records: each with the arrival of the rows that closed its window (ns), if it counts.

    replaced: actions that a revision took the place of. abstained, reused: texts not acted on, texts read before.
    """

    records: list[tuple[Sealed, int | None]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    traced: list[tuple[Sealed, Way]] = field(default_factory=list)
    abstained: int = 0
    reused: int = 0

    def leave(self, now_ns: int, tally: Tally) -> list[Decided]:
        """As messages, in bounded pieces; alerts go with the first. Latency ends here: nothing leaves sooner."""
        if not self.records and not self.alerts:
            return []
        records = [(record, None if at_ns is None else (now_ns - at_ns) // 1000) for record, at_ns in self.records]
        actions = Counter([record.action for record, _ in records])
        actions.subtract(self.replaced)
        tally.decided(actions, [took for _, took in records if took is not None], self.abstained, self.reused)
        pieces = [records[at : at + RECORDS_MAX] for at in range(0, len(records), RECORDS_MAX)] or [[]]
        traces = {record.hash: way.trace.decided(record, way.began_ns, now_ns, way.read) for record, way in self.traced}
        return [
            Decided(
                piece,
                self.alerts if nth == 0 else (),
                [(record.hash, traces[record.hash]) for record, _ in piece if record.hash in traces] if traces else (),
            )
            for nth, piece in enumerate(pieces)
        ]


class GateLogic(op.StatefulBatchLogic[Windowed | Draft, Decided, tuple[str, bytes, bytes]]):
    """The gate over one shard. State: the ledger, and the decisions whose text was still being read.

    Of a draft everything is made up to the sealed records; what no longer holds when its windows close is made again.
    Drafts are no state: restored, the window step knows of none either, and sends its windows whole.
    """

    def __init__(self, spec: GateSpec, state: tuple[str, bytes, bytes] | None) -> None:
        self.spec = spec
        version, ledger, waiting = state or (SNAPSHOT, None, b"[]")
        if version != SNAPSHOT:
            raise ValueError(f"the recovery store holds a {version} snapshot, this version reads {SNAPSHOT}")
        self.ledger = Ledger(spec.domain, spec.partitions, spec.texts.model, spec.renotify_us, ledger, spec.place)
        self.drafts: list[Case] = []
        self.waiting = [self._await(row, words(text), action) for row, text, action in orjson.loads(waiting)]

    def on_batch(self, values: list[Windowed | Draft]) -> tuple[Iterable[Decided], bool]:
        out = Out()
        tracer, began_ns = self.spec.tracer, self.spec.clock_ns()
        for windows in values:
            if isinstance(windows, Draft):
                self.drafts = [self._drafted(row) for row in rows_of(windows.frame)]
                continue
            replay = windows.now_us is None and not self.spec.deadline_on_replay
            for end_us, cases in groupby(self._cases(windows), key=lambda case: case.row["end_us"]):
                for case in cases:
                    way = None if tracer is None else _way(tracer, case.row, windows, began_ns)
                    self._decide(case, replay, windows.received_ns, out, way)
                out.alerts += self.ledger.tick(end_us)
        self._settle(out)
        return out.leave(self.spec.clock_ns(), self.spec.tally), self.RETAIN

    def on_notify(self) -> tuple[Iterable[Decided], bool]:
        out = Out()
        self._settle(out)
        return out.leave(self.spec.clock_ns(), self.spec.tally), self.RETAIN

    def on_eof(self) -> tuple[Iterable[Decided], bool]:
        out = Out()
        for waiting in self.waiting:
            self._result(waiting.future, (waiting.deadline_ns - self.spec.clock_ns()) / 1e9)
        self._settle(out)
        return out.leave(self.spec.clock_ns(), self.spec.tally), self.RETAIN

    def notify_at(self) -> datetime | None:
        return self.spec.now() + POLL if self.waiting else None

    def snapshot(self) -> tuple[str, bytes, bytes]:
        return SNAPSHOT, self.ledger.snapshot(), orjson.dumps([[w.row, w.text.text, w.action] for w in self.waiting])

    def _drafted(self, row: Mapping[str, Any]) -> Case:
        text = text_of(row, self.spec.domain)
        reading = self._at_hand(row["key"], text) or PENDING
        return Case(row, text, self.ledger.draft(row, None if text is None else text.sha256, reading, 0))

    def _cases(self, windowed: Windowed) -> Iterable[Case]:
        drafts, self.drafts = self.drafts, []
        if windowed.frame is None:
            assert drafts, "windows closed as drafted, and there is no draft"
            return drafts
        return (Case(row, text_of(row, self.spec.domain)) for row in rows_of(windowed.frame))

    def _decide(self, case: Case, replay: bool, received_ns: int, out: Out, way: Way | None) -> None:
        row, text = case.row, case.text
        if self.spec.settled is not None and self.spec.settled(id_of(row, self.spec.domain)):
            return
        reading = self._at_hand(row["key"], text)
        if text is not None and reading is None:
            reads = way and way._replace(began_ns=self.spec.clock_ns())
            future = self.spec.texts.submit(text.text)
            if replay:
                action = self._append(out, case, PENDING, 0, None, received_ns, way)
                reading = self._learn(row["key"], text, self._result(future, self.spec.stall_s))
                self._append(out, case, reading, 1, action, None, self._has_read(reads, text, reading))
                return
            if not future.done():
                action = self._append(out, case, PENDING, 0, None, received_ns, way)
                self.waiting.append(self._await(row, text, action, future, reads))
                return
            reading = self._learn(row["key"], text, future.result())
            way = self._has_read(reads, text, reading)
        elif text is not None and reading is self.ledger.known(row["key"], text.sha256):
            out.reused += 1
        self._append(out, case, reading or NO_TEXT, 0, None, received_ns, way)

    def _at_hand(self, key: str, text: Words | None) -> Reading | None:
        """A reading that needs no model call now, or None where the text has to be read first."""
        if text is None:
            return NO_TEXT
        if self.spec.texts.unavailable is not None:
            return Reading(abstain=self.spec.texts.unavailable)
        if len(text.text) > self.spec.text_chars_max:
            return Reading(abstain=Abstain.TOO_LONG)
        return self.ledger.known(key, text.sha256)

    def _learn(self, key: str, text: Words, reading: Reading) -> Reading:
        # A pool that was full or late says nothing of the text: ask again for the next window.
        if reading.abstain not in (Abstain.BUSY, Abstain.DEADLINE):
            self.ledger.learn(key, text.sha256, reading)
        return reading

    def _has_read(self, way: Way | None, text: Words, reading: Reading) -> Way | None:
        return way and way._replace(read=Read(text.text, reading, way.began_ns, self.spec.clock_ns()))

    def _await(
        self,
        row: Mapping[str, Any],
        text: Words,
        action: str,
        future: "Future[Reading] | None" = None,
        way: Way | None = None,
    ) -> Waiting:
        deadline_ns = self.spec.clock_ns() + int(self.spec.deadline_ms * 1e6)
        return Waiting(row, text, action, future or self.spec.texts.submit(text.text), deadline_ns, way)

    @staticmethod
    def _result(future: "Future[Reading]", timeout_s: float) -> Reading:
        try:
            return future.result(max(timeout_s, 0.0))
        except TimeoutError:
            return Reading(abstain=Abstain.DEADLINE)

    def _settle(self, out: Out) -> None:
        still = []
        for waiting in self.waiting:
            if not waiting.future.done() and self.spec.clock_ns() < waiting.deadline_ns:
                still.append(waiting)
                continue
            reading = self._learn(waiting.row["key"], waiting.text, self._result(waiting.future, 0.0))
            way = self._has_read(waiting.way, waiting.text, reading)
            self._append(out, Case(waiting.row, waiting.text), reading, 1, waiting.action, None, way)
        self.waiting = still

    def _append(
        self,
        out: Out,
        case: Case,
        reading: Reading,
        revision: int,
        replaces: str | None,
        received_ns: int | None = None,
        way: Way | None = None,
    ) -> str:
        text_sha = None if case.text is None else case.text.sha256
        record, alerts = self.ledger.append(case.row, text_sha, reading, revision, case.drafted)
        out.records.append((record, received_ns))
        if way is not None:
            out.traced.append((record, way))
        out.alerts += alerts
        if replaces is not None:
            out.replaced.append(replaces)
        if text_sha is not None and reading.abstain not in (None, Abstain.PENDING):
            out.abstained += 1
        return record.action


def _way(tracer: Tracer, row: Mapping[str, Any], windows: Windowed, closed_ns: int) -> Way | None:
    of_key = windows.linked.get(row["key"])
    linked = None if of_key is None else of_key.get((row["start_us"], row["end_us"]))
    trace = tracer.decision(row, linked, windows.received_ns, closed_ns)
    return None if trace is None else Way(trace, closed_ns)
