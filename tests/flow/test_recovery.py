"""kill -9 at seeded points of a replay: the decisions are those of an undisturbed run."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flow.conftest import Tidegate

pytestmark = pytest.mark.flow
SEEDS, KILLS = range(10), 3


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small batches and many epochs, so that a kill falls between any two of them."""
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text("batch_rows_max = 60\nepoch_s = 0.05\n")
    return path


@pytest.fixture(scope="module")
def undisturbed(tidegate: Tidegate, ward: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    db = tmp_path_factory.mktemp("whole") / "t.db"
    tidegate("run", "ward", "--source", ward, "--sink", db, "--config", config)
    return tidegate("decisions", "--db", db, "--json").stdout


@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_killed_three_times_decides_the_same(
    seed: int, tidegate: Tidegate, ward: Path, config: Path, undisturbed: str, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    db = tmp_path / "t.db"
    args = ["run", "ward", "--source", ward, "--sink", db, "--config", config, "--recovery", tmp_path / "state"]
    if seed % 2:
        args += ["--speed", 400]  # paced: a kill also falls between the rows of one batch
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen([sys.executable, "-m", "flows", *map(str, args)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not (tmp_path / "state").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 1.0))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed, f"seed {seed}: every run had ended before it was killed"
    tidegate(*args)
    assert tidegate("decisions", "--db", db, "--json").stdout == undisturbed, f"seed {seed}"
    tidegate("verify", "--db", db)


@contextmanager
def small_disk(disk: Path, size: str) -> Iterator[None]:
    """A disk of this size; `resized` changes it."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here: mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", disk], check=True)


def resized(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def test_a_full_disk_stops_the_run_with_one_sentence_and_loses_nothing(
    tidegate: Tidegate, ward: Path, config: Path, undisturbed: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    db = disk / "t.db"
    args = ["run", "ward", "--source", ward, "--sink", db, "--config", config, "--recovery", tmp_path / "state"]
    with small_disk(disk, "400k"):
        stopped = tidegate(*args, code=3)
        assert f"the disk that holds {db} is full: free space" in stopped.stderr
        assert "Traceback" not in stopped.stderr
        resized(disk, "64m")
        tidegate(*args)
        assert tidegate("decisions", "--db", db, "--json").stdout == undisturbed
        tidegate("verify", "--db", db)


def test_a_full_disk_under_the_recovery_folder_is_told_alike_at_the_start_and_later(
    tidegate: Tidegate, ward: Path, config: Path, undisturbed: str, tmp_path: Path
) -> None:
    disk, db = tmp_path / "disk", tmp_path / "t.db"
    args = ["run", "ward", "--source", ward, "--sink", db, "--config", config, "--recovery", disk / "state"]
    sentence = f"tidegate: the disk that holds {disk / 'state'} is full: free space, then start again with the same"
    with small_disk(disk, "60k"):
        assert tidegate(*args, code=3).stderr.startswith(sentence)
        resized(disk, "360k")
        stopped = tidegate(*args, code=3).stderr
        assert stopped.splitlines()[-1].startswith(sentence)
        assert "Traceback" not in stopped
        resized(disk, "64m")
        tidegate(*args)
        assert tidegate("decisions", "--db", db, "--json").stdout == undisturbed
