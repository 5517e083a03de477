"""A wall clock that is set back, found in time: Bytewax wakes a waiting source by that clock, and would sleep on.

It has no way to be woken otherwise, so the run ends here, as by a power cut, and says so; started again it goes on.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from schemas.errors import SourceLost

BACK_S = 2.0
"""A smaller step only delays a run by as much."""
EVERY_S = 0.5

Clock = Callable[[], float]


def _end(back_s: float) -> None:
    sys.stderr.write(
        f"tidegate: the clock of this machine was set back by {back_s:.0f} s, and sources would wait for so long: the "
        "run ends; start it again, with the same --recovery it goes on from where it was\n"
    )
    sys.stderr.flush()
    os._exit(SourceLost.exit_code)


@contextmanager
def watched_clock(
    end: Callable[[float], None] = _end,
    wall: Clock = time.time,
    steady: Clock = time.monotonic,
    every_s: float = EVERY_S,
) -> Iterator[None]:
    """While this is open, `end` is called with the seconds by which the wall clock was set back, once it was."""
    over = threading.Event()

    def watch() -> None:
        wall_s, steady_s = wall(), steady()
        while not over.wait(every_s):
            wall_now_s, steady_now_s = wall(), steady()
            back_s = (steady_now_s - steady_s) - (wall_now_s - wall_s)
            if back_s > BACK_S:
                end(back_s)
            wall_s, steady_s = wall_now_s, steady_now_s

    thread = threading.Thread(target=watch, name="clock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
