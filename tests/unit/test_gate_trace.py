"""What the gate tells whoever traces it: each record once, from when to when, and the reading that it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from operators.adapters.gate import RECORDS_MAX
from operators.adapters.messages import Decided, Linked, Windowed
from operators.adapters.trace import Read, Trace
from schemas.decisions import Sealed
from tests.unit.test_gate_step import BAD, Bench, Texts
from tests.unit.test_ledger import row

Told = tuple[str, int, int, int, str | None]


@dataclass
class Recorder:
    """A tracer that traces what it is told to. told: name, revision, began, ended, text read."""

    keys: tuple[str, ...]
    asked: list[tuple[Linked | None, int, int]] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)

    def decision(self, row: Mapping[str, Any], linked: Linked | None, arrived_ns: int, closed_ns: int) -> Trace | None:
        self.asked.append((linked, arrived_ns, closed_ns))
        return _Named(row["key"], self) if row["key"] in self.keys else None


@dataclass
class _Named:
    name: str
    recorder: Recorder

    def decided(self, record: Sealed, began_ns: int, ended_ns: int, read: Read | None) -> str:
        text = None if read is None else f"{read.text} {read.reading.labels} {read.began_ns}-{read.ended_ns}"
        self.recorder.told.append((self.name, record.revision, began_ns, ended_ns, text))
        return f"{self.name}/{record.revision}"


def traces(out: object) -> list[tuple[str, str]]:
    messages: list[Decided] = list(out)  # type: ignore[call-overload]
    return [trace for message in messages for trace in message.traces]


def test_a_live_revision_is_traced_from_when_reading_began_to_when_it_left() -> None:
    texts, recorder = Texts(), Recorder(("k",))
    bench = Bench(texts, tracer=recorder)
    bench.ns = 10
    window = row(0, note="hello")
    window["key"] = "k"
    linked = {"k": {(window["start_us"], window["end_us"]): Linked(("m",), 3)}}
    out, _ = bench.logic.on_batch([Windowed(pl.DataFrame([window]), 1, 7, linked)])
    assert recorder.asked == [(Linked(("m",), 3), 7, 10)]
    assert [trace for _, trace in traces(out)] == ["k/0"]
    bench.ns = 25
    texts.futures[0].set_result(BAD)
    out, _ = bench.logic.on_notify()
    (message,) = list(out)
    assert message.traces == [(message.records[0][0].hash, "k/1")]
    assert recorder.told == [("k", 0, 10, 10, None), ("k", 1, 10, 25, "hello ('bad',) 10-25")]


def test_each_piece_of_a_burst_has_the_traces_of_its_own_records() -> None:
    recorder = Recorder(("k-0", f"k-{RECORDS_MAX}"))
    bench = Bench(Texts(), tracer=recorder)
    rows = [{**row(0, note=None), "key": f"k-{at}"} for at in range(RECORDS_MAX + 1)]
    out, _ = bench.logic.on_batch([Windowed(pl.DataFrame(rows), 1, 7)])
    first, second = list(out)
    assert [trace for _, trace in first.traces] == ["k-0/0"]
    assert [trace for _, trace in second.traces] == [f"k-{RECORDS_MAX}/0"]
    assert second.traces[0][0] == second.records[0][0].hash
    assert {linked for linked, _, _ in recorder.asked} == {None}


def test_what_is_restored_is_no_longer_traced_and_goes_on() -> None:
    texts, recorder = Texts(), Recorder(("k",))
    bench = Bench(texts, tracer=recorder)
    bench.feed(0, now_us=1)
    again = Bench(texts, bench.logic.snapshot(), tracer=recorder)
    texts.futures[-1].set_result(BAD)
    assert traces(again.logic.on_notify()[0]) == []
