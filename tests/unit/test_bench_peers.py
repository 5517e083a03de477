import math
import stat
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.bench import peers

NAMES = ["count", "sum"]
REFERENCE = pl.DataFrame(
    {
        "device": ["d1", "d1", "d2"],
        "start_us": [0, 10_000_000, 0],
        "count": pl.Series([2, 1, 3], dtype=pl.UInt32),
        "sum": [3.0, 0.1, -4e12],
        "var": [0.5, None, 1.0],
    }
)
LINES = [b'{"ts":1,"device":"d1","value":1.0}'] * 6
ODD = st.sampled_from(
    [None, math.nan, math.inf, -math.inf, 0.0, 1.0, 1.0 + 5e-10, 1.0 + 5e-9, 1e12, 1e12 + 100.0, 1e12 + 1e5]
)


def changed(column: str, values: list[float | int | None]) -> pl.DataFrame:
    return REFERENCE.with_columns(pl.Series(column, values, dtype=REFERENCE.schema[column]))


def answering(
    monkeypatch: pytest.MonkeyPatch, answers: pl.DataFrame, seconds: str = "[9.0, 1.0, 3.0, 2.0, 4.0]"
) -> None:
    """One peer, installed, that gives these answers."""

    def run(peer: str, folder: Path, window_us: int) -> None:
        place = folder / f"run-{len(peers.RUNS) - 1}"
        place.mkdir()
        half = answers.height // 2
        for number, part in enumerate((answers.head(half), answers.tail(answers.height - half))):
            (place / f"part-{number}").write_text(part.write_ndjson())
        (folder / "seconds.json").write_text(seconds)

    monkeypatch.setattr(peers, "PEERS", {"peer": ("json", "polars", ("count", "sum"))})
    monkeypatch.setattr(peers, "_in_its_own_process", run)


def agree(ours: float | None, theirs: float | None) -> bool:
    """The dullest check of two floats."""
    if ours is None or theirs is None:
        return ours is theirs
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    if math.isinf(ours) or math.isinf(theirs):
        return ours == theirs
    return abs(ours - theirs) <= 1e-9 * max(1.0, abs(ours))


def test_a_peer_that_is_not_installed_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    message = "not installed: pip install 'tidegate[peers]'"
    assert peers.measure(LINES, REFERENCE) == {"pathway": message, "flink": message}


def test_flink_without_java_is_told_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: name == "pyflink" or None)
    monkeypatch.setattr(peers, "which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert peers.measure(LINES, REFERENCE)["flink"].startswith("not run: Flink found no Java")


def test_the_same_answers_in_any_order_agree() -> None:
    shuffled = REFERENCE.reverse().select("sum", "start_us", "count", "device")
    assert peers.disagreement(shuffled, REFERENCE, NAMES) is None


@pytest.mark.parametrize(("theirs", "same"), [(0.5e-9, True), (2e-9, False), (-2e-9, False)])
@pytest.mark.parametrize("size", [0.001, 1.0, 1e12])
def test_floats_agree_to_a_billionth_relative_above_one_and_absolute_below(
    size: float, theirs: float, same: bool
) -> None:
    answers = changed("sum", [3.0, size + theirs * max(size, 1.0), -4e12])
    assert (peers.disagreement(answers, changed("sum", [3.0, size, -4e12]), NAMES) is None) == same


@settings(max_examples=60, deadline=None)
@given(ours=ODD | st.floats(width=32), theirs=ODD | st.floats(width=32))
def test_two_floats_agree_exactly_when_the_dull_check_says_so(ours: float | None, theirs: float | None) -> None:
    reference = changed("sum", [1.0, ours, 2.0])
    found = peers.disagreement(changed("sum", [1.0, theirs, 2.0]), reference, NAMES)
    assert (found is None) == agree(ours, theirs)


def test_a_whole_number_must_be_equal_however_large_it_is() -> None:
    at = 1_767_225_600_000_000
    reference = REFERENCE.with_columns(last_us=pl.lit(at))
    assert peers.disagreement(REFERENCE.with_columns(last_us=pl.lit(at + 1)), reference, ["last_us"]) is not None


def test_a_difference_names_the_aggregate_the_window_and_both_values() -> None:
    found = peers.disagreement(changed("count", [2, 7, 3]), REFERENCE, NAMES)
    assert found == "count differs in 1 of 3 windows, first d1 at 10000000: 7 instead of 1"


@pytest.mark.parametrize(
    ("answers", "missing", "unknown", "again"),
    [
        (REFERENCE.head(2), 1, 0, 0),
        (changed("start_us", [0, 20_000_000, 0]), 1, 1, 0),
        (pl.concat([REFERENCE, REFERENCE.head(1)]), 0, 0, 1),
        (pl.concat([REFERENCE, changed("start_us", [20_000_000, 0, 0]).head(1)]), 0, 1, 0),
        (REFERENCE.clear(), 3, 0, 0),
    ],
)
def test_windows_that_are_missing_unknown_or_doubled_are_counted(
    answers: pl.DataFrame, missing: int, unknown: int, again: int
) -> None:
    found = peers.disagreement(answers, REFERENCE, NAMES)
    assert found == f"of 3 windows {missing} are missing, {unknown} should not be there, {again} are given again"


def test_right_answers_get_a_speed_without_warm_up_and_start(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, REFERENCE)
    result = peers.measure(LINES, REFERENCE)["peer"]
    assert (result["rows"], result["compared"], result["left_out"]) == (6, NAMES, ["var"])
    assert (result["warm_up_s"], result["start_s"]) == (9.0, 1.0)
    assert (result["runs_rows_per_s"], result["rows_per_s"]) == ([3, 6, 2], 3)


def test_a_wrong_answer_is_told_and_gets_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, changed("sum", [3.0, 0.1 + 1e-6, -4e12]))
    result = peers.measure(LINES, REFERENCE)["peer"]
    assert result["wrong"].startswith("sum differs in 1 of 3 windows, first d1 at 10000000")
    assert not [name for name in result if name.endswith("_per_s")]


def test_work_that_is_shorter_than_starting_gets_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, REFERENCE, "[9.0, 1.0, 3.0, 1.0, 4.0]")
    result = peers.measure(LINES, REFERENCE)["peer"]
    assert result["failed"].startswith("6 rows are too few")
    assert not [name for name in result if name.endswith("_per_s")]


def test_a_peer_that_breaks_is_told_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS", {"nobody": ("json", "polars", ("count",))})
    result = peers.measure(LINES, REFERENCE)["nobody"]
    assert result["failed"] == "exit code 1: KeyError: 'nobody'"
    assert "rows_per_s" not in result


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """A shell script in the place of Python: $4 is the folder of the run."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))


def running(process: int) -> bool:
    """Whether it still runs; one that nobody has waited for is dead."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_peer_that_hangs_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, 'sleep 60 & echo $! > "$4/started"; wait')
    monkeypatch.setattr(peers, "TIMEOUT_S", 0.5)
    started = time.monotonic()
    assert peers._in_its_own_process("flink", tmp_path, 1) == "no answer after 0.5 s"
    child = int((tmp_path / "started").read_text())
    while running(child) and time.monotonic() - started < 30:
        time.sleep(0.01)
    assert time.monotonic() - started < 30


def test_no_licence_key_or_monitoring_server_reaches_a_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATHWAY_LICENSE_KEY", "secret")
    monkeypatch.setenv("PATHWAY_MONITORING_SERVER", "https://example.org")
    stand_in(monkeypatch, tmp_path, 'env > "$4/env"')
    assert peers._in_its_own_process("pathway", tmp_path, 1) is None
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    given = {name: value for name, value in seen.items() if name.startswith(("PATHWAY_", "OTEL_"))}
    assert given == {"PATHWAY_THREADS": "1", "PATHWAY_PROCESSES": "1", "OTEL_SDK_DISABLED": "true"}
