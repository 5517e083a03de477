"""Windows worked out before they close: never another decision, whatever comes in between."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from operators.adapters.gate import GateLogic, GateSpec
from operators.adapters.messages import DeadLetters, Decided, Draft, SourceBatch
from operators.adapters.tally import Tally
from operators.adapters.window import WindowLogic, WindowStep
from operators.columnar.checks import NO_REJECTS
from operators.columnar.watermark import NO_MARK
from operators.domain import Domain, Judgement, Text
from operators.ledger import from_genesis
from operators.record import with_digests
from schemas.decisions import Sealed
from schemas.reading import Abstain, Reading
from schemas.streams import Stream
from schemas.windows import Agg, WindowSpec

S = 1_000_000
LENGTH_S, WAIT_S = 10, 4
AHEAD_US = 5 * S


class Row(BaseModel):
    """A number of a key."""

    ts: int
    key: str
    value: float | None = None


class Note(BaseModel):
    """A word about a key."""

    ts: int
    key: str
    word: str


def judge(row: Any, labels: Sequence[str]) -> Judgement:
    action = "act" if "b" in labels or (row["value.last"] or 0) > 8 else "none"
    said = f"{row['value.mean']} {row['value.last']} {row['value.baseline']}"
    return Judgement({"action": action}, action, list(labels), (), said)


DOMAIN = Domain(
    name="test",
    revision="1",
    actions=("none", "act"),
    streams=(Stream("rows", Row, "key", "events"), Stream("notes", Note, "key", "context")),
    window=WindowSpec("tumbling", length_us=LENGTH_S * S),
    aggregates=tuple(Agg(f"value.{fn}", "value", fn) for fn in ("mean", "last", "last_us")),
    rule=lambda frame: frame,
    judge=judge,
    carry=("value",),
    baselines={"value": "value.mean"},
    baseline_us=40 * S,
    text=Text("notes", "word", 25 * S),
)


class Texts:
    """Reads at once: the text is its own label; `x` is not understood."""

    model: Mapping[str, str] | None = None
    unavailable: Abstain | None = None

    def submit(self, text: str) -> "Future[Reading]":
        future: Future[Reading] = Future()
        future.set_result(Reading((text,), {}, {}, Abstain.LANGUAGE if text == "x" else None))
        return future


@dataclass
class Made:
    """All that left, in order, and how often windows closed as they were drafted."""

    records: list[Sealed]
    alerts: list[dict[str, Any]]
    refused: int = 0
    drafts: int = 0
    as_drafted: int = 0


class Chain:
    """Window step, rule and gate, as the dataflow has them. ahead_us: as `draft_ahead_us`."""

    def __init__(self, ahead_us: int, live: bool = True, domain: Domain = DOMAIN) -> None:
        self.now_us = 0 if live else None
        self.made = Made([], [])
        partitions = [("r", "rows"), ("n", "notes")]
        self.step = WindowStep(domain, partitions, Tally(), 30 * S, 10_000, ahead_us)
        self.spec = GateSpec(
            domain=domain,
            partitions=["r", "n"],
            texts=Texts(),
            tally=Tally(),
            clock_ns=lambda: 0,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            deadline_ms=100.0,
            deadline_on_replay=False,
            stall_s=1.0,
            text_chars_max=100,
            renotify_us=20 * S,
            place=from_genesis,
        )
        self.window, self.gate = WindowLogic(self.step, None), GateLogic(self.spec, None)
        self.newest_s = {"r": 0, "n": 0}
        self.offset = 0

    def restart(self) -> None:
        self.window = WindowLogic(self.step, self.window.snapshot())
        self.gate = GateLogic(self.spec, self.gate.snapshot())

    def feed(self, partition: str, rows: Iterable[tuple[int, str, Any]] = (), mark_s: int | None = None) -> Made:
        """rows: (second, key, value or word). mark_s: what the watermark has reached; without, WAIT_S behind."""
        kept = []
        for second, key, said in rows:
            before_s = self.newest_s[partition] - WAIT_S
            if partition == "n" or (second // LENGTH_S + 1) * LENGTH_S > before_s:
                kept.append((key, second * S, self.offset, before_s * S, said))
            self.newest_s[partition] = max(second, self.newest_s[partition])
            self.offset += 1
        field = ("value", pl.Float64) if partition == "r" else ("word", pl.String)
        schema = {"key": pl.String, "event_us": pl.Int64, "offset": pl.Int64, "mark_us": pl.Int64, field[0]: field[1]}
        frame = pl.DataFrame(kept, schema=schema, orient="row")
        mark_us = (self.newest_s[partition] - WAIT_S if mark_s is None else mark_s) * S
        stream = "rows" if partition == "r" else "notes"
        self.take(SourceBatch(partition, stream, frame, NO_REJECTS, mark_us, self.now_us, False, 0))
        return self.made

    def finish(self) -> Made:
        for partition, stream in (("n", "notes"), ("r", "rows")):
            nothing = pl.DataFrame()
            self.take(SourceBatch(partition, stream, nothing, NO_REJECTS, NO_MARK, self.now_us, True, 0))
        return self.made

    def take(self, batch: SourceBatch) -> None:
        for item in self.window.on_batch([batch])[0]:
            if isinstance(item, DeadLetters):
                self.made.refused += item.rejects.height
                continue
            self.made.drafts += isinstance(item, Draft)
            self.made.as_drafted += item.frame is None
            if item.frame is not None:
                item = replace(item, frame=DOMAIN.rule(with_digests(item.frame, DOMAIN)))
            self.keep(self.gate.on_batch([item])[0])

    def keep(self, out: Iterable[Decided]) -> None:
        for decided in out:
            self.made.records += [record for record, _ in decided.records]
            self.made.alerts += decided.alerts


values = st.none() | st.integers(0, 10).map(float)
event = st.tuples(st.integers(-6, 6), st.sampled_from("abc"), values)
note = st.tuples(st.integers(-12, 2), st.sampled_from("abc"), st.sampled_from("bxy"))
batch = st.tuples(st.just("r"), st.lists(event, max_size=6)) | st.tuples(st.just("n"), st.lists(note, max_size=1))


@settings(max_examples=150, deadline=None)
@given(
    batches=st.lists(st.tuples(batch, st.booleans(), st.integers(0, 3)), max_size=40),
    live=st.booleans(),
    ahead_s=st.integers(1, 12),
)
def test_drafts_change_no_decision(batches: list[Any], live: bool, ahead_s: int) -> None:
    plain, drafting = Chain(0, live), Chain(ahead_s * S, live)
    clock_s = 0
    for (partition, drawn), restarts, seconds in batches:
        clock_s += seconds
        rows = [(max(clock_s + delay, 0), key, said) for delay, key, said in drawn]
        for chain in (plain, drafting):
            chain.feed(partition, rows, clock_s - WAIT_S if partition == "n" else None)
        if restarts:
            drafting.restart()
    made, expected = drafting.finish(), plain.finish()
    assert (made.records, made.alerts, made.refused) == (expected.records, expected.alerts, expected.refused)
    assert expected.drafts == expected.as_drafted == 0
    assert drafting.window.windows.rows_open == 0
    assert (drafting.step.tally.windows, drafting.spec.tally.decisions, drafting.spec.tally.cached) == (
        plain.step.tally.windows,
        plain.spec.tally.decisions,
        plain.spec.tally.cached,
    )


def drafted() -> Chain:
    """The window to 10 s is drafted, and not closed: the newest row is of 10 s, the mark at 6 s."""
    chain = Chain(AHEAD_US)
    chain.feed("n", mark_s=100)
    chain.feed("r", [(1, "a", 1.0), (2, "b", 2.0)])
    assert chain.feed("r", [(10, "a", 3.0)]) == Made([], [], drafts=1)
    return chain


def test_a_window_closes_as_it_was_drafted() -> None:
    chain = drafted()
    made = chain.feed("r", [(14, "a", 4.0)])
    assert (made.as_drafted, [record.key for record in made.records]) == (1, ["a", "b"])
    assert made.records == Chain.feed(chain, "r").records


def test_a_straggler_undoes_the_draft_and_it_is_made_again_at_half_the_time() -> None:
    chain = drafted()
    assert chain.feed("r", [(9, "b", 5.0)]).drafts == 1
    assert chain.feed("r", [(11, "b", 5.0)]).drafts == 1, "7 s of 10: half of what was left at 6 s is not over"
    assert chain.feed("r", [(12, "b", 5.0)]).drafts == 2
    assert chain.feed("r", [(8, "b", 6.0), (14, "a", 4.0)]).as_drafted == 0
    assert '"rows":3' in chain.made.records[1].text


def test_a_note_counts_for_a_draft_only_if_it_may_be_of_its_time() -> None:
    for second, as_drafted in ((10, 1), (9, 0)):
        chain = drafted()
        chain.feed("n", [(second, "a", "b")], mark_s=100)
        made = chain.feed("r", [(14, "a", 4.0)])
        assert made.as_drafted == as_drafted


def test_the_last_windows_of_a_source_may_be_drafted_before_it_says_that_it_ends() -> None:
    chain = Chain(AHEAD_US)
    chain.feed("n", mark_s=100)
    chain.feed("r", [(1, "a", 1.0), (9, "b", 2.0)])
    assert chain.finish().as_drafted == 1
    assert chain.window.windows.closed_us == LENGTH_S * S


@pytest.mark.parametrize(
    "spec",
    [
        WindowSpec("sliding", length_us=10 * S, every_us=5 * S),
        WindowSpec("session", gap_us=2 * S),
        WindowSpec("count", rows=2),
    ],
    ids=lambda spec: spec.kind,
)
def test_windows_whose_rows_live_on_are_not_drafted(spec: WindowSpec) -> None:
    chain = Chain(AHEAD_US, domain=replace(DOMAIN, window=spec))
    chain.feed("n", mark_s=100)
    for second in range(10):
        chain.feed("r", [(second, "a", 1.0)])
    assert chain.finish().drafts == 0
    assert chain.made.records
