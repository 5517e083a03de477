"""A wall clock that is set back is found; one that is set forward or drifts is no reason to end."""

import threading

from flows.clock import watched_clock


class Clocks:
    """Steady time goes on by 0.1 s a look; wall time is `ahead_s` more."""

    def __init__(self) -> None:
        self.steady_s = 0.0
        self.ahead_s = 1_000_000.0

    def steady(self) -> float:
        self.steady_s += 0.1
        return self.steady_s

    def wall(self) -> float:
        return self.steady_s + self.ahead_s


def seen(*steps_s: float) -> list[float]:
    clocks, found, looked = Clocks(), [], threading.Event()

    def steady() -> float:
        looked.set()
        return clocks.steady()

    with watched_clock(found.append, clocks.wall, steady, every_s=0.001):
        for step_s in steps_s:
            clocks.ahead_s += step_s
            for _ in range(3):
                looked.clear()
                assert looked.wait(5)
    return found


def test_a_clock_set_back_by_an_hour_is_found_once() -> None:
    (back_s,) = seen(0, -3600)
    assert 3599 < back_s < 3601


def test_a_clock_set_forward_or_back_by_a_second_is_left_alone() -> None:
    assert seen(3600, -1, 0.5) == []
