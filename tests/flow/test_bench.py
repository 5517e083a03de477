"""The benchmarks run, agree with their baselines, and write the names that others read. No time is asserted."""

import json
from pathlib import Path

import pytest

from flows.bench import read, windows
from tests.flow.conftest import Tidegate

pytestmark = pytest.mark.flow


def test_our_windows_are_those_of_polars_and_every_figure_has_a_spread() -> None:
    result = windows.measure(1, peers=False, rows=20_000)
    names = {"polars_ratio_1000", "polars_ratio_5000", "polars_ratio_20000", "fold_window_ratio", "checks_cost_ratio"}
    assert names == set(result["limits"])
    for name in names:
        assert result[name] > 0
        assert result["spread"][name]["min"] <= result[name] <= result["spread"][name]["max"]


def test_windows_that_differ_are_refused_as_a_baseline() -> None:
    _, reference = windows.offline(b"\n".join(windows.events(2_000)))
    _, ours = windows.ours(windows.events(2_000), 500, checked=True)
    windows.same(ours, reference)
    with pytest.raises(AssertionError, match="median"):
        windows.same(ours.with_columns(ours["median"] + 1), reference)


def test_reading_is_timed_at_three_lengths() -> None:
    result = read.measure(1, peers=False)
    assert {"ms_per_text_16", "ms_per_text_48", "ms_per_text_128"} <= result.keys()


def test_an_unknown_benchmark_is_refused_and_a_result_names_its_machine(tidegate: Tidegate, tmp_path: Path) -> None:
    assert "windows, ward, read" in tidegate("bench", "speed", code=2).stderr
    out = tmp_path / "read.json"
    tidegate("bench", "read", "--repeats", 1, "--json", out)
    result = json.loads(out.read_text())
    assert result["machine"]["versions"]["polars"]
    assert result["bench"] == "read"
