import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flows.stopping import Drain, Stop

SLOW = """
import time
from flows.stopping import Drain, Stop
with Drain(Stop(), LIMIT):
    print("ready", flush=True)
    time.sleep(30)
"""


def test_a_signal_asks_the_run_to_end_and_tells_those_who_want_to_know() -> None:
    stop, told = Stop(), threading.Event()
    stop.on_ask(told.set)
    with Drain(stop, 30) as drain:
        assert drain.done() == float("inf")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.event.wait(5)
        assert told.wait(5)
        assert stop.asked
        assert 1 <= drain.done() <= 30
    late = threading.Event()
    stop.on_ask(late.set)
    assert late.is_set()


def test_the_handlers_of_before_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Drain(Stop(), 1):
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_drain_that_takes_too_long_is_given_up_and_one_that_is_done_is_not() -> None:
    given_up: list[float] = []
    with Drain(Stop(), 0.05, given_up.append) as drain:
        drain.begin()
        drain.begin()
        time.sleep(0.3)
    assert given_up == [0.05]
    given_up.clear()
    with Drain(Stop(), 0.2, given_up.append) as drain:
        drain.begin()
        assert drain.done() == 1  # what is left to the outlets at least
        time.sleep(0.3)
    assert not given_up


@pytest.mark.parametrize(("limit_s", "signals", "code"), [(0.1, 1, 1), (30, 2, 128 + signal.SIGTERM)])
def test_a_process_that_does_not_end_is_ended(limit_s: float, signals: int, code: int) -> None:
    command = [sys.executable, "-c", SLOW.replace("LIMIT", str(limit_s))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert ("what is committed stays" in err) == (code == 1)
