"""The program on another host, behind a link that is slow and that somebody pulls."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.connectors.kafka.broker import free_port
from tests.brokers import hosts
from tests.brokers.hosts import Host, LinkedCluster
from tests.brokers.kafka import missing
from tests.brokers.mqtt_clients import until
from tests.flow.conftest import DEADLINE_S, Tidegate, decided, records, started, tidegate, until_decided, ward

__all__ = ["tidegate", "ward"]  # fixtures
pytestmark = pytest.mark.flow
PULLED_S = 4.0
AWAY = "cannot be reached"


@pytest.fixture
def host() -> Iterator[Host]:
    lacking = hosts.missing()
    if lacking:
        pytest.skip(lacking)
    with closing(Host()) as made:
        made.start_up()
        yield made


@pytest.fixture
def linked(host: Host, tmp_path: Path) -> Iterator[LinkedCluster]:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)
    with LinkedCluster(tmp_path / "kafka", host) as made:
        yield made


def actions(tidegate: Tidegate, db: Path) -> set[tuple[str, str]]:
    return {(record["id"], record["action"]) for record in records(tidegate, db)}


def test_a_link_to_the_broker_that_is_slow_and_pulled_costs_nothing_but_time(
    host: Host, linked: LinkedCluster, tidegate: Tidegate, ward: Path, tmp_path: Path
) -> None:
    topic, port, db = linked.create("vitals"), free_port(), tmp_path / "t.db"
    # Without the row of tomorrow: these are months old, so that a live run's clock does not tell it from the others.
    rows = [row for row in (ward / "vitals.jsonl").read_bytes().splitlines() if b"2026-03-03T" not in row]
    config, said = tmp_path / "tidegate.toml", tmp_path / "said.txt"
    config.write_text(f"epoch_s = 0.5\nidle_timeout_s = 600\nkafka_watch_s = 0.5\nhealth_port = {port}\n")
    linked.produce(topic, rows[: len(rows) // 2])
    args = ["run", "ward", "--model", "none", "--config", config, "--source"]
    there = [*args, f"kafka://{linked.linked}?vitals={topic}", "--sink", db, "--recovery", tmp_path / "state"]
    host.slow(2000)
    process = host.start(*there, said=said)
    try:
        until(lambda: decided(db) > 20, said.read_text)
        host.pull()
        until(lambda: AWAY in host.ask(port, "/readyz"), said.read_text)
        linked.produce(topic, rows[len(rows) // 2 :])
        time.sleep(PULLED_S)
        before = decided(db)
        host.plug()
        until(lambda: AWAY not in host.ask(port, "/readyz"), said.read_text)
        until(lambda: decided(db) > before + 20, said.read_text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, said.read_text()
    finally:
        process.kill()
        process.wait()
    assert host.start(*there, "--until-end", said=said).wait(DEADLINE_S) == 0, said.read_text()
    tidegate("verify", "--db", db)
    whole = tmp_path / "whole.db"
    tidegate(*args, f"kafka://{linked.bootstrap}?vitals={topic}", "--sink", whole, "--until-end")
    assert actions(tidegate, db) == actions(tidegate, whole)


def test_two_hosts_whose_link_is_pulled_for_a_while_decide_what_one_does(
    host: Host, tidegate: Tidegate, ward: Path, tmp_path: Path
) -> None:
    config, said, db = tmp_path / "tidegate.toml", tmp_path / "said.txt", tmp_path / "t.db"
    config.write_text("batch_rows_max = 60\nepoch_s = 0.2\nshards = 4\n")
    args = ["run", "ward", "--model", "none", "--config", config, "--source", ward, "--sink"]
    both = [*args, db, "--recovery", tmp_path / "state"]
    both += ["-a", f"{host.here}:{free_port()}", "-a", f"{host.there}:{free_port()}"]
    there = host.start(*both, "--speed", 120, "-i", 1, said=said)
    here = started(*both, "--speed", 120, "-i", 0)
    try:
        until_decided(here, db, 20)
        host.pull()
        time.sleep(PULLED_S)
        host.plug()
        _, err = here.communicate(timeout=DEADLINE_S)
        assert here.returncode == 0, err
        assert there.wait(DEADLINE_S) == 0, said.read_text()
    finally:
        for process in (here, there):
            process.kill()
            process.communicate()
    tidegate("verify", "--db", db)
    tidegate(*args, tmp_path / "whole.db")
    assert actions(tidegate, db) == actions(tidegate, tmp_path / "whole.db")
