"""One flow in several processes: spread, killed, and started again with another number of them."""

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from tests.flow.conftest import DEADLINE_S, Tidegate, decided, started, until_decided

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text("batch_rows_max = 60\nepoch_s = 0.2\nshards = 4\n")
    return path


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until_gone(pids: list[int]) -> None:
    """Wait for processes that end by themselves."""
    deadline = time.monotonic() + DEADLINE_S
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, "a process outlives the first one"
        time.sleep(0.05)


def test_a_run_killed_and_started_with_other_numbers_of_processes_decides_the_same(
    tidegate: Tidegate, ward: Path, config: Path, undisturbed: str, tmp_path: Path
) -> None:
    db = tmp_path / "t.db"
    args = ["run", "ward", "--source", ward, "--sink", db, "--config", config, "--recovery", tmp_path / "state"]
    args += ["--model", "none"]
    for processes in (1, 2):
        before = decided(db)
        process = started(*args, "--speed", 60, "--processes", processes)
        until_decided(process, db, before + 15)
        others = children(process.pid)
        assert len(others) == processes - 1
        process.kill()
        process.communicate()
        until_gone(others)
    assert decided(db) < len(undisturbed.splitlines())
    tidegate(*args)
    assert tidegate("decisions", "--db", db, "--json").stdout == undisturbed
    tidegate("verify", "--db", db)


def test_processes_count_together_and_serve_each_their_health(
    tidegate: Tidegate, ward: Path, config: Path, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, port = tmp_path / "t.db", 20_000 + os.getpid() % 10_000
    monkeypatch.setenv("TIDEGATE_HEALTH_PORT", str(port))
    args = ["run", "ward", "--source", ward, "--sink", db, "--config", config, "--recovery", tmp_path / "state"]
    process = started(*args, "--model", "none", "--speed", 60, "--processes", 2)
    until_decided(process, db)
    for index in range(2):
        with urllib.request.urlopen(f"http://127.0.0.1:{port + index}/readyz", timeout=10) as answer:
            assert answer.read() == b"ready\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b'tidegate_decisions_total{action="none",revision="0"}' in answer.read()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    before = decided(db)
    assert 0 < before < len(undisturbed.splitlines())
    monkeypatch.delenv("TIDEGATE_HEALTH_PORT")
    tidegate(*args, "--model", "none", "--processes", 2, "--summary", tmp_path / "s.json")
    assert tidegate("decisions", "--db", db, "--json").stdout == undisturbed
    counts = json.loads((tmp_path / "s.json").read_text())
    assert counts["windows"] == sum(counts["decisions"].values()) >= len(undisturbed.splitlines()) - before
    assert counts["rows"]["in"] > 0


def test_when_a_process_dies_all_end_and_the_first_says_which(ward: Path, config: Path, tmp_path: Path) -> None:
    db = tmp_path / "t.db"
    args = ["run", "ward", "--source", ward, "--sink", db, "--config", config, "--recovery", tmp_path / "state"]
    process = started(*args, "--model", "none", "--speed", 20, "--processes", 3)
    until_decided(process, db)
    others = children(process.pid)
    os.kill(others[1], signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, err
    assert "process 2 of the flow was ended by SIGKILL, and so all of them are: start again" in err
    assert "Traceback" not in err
    until_gone(others)


def test_what_cannot_be_spread_is_said_before_anything_starts(tidegate: Tidegate, ward: Path, tmp_path: Path) -> None:
    args = ["run", "ward", "--source", ward, "--sink", tmp_path / "t.db", "--model", "none"]
    few = tidegate(*args, "--processes", 2, code=2).stderr
    assert "2 processes of 1 workers share 1 shards" in few
    assert "set shards to 2 or more" in few
    assert "-i is None of 1 addresses" in tidegate(*args, "-a", "here:1", code=2).stderr
    assert "-a here is no address" in tidegate(*args, "-a", "here", "-i", 0, code=2).stderr
    assert "not both" in tidegate(*args, "-a", "here:1", "-i", 0, "--processes", 2, code=2).stderr
    assert not (tmp_path / "t.db").exists()
