"""SIGTERM in the middle of a run: it drains, ends with 0, and the next run goes on from there."""

import signal
import subprocess
from pathlib import Path

import pytest

from tests.flow.conftest import DEADLINE_S, Tidegate, decided, started, until_decided

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text("batch_rows_max = 200\nepoch_s = 0.2\ndrain_limit_s = 60\noutlet_drain_s = 60\n")
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_end_drains_and_the_next_one_goes_on(
    number: signal.Signals, tidegate: Tidegate, ward: Path, config: Path, undisturbed: str, tmp_path: Path
) -> None:
    db = tmp_path / "t.db"
    args = ["run", "ward", "--source", ward, "--sink", db, "--config", config, "--recovery", tmp_path / "state"]
    args += ["--model", "none", "--speed", 100]
    process = started(*args)
    until_decided(process, db)
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert out.startswith("rows "), "the summary is printed"
    assert "with the same --recovery the next run goes on from here" in err
    assert 0 < decided(db) < len(undisturbed.splitlines())
    tidegate(*args[:-2])
    assert tidegate("decisions", "--db", db, "--json").stdout == undisturbed
    tidegate("verify", "--db", db)


def test_a_second_signal_ends_the_run_at_once(
    tidegate: Tidegate, ward: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It has ended but for its outlet, which it waits for: nothing listens there.
    db, key = tmp_path / "t.db", tmp_path / "key"
    key.write_bytes(b"k" * 32)
    monkeypatch.setenv("TIDEGATE_OUTLET_WEBHOOK_KEY_FILE", str(key))
    sinks = ["--sink", db, "--sink", "http://127.0.0.1:9/decisions"]
    process = started(*["run", "ward", "--source", ward, *sinks, "--config", config, "--model", "none", "--speed", 100])
    until_decided(process, db)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 128 + signal.SIGTERM
    tidegate("verify", "--db", db)
    assert f"{decided(db)} behind, 0 sent" in tidegate("outlets", "--db", db).stdout
