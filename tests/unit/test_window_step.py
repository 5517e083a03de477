"""The window step: when windows close, and what happens to rows that come after."""

import orjson
import polars as pl
import pytest
from pydantic import BaseModel

from operators.adapters.messages import DeadLetters, SourceBatch, Windowed
from operators.adapters.tally import Tally
from operators.adapters.window import State, WindowLogic, WindowStep
from operators.columnar.checks import NO_REJECTS
from operators.columnar.watermark import NO_MARK
from operators.domain import Domain, Judgement
from schemas.errors import TidegateError, UsageError
from schemas.streams import Stream
from schemas.windows import Agg, WindowSpec

S = 1_000_000


class Row(BaseModel):
    """A number of a key."""

    ts: int
    key: str
    value: float | None = None


class Label(BaseModel):
    """A word about a key."""

    ts: int
    key: str
    word: str


DOMAIN = Domain(
    name="test",
    revision="1",
    actions=("none",),
    streams=(Stream("rows", Row, "key", "events"), Stream("labels", Label, "key", "context")),
    window=WindowSpec("tumbling", length_us=10 * S),
    aggregates=(Agg("value.mean", "value", "mean"),),
    rule=lambda frame: frame,
    judge=lambda row, labels: Judgement({}, "none", (), (), ""),
)


class Step:
    """A window step and a counter of offsets."""

    def __init__(self, state: State | None = None, open_rows_max: int = 100, partitions: str = "abl") -> None:
        self.tally = Tally()
        named = [(name, "labels" if name == "l" else "rows") for name in partitions]
        spec = WindowStep(DOMAIN, named, self.tally, 30 * S, open_rows_max)
        self.logic = WindowLogic(spec, state)

    def feed(
        self,
        partition: str,
        seconds: list[int],
        now_s: int | None = None,
        finished: bool = False,
        mark_s: int | None = None,
    ) -> list[Windowed | DeadLetters]:
        extra = {"word": ["w"] * len(seconds)} if partition == "l" else {"value": [float(s) for s in seconds]}
        rows = pl.DataFrame(
            {
                "key": ["k"] * len(seconds),
                "event_us": [s * S for s in seconds],
                "offset": list(range(len(seconds))),
                **extra,
                "mark_us": [NO_MARK] * len(seconds),
            },
            schema_overrides={"event_us": pl.Int64, "offset": pl.Int64, "mark_us": pl.Int64},
        )
        mark_us = mark_s * S if mark_s is not None else max(seconds, default=0) * S if seconds else NO_MARK
        stream = "labels" if partition == "l" else "rows"
        now_us = None if now_s is None else now_s * S
        batch = SourceBatch(partition, stream, rows, NO_REJECTS, mark_us, now_us, finished, 0)
        return list(self.logic.on_batch([batch])[0])


def ends(out: list[Windowed | DeadLetters]) -> list[int]:
    return [end // S for item in out if isinstance(item, Windowed) for end in item.frame["end_us"]]


def test_a_window_closes_when_the_slowest_partition_has_passed_it() -> None:
    step = Step()
    assert step.feed("l", [], finished=True) == []
    assert step.feed("a", [1, 25]) == []
    assert ends(step.feed("b", [2, 12])) == [10]
    assert ends(step.feed("b", [40])) == [20]
    assert ends(step.feed("a", [], finished=True)) == [30]
    assert ends(step.feed("b", [], finished=True)) == [50]
    assert step.tally.windows == 4


def test_context_is_joined_as_of_the_windows_end() -> None:
    step = Step()
    step.feed("l", [5, 15], finished=True)
    step.feed("b", [], finished=True)
    (windowed,) = step.feed("a", [1, 11, 21], finished=True)
    assert isinstance(windowed, Windowed)
    assert windowed.frame["labels_us"].to_list() == [5 * S, 15 * S, 15 * S]


def test_a_partition_that_comes_back_from_idle_finds_its_windows_closed() -> None:
    step = Step()
    step.feed("l", [], now_s=0, finished=True)
    step.feed("b", [1], now_s=0)
    step.feed("a", [2, 12, 25], now_s=1)
    assert ends(step.feed("a", [26], now_s=31)) == [10, 20], "b is silent for 30 s and holds nobody back"
    late, *rest = step.feed("b", [12, 29], now_s=32)
    assert isinstance(late, DeadLetters)
    assert rest == []
    (row,) = late.rejects.to_dicts()
    assert (late.source, row["offset"], row["reason"]) == ("b", 0, "late")
    assert orjson.loads(row["raw"]) == {"key": "k", "event_us": 12 * S, "offset": 0, "value": 12.0}
    assert (step.tally.rows["used"], step.tally.rows["late"]) == (-1, 1)


def test_a_restored_step_goes_on_with_the_same_windows() -> None:
    whole, first = Step(), Step()
    for step in (whole, first):
        step.feed("l", [3], finished=True)
        step.feed("a", [1, 12])
        step.feed("b", [2, 11])
    second = Step(first.logic.snapshot())
    for partition in "ab":
        expected, got = (step.feed(partition, [30], finished=True) for step in (whole, second))
        assert [item.frame.to_dicts() for item in expected if isinstance(item, Windowed)] == [
            item.frame.to_dicts() for item in got if isinstance(item, Windowed)
        ]
    assert expected


def test_a_restored_step_knows_its_rows_by_partition_though_new_ones_stand_among_them() -> None:
    first = Step()
    first.feed("l", [3])
    first.feed("a", [1])
    first.feed("b", [2])
    second = Step(first.logic.snapshot(), partitions="acbl")
    for partition in "lacb":
        out = second.feed(partition, [30], finished=True)
    (closed,) = [item.frame for item in out if isinstance(item, Windowed) and item.frame is not None]
    row = closed.row(0, named=True)
    assert [second.logic.names[part["partition"]] for part in row["offsets"]] == ["a", "b"]
    assert second.logic.names[row["labels_partition"]] == "l"
    with pytest.raises(UsageError, match="knows the partition b,"):
        Step(first.logic.snapshot(), partitions="al")


def test_more_open_rows_than_allowed_stop_the_run_and_name_the_setting() -> None:
    with pytest.raises(TidegateError, match="open_rows_max = 3"):
        Step(open_rows_max=3).feed("a", [1, 2, 3, 4])


def test_a_snapshot_of_another_version_is_not_taken() -> None:
    with pytest.raises(ValueError, match="window/0"):
        Step(("window/0", {}))
