"""A flow of several processes over a topic: spread, started again for new partitions, drained, and read to its end."""

import json
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from flows.connectors.kafka.broker import free_port
from tests.brokers.kafka import Cluster
from tests.flow.conftest import DEADLINE_S, Tidegate, decided, records, started, tidegate, until_decided, ward

__all__ = ["tidegate", "ward"]  # fixtures
pytestmark = pytest.mark.flow
PARTITIONS = 2


def by_patient(rows: list[bytes], partitions: int) -> dict[int, list[bytes]]:
    """Rows by the partition that their patient has, in order."""
    found: dict[int, list[bytes]] = {number: [] for number in range(partitions)}
    for row in rows:
        try:
            patient = str(json.loads(row)["patient"])
        except (ValueError, KeyError, TypeError):
            patient = "0"
        found[int(patient[-1], 36) % partitions].append(row)
    return found


def until_read(process: "subprocess.Popen[str]", port: int, partition: str) -> None:
    """Wait until rows of a partition have been read, by whichever of the two processes has it."""
    deadline, found = time.monotonic() + DEADLINE_S, ""
    while f'partition="{partition}"' not in found:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        for number in (port, port + 1):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{number}/metrics", timeout=5) as answer:
                found += answer.read().decode()
        time.sleep(0.05)


def test_two_processes_share_a_topic_that_grows_and_decide_what_one_decides(
    kafka: Cluster, topic: str, tidegate: Tidegate, ward: Path, tmp_path: Path
) -> None:
    rows = (ward / "vitals.jsonl").read_bytes().splitlines()
    middle = len(rows) // 2
    kafka.create(topic, PARTITIONS)
    config = tmp_path / "tidegate.toml"
    # A partition that is idle for a while is part of the test only where it has nothing yet.
    port = free_port()
    config.write_text(
        "shards = 4\nepoch_s = 0.5\nidle_timeout_s = 600\nkafka_watch_s = 0.5\nmax_future_s = 1e9\n"
        f"health_port = {port}\n"
    )
    for number, some in by_patient(rows[:middle], PARTITIONS).items():
        kafka.produce(topic, some, partition=number)
    db = tmp_path / "t.db"
    args = ["run", "ward", "--source", f"kafka://{kafka.bootstrap}?vitals={topic}", "--config", config]
    args += ["--model", "none", "--sink"]
    several = [*args, db, "--recovery", tmp_path / "state", "--processes", 2]
    process = started(*several)
    until_decided(process, db)
    early = decided(db)
    kafka.grow(topic, PARTITIONS + 1)
    for number, some in by_patient(rows[middle:], PARTITIONS).items():
        kafka.produce(topic, some, partition=number)
    kafka.produce(topic, rows[-1:], partition=PARTITIONS)
    until_read(process, port, f"vitals/{PARTITIONS}")
    until_decided(process, db, early + 20)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert f"vitals/{PARTITIONS}" in err, "it was started again for the new partition, and says so"
    assert "Traceback" not in err
    tidegate(*several, "--until-end")
    tidegate("verify", "--db", db)
    tidegate(*args, tmp_path / "whole.db", "--until-end")
    assert {(r["id"], r["action"]) for r in records(tidegate, db)} == {
        (r["id"], r["action"]) for r in records(tidegate, tmp_path / "whole.db")
    }
