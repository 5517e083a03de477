"""`tidegate demo-kafka`, a short stretch at high speed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.store import decisions
from tests.brokers.kafka import missing


def demo(folder: Path, *options: object, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows", *map(str, options)]
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": root, **env}, capture_output=True, text=True, timeout=280
    )


def test_the_simulated_ward_goes_through_a_broker_and_its_decisions_back_to_it(tmp_path: Path) -> None:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    done = demo(tmp_path, "demo-kafka", "--minutes", 5, "--speed", 300, **os.environ)
    assert done.returncode == 0, done.stderr
    stored = list(decisions(tmp_path / "tidegate.db"))
    planted = json.loads((tmp_path / "demo" / "planted.json").read_text())
    assert f"{len(stored)} decisions were in the topic ward.decisions" in done.stdout
    assert f"rows        {sum(planted['rows'].values())} in" in done.stdout
    assert f"future {planted['numbers']['future']}" in done.stdout
    # Every bed's every minute is decided, the last one too; the notes came in time to be read.
    assert max(record["window"][1] for record in stored) == "2026-03-02T08:05:00Z"
    assert any(record["raised_by"] for record in stored)
    shown = done.stdout.splitlines()[-1].partition("tidegate ")[2].split()
    assert "process" in demo(tmp_path, *shown, **os.environ).stdout


def test_without_java_it_says_what_to_install(tmp_path: Path) -> None:
    done = demo(tmp_path, "demo-kafka", PATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "tidegate: no Kafka broker without java and mvn: install it (Debian: default-jre-headless, maven)\n"
    )
    assert not (tmp_path / "demo").exists()
