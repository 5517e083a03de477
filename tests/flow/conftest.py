"""Running the real program, as a user does."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flows.simulators.ward import simulate_ward

TIMEOUT_S = 180
DEADLINE_S = 90

Tidegate = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tidegate() -> Tidegate:
    """Runs `tidegate ARGS` in a process of its own."""

    def run(*args: object, input: str | None = None, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "flows", *map(str, args)]
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == code, f"exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done

    return run


@pytest.fixture(scope="session")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated ward with everything planted."""
    folder = tmp_path_factory.mktemp("sim") / "ward"
    simulate_ward(folder, seed=3, beds=12, minutes=10)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tidegate: Tidegate, ward: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The decisions of a run that nothing disturbs, without a model, under the `config` of the test's own file."""
    db = tmp_path_factory.mktemp("whole") / "t.db"
    tidegate("run", "ward", "--source", ward, "--sink", db, "--config", config, "--model", "none")
    return tidegate("decisions", "--db", db, "--json").stdout


def records(tidegate: Tidegate, db: Path) -> list[dict[str, Any]]:
    """What `tidegate decisions --json` prints."""
    return [json.loads(line) for line in tidegate("decisions", "--db", db, "--json").stdout.splitlines()]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON lines; a string goes in as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def decided(db: Path) -> int:
    """How many decisions are stored."""
    if not db.exists():
        return 0
    with closing(sqlite3.connect(db)) as reader:
        if not reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'decisions'").fetchone()[0]:
            return 0
        return int(reader.execute("SELECT count(*) FROM decisions").fetchone()[0])


def started(*args: object) -> "subprocess.Popen[str]":
    """`tidegate ARGS`, running."""
    command = [sys.executable, "-m", "flows", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_decided(process: "subprocess.Popen[str]", db: Path, count: int = 1) -> None:
    """Wait until the run is in the middle of it."""
    deadline = time.monotonic() + DEADLINE_S
    while decided(db) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
