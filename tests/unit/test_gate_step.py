"""The gate step: what leaves at once, what follows, and what never comes."""

from concurrent.futures import Future
from datetime import UTC, datetime

import orjson
import polars as pl

from operators.adapters.gate import GateLogic, GateSpec
from operators.adapters.messages import Decided, Draft, Windowed
from operators.adapters.tally import Tally
from operators.ledger import from_genesis
from schemas.reading import Abstain, Reading
from tests.unit.test_ledger import domain, row

BAD = Reading(("bad",), {"bad": 0.9}, {"bad": [(0, 5)]})


class Texts:
    """Readings that come when the test says so."""

    model: dict[str, str] | None = {"name": "test", "sha256": "0" * 64}  # noqa: RUF012
    unavailable: Abstain | None = None

    def __init__(self) -> None:
        self.futures: list[Future[Reading]] = []

    def submit(self, text: str) -> "Future[Reading]":
        self.futures.append(Future())
        return self.futures[-1]


class Bench:
    """A gate step with a clock that the test moves."""

    def __init__(self, texts: Texts, state: tuple[str, bytes, bytes] | None = None, **changes: object) -> None:
        self.ns = 0
        self.tally = Tally()
        values: dict[str, object] = {
            "domain": domain(),
            "partitions": ["vitals"],
            "texts": texts,
            "tally": self.tally,
            "clock_ns": lambda: self.ns,
            "now": lambda: datetime(2026, 1, 1, tzinfo=UTC),
            "deadline_ms": 100.0,
            "deadline_on_replay": False,
            "stall_s": 0.05,
            "text_chars_max": 1000,
            "renotify_us": 10**12,
            "place": from_genesis,
        }
        self.logic = GateLogic(GateSpec(**(values | changes)), state)  # type: ignore[arg-type]

    def feed(self, minute: int, now_us: int | None, note: str | None = "hello") -> list[tuple[int, str, str | None]]:
        out, _ = self.logic.on_batch([Windowed(pl.DataFrame([row(minute, note=note)]), now_us, 0)])
        return said(out)


def said(out: object) -> list[tuple[int, str, str | None]]:
    messages: list[Decided] = list(out)  # type: ignore[call-overload]
    records = [orjson.loads(record.text) for message in messages for record, _ in message.records]
    return [(record["revision"], record["action"], record["model"]["abstain"]) for record in records]


def test_live_the_rule_leaves_at_once_and_the_reading_follows_as_a_revision() -> None:
    texts = Texts()
    bench = Bench(texts)
    assert bench.feed(0, now_us=1) == [(0, "none", "pending")]
    assert bench.logic.notify_at() is not None
    assert said(bench.logic.on_notify()[0]) == []
    texts.futures[0].set_result(BAD)
    assert said(bench.logic.on_notify()[0]) == [(1, "act", None)]
    assert bench.logic.notify_at() is None
    assert bench.feed(1, now_us=2) == [(0, "act", None)], "the next window has it from the start"
    assert len(texts.futures) == 1


def test_live_a_stalled_model_costs_a_deadline_and_never_the_decision() -> None:
    bench = Bench(Texts())
    bench.feed(0, now_us=1)
    bench.ns = 101_000_000
    assert said(bench.logic.on_notify()[0]) == [(1, "none", "deadline")]
    assert bench.feed(1, now_us=2) == [(0, "none", "pending")], "the text is asked for again"
    assert bench.tally.decisions == {"none": 2}


def test_on_a_replay_the_reading_is_waited_for() -> None:
    texts = Texts()
    texts.submit = lambda text: _done(BAD)  # type: ignore[method-assign]
    bench = Bench(texts)
    assert bench.feed(0, now_us=None) == [(0, "none", "pending"), (1, "act", None)]
    assert bench.tally.decisions == {"none": 0, "act": 1}


def test_on_a_replay_a_model_that_hangs_is_given_up() -> None:
    assert Bench(Texts()).feed(0, now_us=None) == [(0, "none", "pending"), (1, "none", "deadline")]


def test_a_draft_whose_place_in_the_chain_was_taken_meanwhile_is_made_again() -> None:
    texts = Texts()
    bench, plain = Bench(texts), Bench(texts)
    for each in (bench, plain):
        each.feed(0, now_us=1)
    bench.logic.on_batch([Draft(pl.DataFrame([row(1)]))])
    for each, future in zip((bench, plain), texts.futures, strict=True):
        future.set_result(BAD)
        assert said(each.logic.on_notify()[0]) == [(1, "act", None)]
    (as_drafted,) = list(bench.logic.on_batch([Windowed(None, 2, 0)])[0])
    (whole,) = list(plain.logic.on_batch([Windowed(pl.DataFrame([row(1)]), 2, 0)])[0])
    assert as_drafted == whole
    assert as_drafted.records[0][0].seq == 2
    assert bench.tally.cached == plain.tally.cached == 1


def test_what_was_being_read_when_the_power_went_is_read_again() -> None:
    bench = Bench(Texts())
    bench.feed(0, now_us=1)
    texts = Texts()
    again = Bench(texts, bench.logic.snapshot())
    texts.futures[0].set_result(BAD)
    out, _ = again.logic.on_notify()
    (message,) = list(out)
    record, _ = message.records[0]
    assert (record.revision, record.seq, record.action) == (1, 1, "act")


def test_a_text_that_cannot_be_read_says_why_and_calls_no_model() -> None:
    texts = Texts()
    bench = Bench(texts, text_chars_max=3)
    assert bench.feed(0, now_us=1) == [(0, "none", "too_long")]
    assert bench.feed(1, now_us=1, note=None) == [(0, "none", "no_text")]
    texts.unavailable = Abstain.MODEL_REFUSED
    assert bench.feed(2, now_us=1) == [(0, "none", "model_refused")]
    assert not texts.futures
    assert bench.tally.abstained == 2


def test_at_the_end_of_the_source_nothing_is_left_waiting() -> None:
    texts = Texts()
    bench = Bench(texts, deadline_ms=20.0)
    bench.feed(0, now_us=1)
    texts.futures[0].set_result(BAD)
    assert said(bench.logic.on_eof()[0]) == [(1, "act", None)]
    assert bench.logic.waiting == []


def _done(reading: Reading) -> "Future[Reading]":
    future: Future[Reading] = Future()
    future.set_result(reading)
    return future
