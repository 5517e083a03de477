"""`tidegate bench kafka` on few messages: it checks its own answers, and names its figures."""

import os

import pytest

from flows.bench.kafka import runs
from flows.bench.spread import spread
from tests.brokers.kafka import missing

NAMES = {
    "bare_loop_ratio",
    "bytewax_source_ratio",
    "arrow_ratio",
    "two_process_ratio",
    "two_apart_ratio",
    "latency_p50_ms",
    "latency_p99_ms",
}


def test_the_benchmark_reads_all_of_it_in_every_way_and_names_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    monkeypatch.setattr(runs, "LATENCY_S", 12.0)
    result = runs.measure(1, peers=False, cores=os.sched_getaffinity(0), messages=40_000)
    assert result.keys() >= NAMES
    assert all(result[name] > 0 for name in NAMES)
    assert result["spread"]["arrow_ratio"] == spread([result["arrow_ratio"]])
    assert result["latency_decisions"] >= 1_000
    assert result["work"]["messages"] == 40_000
    assert 0 <= result["two_process_broker_cores"] < 2
