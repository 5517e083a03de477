"""The pool is bounded, remembers, tells callers when it cannot serve them, and never holds anybody up."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.pool import ReadingPool
from schemas.reading import Abstain, Reading

ROOT = Path(__file__).resolve().parents[2]


class Gate:
    """A reader that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        self.read_texts: list[str] = []

    def read(self, text: str) -> Reading:
        self.begun.release()
        self.open.wait(10)
        self.read_texts.append(text)
        return Reading(labels=(text,))


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def test_a_text_is_read_and_its_reading_comes_back() -> None:
    pool = ReadingPool(lambda text: Reading(labels=(text,)), workers=2, queue_max=100, cache_max=10)
    futures = [pool.submit(str(number)) for number in range(50)]
    assert [future.result(5).labels for future in futures] == [(str(number),) for number in range(50)]
    assert (pool.calls, pool.cached) == (50, 0)
    pool.close()


def test_a_full_queue_answers_busy_at_once_and_what_was_accepted_is_still_read(gate: Gate) -> None:
    pool = ReadingPool(gate.read, workers=1, queue_max=2, cache_max=10)
    running = pool.submit("running")
    assert gate.begun.acquire(timeout=5)
    accepted = [pool.submit("a"), pool.submit("b")]
    refused = pool.submit("c")
    assert refused.done()
    assert refused.result().abstain is Abstain.BUSY
    assert not running.done()
    gate.open.set()
    assert [future.result(5).labels for future in [running, *accepted]] == [("running",), ("a",), ("b",)]
    assert pool.calls == 3
    pool.close()


def test_the_same_text_is_read_once_also_while_it_is_on_its_way(gate: Gate) -> None:
    pool = ReadingPool(gate.read, workers=2, queue_max=10, cache_max=10)
    first, second = pool.submit("note"), pool.submit("note")
    gate.open.set()
    assert first.result(5) == second.result(5)
    assert pool.submit("note").done()
    assert gate.read_texts == ["note"]
    assert (pool.calls, pool.cached) == (1, 2)
    pool.close()


def test_callers_that_pile_up_behind_one_stalled_text_are_bounded_too(gate: Gate) -> None:
    pool = ReadingPool(gate.read, workers=1, queue_max=3, cache_max=10)
    futures = [pool.submit("stalled") for _ in range(10)]
    assert sum(future.done() for future in futures) == 6
    assert {future.result().abstain for future in futures if future.done()} == {Abstain.BUSY}
    pool.close()


def test_a_caller_that_gives_up_does_not_take_the_reading_from_the_others(gate: Gate) -> None:
    pool = ReadingPool(gate.read, workers=1, queue_max=10, cache_max=10)
    impatient, patient = pool.submit("note"), pool.submit("note")
    assert not impatient.cancel()
    gate.open.set()
    assert patient.result(5).labels == ("note",)
    pool.close()


def test_a_reader_that_raises_gives_failed_and_is_asked_again_next_time() -> None:
    asked = []

    def read(text: str) -> Reading:
        asked.append(text)
        if len(asked) == 1:
            raise RuntimeError("boom")
        return Reading(labels=("fine",))

    pool = ReadingPool(read, workers=1, queue_max=10, cache_max=10)
    assert pool.submit("note").result(5).abstain is Abstain.FAILED
    assert pool.submit("note").result(5).labels == ("fine",)
    pool.close()


def test_closing_answers_what_waits_and_what_comes_later_without_waiting_for_a_stalled_reader(gate: Gate) -> None:
    pool = ReadingPool(gate.read, workers=1, queue_max=10, cache_max=10)
    running = pool.submit("running")
    assert gate.begun.acquire(timeout=5)
    queued = pool.submit("queued")
    pool.close()
    assert queued.result(0).abstain is Abstain.BUSY
    assert pool.submit("later").result(0).abstain is Abstain.BUSY
    gate.open.set()
    assert running.result(5).labels == ("running",)


def test_no_more_threads_work_than_were_asked_for(gate: Gate) -> None:
    pool = ReadingPool(gate.read, workers=2, queue_max=10, cache_max=0)
    futures = [pool.submit(str(number)) for number in range(6)]
    assert gate.begun.acquire(timeout=5)
    assert gate.begun.acquire(timeout=5)
    assert not gate.begun.acquire(timeout=0.05)
    gate.open.set()
    assert len({future.result(5).labels for future in futures}) == 6
    pool.close()


def test_text_that_is_not_valid_unicode_can_be_submitted() -> None:
    pool = ReadingPool(lambda text: Reading(labels=(str(len(text)),)), workers=1, queue_max=10, cache_max=10)
    assert pool.submit("\ud800").result(5).labels == ("1",)
    pool.close()


@given(texts=st.lists(st.sampled_from("abcde"), max_size=40), cache_max=st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_the_cache_forgets_the_text_not_asked_for_longest(texts: list[str], cache_max: int) -> None:
    asked: list[str] = []

    def read(text: str) -> Reading:
        asked.append(text)
        return Reading(labels=(text,))

    pool = ReadingPool(read, workers=1, queue_max=10, cache_max=cache_max)
    remembered: list[str] = []  # the oracle: a list, most recent last
    expected = []
    for text in texts:
        assert pool.submit(text).result(5).labels == (text,)
        if text in remembered:
            remembered.remove(text)
        else:
            expected.append(text)
        remembered = [*remembered, text][-cache_max:] if cache_max else []
    assert asked == expected
    assert (pool.calls, pool.cached) == (len(expected), len(texts) - len(expected))
    pool.close()


def test_a_stalled_reader_does_not_keep_the_process_alive() -> None:
    program = (
        "import threading\n"
        "from models.pool import ReadingPool\n"
        "pool = ReadingPool(lambda text: threading.Event().wait(), workers=2, queue_max=4, cache_max=4)\n"
        "futures = [pool.submit(str(n)) for n in range(4)]\n"
        "pool.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=20, check=False)
    assert done.returncode == 0
