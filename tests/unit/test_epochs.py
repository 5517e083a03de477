"""Epochs of several workers that are kept together."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, cluster_main

from flows.epochs import HOLD_MAX, HOLD_MAX_S, Lead, keep_together

EPOCH_S = 0.3
POLL = timedelta(milliseconds=10)
LATE_AT_S, LATE_S, SETTLED_S, END_S = 0.4, 0.26, 2.6, 3.2


class _Part(StatefulSourcePartition[int, int]):
    """Has nothing to read, and notes when it is polled; a slow one takes its time once, over the end of an epoch."""

    def __init__(self, polls: list[float], began_s: float, slow: bool) -> None:
        self._polls, self._began_s, self._slow = polls, began_s, slow

    def next_batch(self) -> Iterable[int]:
        at_s = time.monotonic() - self._began_s
        self._polls.append(at_s)
        if at_s > END_S:
            raise StopIteration
        if self._slow and at_s > LATE_AT_S:
            self._slow = False
            time.sleep(LATE_S)
        return []

    def next_awake(self) -> datetime:
        return datetime.now(UTC) + POLL

    def snapshot(self) -> int:
        return 0


class _Source(FixedPartitionedSource[int, int]):
    def __init__(self) -> None:
        self.polls: dict[str, list[float]] = {"prompt": [], "slow": []}
        self._began_s = time.monotonic()

    def list_parts(self) -> list[str]:
        return list(self.polls)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(self.polls[for_part], self._began_s, for_part == "slow")


def test_a_worker_that_was_late_once_does_not_hold_up_another_for_ever(tmp_path: Path) -> None:
    """Left alone, the prompt partition waits for the slow one in every epoch: two or three polls are left to it."""
    source = _Source()
    keep_together(source, EPOCH_S)
    flow = Dataflow("together")
    op.output("out", op.input("in", flow, source), TestingSink([]))
    init_db_dir(tmp_path, 1)
    cluster_main(
        flow,
        [],
        0,
        epoch_interval=timedelta(seconds=EPOCH_S),
        recovery_config=RecoveryConfig(tmp_path),
        worker_count_per_proc=2,
    )
    prompt, slow = (sum(at_s > SETTLED_S for at_s in polls) for polls in source.polls.values())
    assert slow > 10
    assert prompt > slow / 2


def test_one_that_waited_ends_its_next_epoch_as_much_later() -> None:
    lead = Lead(4.0)
    assert lead.awake(99.8) == 99.8
    lead.ended(100.0)
    lead.polled(100.5)
    assert lead.awake(100.7) == 100.7
    lead.polled(100.7)
    assert lead.awake(103.9) == 103.9
    assert lead.awake(104.1) == pytest.approx(104.5)
    assert lead.awake(104.6) == 104.6


def test_one_that_is_a_whole_epoch_ahead_sits_the_next_one_out() -> None:
    lead = Lead(4.0)
    lead.awake(100.0)
    lead.ended(100.0)
    lead.polled(104.0)
    assert lead.awake(104.2) == pytest.approx(104.0 + 4.0 + 4.0 * HOLD_MAX)


def test_what_a_snapshot_takes_and_what_was_asked_for_is_no_wait() -> None:
    lead = Lead(4.0)
    lead.awake(101.0)
    lead.ended(100.0)
    lead.polled(101.1)
    assert lead.awake(104.1) == 104.1


def test_a_long_epoch_is_put_off_by_seconds_at_most() -> None:
    lead = Lead(600.0)
    lead.ended(1000.0)
    lead.polled(1100.0)
    assert lead.awake(1601.0) == pytest.approx(1600.0 + HOLD_MAX_S)
