"""Running the real program, as a user does."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.simulators.ward import simulate_ward

TIMEOUT_S = 180

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


def records(tidegate: Tidegate, db: Path) -> list[dict[str, Any]]:
    """What `tidegate decisions --json` prints."""
    return [json.loads(line) for line in tidegate("decisions", "--db", db, "--json").stdout.splitlines()]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON lines; a string goes in as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path
