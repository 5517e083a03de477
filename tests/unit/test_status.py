import threading
from pathlib import Path

from flows.connectors.replay import ACCEPTED, ReplaySource, accepted_partitions
from flows.registry import load_flow
from flows.status import Status, not_ready
from operators.adapters.tally import Tally
from operators.columnar.watermark import END, NO_MARK
from schemas.settings import Settings

NOW_S = 1_772_438_400.0
LIMITS = {"lag_max_s": 120.0, "idle_s": 30.0, "behind_max": 100}


class Clock:
    """Both clocks of a status, which a test moves."""

    def __init__(self) -> None:
        self.wall_s, self.at_s = NOW_S, 50.0

    def status(self, *, live: bool = True) -> Status:
        status = Status(lambda: self.wall_s, lambda: self.at_s)
        status.phase("running", live=live)
        return status

    def on(self, seconds: float) -> None:
        self.wall_s += seconds
        self.at_s += seconds


def us(seconds: float) -> int:
    return int(seconds * 1e6)


def test_a_run_is_ready_while_it_runs_and_at_no_other_time() -> None:
    status = Status()
    assert not_ready(status.snapshot(), **LIMITS) == ["the flow is starting"]
    status.phase("running", live=False)
    assert not_ready(status.snapshot(), **LIMITS) == []
    status.phase("draining")
    assert not_ready(status.snapshot(), **LIMITS) == ["the flow is draining, it is about to end"]
    status.phase("ended")
    assert not_ready(status.snapshot(), **LIMITS) == ["the flow is at its end"]


def test_a_source_that_cannot_be_reached_is_named_with_the_reason_and_for_how_long() -> None:
    clock = Clock()
    status = clock.status()
    status.source("kafka", True)
    clock.on(10)
    status.source("kafka", False, "connection refused")
    clock.on(5)
    status.source("kafka", False, "no route to host")  # it is still the same time away
    clock.on(2)
    assert not_ready(status.snapshot(), **LIMITS) == [
        "the source kafka cannot be reached for 7 s: no route to host",
    ]
    status.source("kafka", True)
    assert not_ready(status.snapshot(), **LIMITS) == []


def test_an_outlet_counts_once_it_is_further_behind_than_its_limit() -> None:
    status = Clock().status()
    status.outlet("mqtt", behind=100, sent=5, failed=2, why="refused")
    assert not_ready(status.snapshot(), **LIMITS) == []
    status.outlet("mqtt", behind=101, sent=5, failed=3, why="refused")
    assert not_ready(status.snapshot(), **LIMITS) == [
        "the outlet mqtt is 101 items behind, more than outlet_behind_max = 100: refused"
    ]


def test_the_slowest_partition_that_speaks_decides_on_the_lag_and_only_where_rows_come_as_they_happen() -> None:
    for live in (True, False):
        clock = Clock()
        status = clock.status(live=live)
        status.watermark("vitals/0", us(NOW_S - 10))
        status.watermark("vitals/1", us(NOW_S - 119))
        assert not_ready(status.snapshot(), **LIMITS) == []
        clock.on(1)
        lag = "event time is 120 s behind the clock, at vitals/1: ready_lag_max_s is 120"
        assert not_ready(status.snapshot(), **LIMITS) == ([lag] if live else [])


def test_a_partition_that_is_silent_or_has_ended_holds_nothing_back() -> None:
    clock = Clock()
    status = clock.status()
    status.watermark("vitals/0", us(NOW_S - 100))
    status.watermark("vitals/1", NO_MARK)
    assert not_ready(status.snapshot(), **LIMITS) == ["nothing has come from vitals/1 yet"]
    clock.on(30)
    assert not_ready(status.snapshot(), **LIMITS) == []
    status.watermark("vitals/0", us(NOW_S - 99))  # back again, and now too far behind
    assert len(not_ready(status.snapshot(), **LIMITS)) == 1
    status.watermark("vitals/0", END)
    assert not_ready(status.snapshot(), **LIMITS) == []


def test_a_run_is_ready_before_anybody_has_accepted_anything(tmp_path: Path) -> None:
    settings, status = Settings(), Clock().status()
    partitions = accepted_partitions(load_flow("ward", settings), tmp_path / "t.db", settings, live=True)
    source = ReplaySource(partitions, settings, Tally(), speed=0, live=True, status=status)
    source.build_part("source", ACCEPTED, None)
    assert status.snapshot().sources[ACCEPTED].connected
    assert not_ready(status.snapshot(), **LIMITS) == []


def test_a_clock_that_is_set_makes_no_partition_silent() -> None:
    clock = Clock()
    status = clock.status()
    status.watermark("vitals/0", us(NOW_S))
    clock.wall_s += 3600
    assert not_ready(status.snapshot(), **LIMITS) == [
        "event time is 3600 s behind the clock, at vitals/0: ready_lag_max_s is 120"
    ]


def test_a_mark_never_goes_back_and_one_that_is_said_again_is_no_news() -> None:
    clock = Clock()
    status = clock.status()
    status.watermark("vitals/0", us(NOW_S))
    clock.on(8)
    status.watermark("vitals/0", us(NOW_S - 50))
    status.watermark("vitals/0", us(NOW_S))
    mark = status.snapshot().marks["vitals/0"]
    assert (mark.mark_us, mark.moved_s) == (us(NOW_S), 50.0)
    assert status.snapshot().lag_s("vitals/0") == 8


def test_a_snapshot_stays_as_it_was_and_many_threads_may_write() -> None:
    status = Clock().status()
    before = status.snapshot()

    def write(name: str) -> None:
        for count in range(500):
            status.source(name, True)
            status.watermark(name, count)
            status.outlet(name, count, count, 0)

    threads = [threading.Thread(target=write, args=[f"s{number}"]) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        status.snapshot()
    after = status.snapshot()
    assert not before.sources
    assert {name: mark.mark_us for name, mark in after.marks.items()} == {f"s{number}": 499 for number in range(4)}
    status.forget()
    assert not status.snapshot().marks
    assert len(status.snapshot().outlets) == 4
