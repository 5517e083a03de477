"""Names that a recovery store keeps: a golden list, so that none changes unnoticed; and where Bytewax takes them."""

from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, cluster_main

from operators.adapters import steps


class Kept(op.StatefulBatchLogic[int, int, None]):
    """Gives back what it is given, where the key lives."""

    def on_batch(self, values: list[int]) -> tuple[list[int], bool]:
        return values, False

    def snapshot(self) -> None:
        return None


def placed(shards: int, workers: int) -> list[int]:
    """The worker at which Bytewax keeps the state of each shard."""
    where: dict[int, int] = {}

    def seen(step: str, item: tuple[str, int], epoch: int, worker: int) -> None:
        where[item[1]] = worker

    flow = Dataflow("placed")
    keyed = op.input("in", flow, TestingSource([(steps.shard_key(shard), shard) for shard in range(shards)], 100))
    kept: Any = op.stateful_batch("kept", keyed, lambda state: Kept())
    op.output("out", op.inspect_debug("seen", kept, seen), TestingSink([]))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)
    return [where[shard] for shard in range(shards)]


def test_persisted_step_names_are_those_of_the_first_release() -> None:
    assert steps.FLOW == "tidegate"
    assert (
        *("source", "dead_letters", "shard", "window", "late", "rule", "gate", "unkey", "merge", "to_sink", "sink"),
    ) == steps.STEPS
    assert steps.SINK_KEY == "decisions"
    keys = [steps.shard_key(shard) for shard in (0, 1, 2, 7, 1023)]
    assert keys == ["s0000", "s000001-1a31", "s000002-04f2", "s000007-0fa8", "s001023-04e6"]


@pytest.mark.parametrize("workers", [2, 3, 4])
@pytest.mark.parametrize("rounds", [1, 2])
def test_each_worker_gets_as_many_shards_as_the_next(workers: int, rounds: int) -> None:
    found = placed(rounds * workers, workers)
    assert [found.count(worker) for worker in range(workers)] == [rounds] * workers


@pytest.mark.parametrize("workers", [1, 5, 6, 7, 8, 9, 10, 16])
def test_the_most_shards_that_there_can_be_go_round_the_workers(workers: int) -> None:
    found = placed(1024, workers)
    assert found == [(found[0] + shard) % workers for shard in range(1024)]
