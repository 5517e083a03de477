"""From MQTT topics to decisions, and what becomes of them when something dies."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from flows.connectors.mqtt.broker import Address
from flows.run import RunOptions, run_flow
from flows.simulators.ward import simulate_ward
from flows.store import decisions
from schemas.errors import UsageError
from schemas.settings import Settings
from tests.brokers.certificates import Certificates
from tests.brokers.mosquitto import PASSWORD, USER, Mosquitto
from tests.brokers.mqtt_clients import WAIT_S, Publisher, until


class Flow:
    """`tidegate run` with MQTT as its source."""

    def __init__(self, folder: Path, source: str, *more: object, config: str = "") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.db = folder, folder / "t.db"
        settings = folder / "config.toml"
        settings.write_text(
            "idle_timeout_s = 100000\nmax_future_s = 1e9\nepoch_s = 0.2\nmqtt_spool_keep_s = 0\n"
            f"batch_rows_max = 300\n{config}"
        )
        self.command = [sys.executable, "-m", "flows", "run", "ward", "--source", source, "--sink", self.db]
        self.command += ["--recovery", folder / "state", "--model", "none", "--config", settings, *more]
        self._output = folder / "output.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(list(map(str, self.command)), stdout=output, stderr=output)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(WAIT_S) == 0, self.said

    @property
    def said(self) -> str:
        return self._output.read_text()[-3000:]

    def spools(self) -> list[Path]:
        return sorted((self.folder / "state" / "mqtt").glob("*/subscribed.json"))

    def decided(self) -> list[str]:
        """Decisions about all but the last row: what they say, less what the name of the partition goes into."""
        if not self.db.exists():
            return []
        found = [dict(record) for record in decisions(self.db) if record["key"] != "last"]
        for record in found:
            del record["hash"], record["prev"]
            record["inputs"]["offsets"] = list(record["inputs"]["offsets"].values())
        return sorted(json.dumps(record) for record in found)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """A small ward in long rows, with a last one an hour later, which closes every window before."""
    folder = tmp_path_factory.mktemp("sim") / "ward"
    simulate_ward(folder, seed=3, beds=2, minutes=5)
    found = []
    for line in (folder / "vitals.jsonl").read_text().splitlines():
        try:
            wide = json.loads(line)
        except ValueError:
            continue
        for name in ("hr", "rr", "spo2", "sbp", "temp"):
            if wide.get(name) is not None and wide.get("patient"):
                row = {"ts": wide["ts"], "patient": wide["patient"], "bed": wide["bed"], "name": name}
                found.append({**row, "value": wide[name]})
    return [*found, {**found[-1], "ts": "2026-03-02T10:00:00.000Z", "patient": "last"}]


def from_file(folder: Path, rows: Sequence[dict[str, Any]], *more: object, config: str = "") -> list[str]:
    """What a replay of rows from a file decides."""
    (folder / "vitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Flow(folder, str(folder), *more, config=config) as flow:
        assert flow.process is not None
        assert flow.process.wait(60) == 0, flow.said
    return flow.decided()


@pytest.fixture(scope="module")
def whole(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a replay of the same rows from a file decides."""
    return from_file(tmp_path_factory.mktemp("whole"), rows)


def without_offsets(text: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(text)
    del record["inputs"]["offsets"], record["inputs"]["features_sha256"]  # into which the offsets go
    return record


def as_messages(rows: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    return [
        (
            f"ward/{row['bed']}/{row['patient']}/{row['name']}",
            json.dumps({"value": row["value"], "ts": row["ts"]}).encode(),
        )
        for row in rows
    ]


def test_topics_lead_to_the_decisions_of_a_file_with_the_same_rows(
    mosquitto: Mosquitto, rows: list[dict[str, Any]], whole: list[str], tmp_path: Path
) -> None:
    source = f"mqtt://127.0.0.1:{mosquitto.port}?vitals=ward/{{bed}}/{{patient}}/{{name}}"
    with Publisher(mosquitto.port) as publisher, Flow(tmp_path, source, config='mqtt_client_id = "whole"') as flow:
        until(flow.spools, lambda: flow.said)
        publisher.send(as_messages(rows))
        until(lambda: len(flow.decided()) >= len(whole), lambda: flow.said)
        flow.stop()
    assert flow.decided() == whole


def test_a_flow_that_is_killed_over_and_over_decides_the_same(
    own_mosquitto: Mosquitto, rows: list[dict[str, Any]], whole: list[str], tmp_path: Path
) -> None:
    """While rows come and while none do; the broker is stopped too. What snapshots have passed leaves the spool."""
    source = f"mqtt://127.0.0.1:{own_mosquitto.port}?vitals=ward/{{bed}}/{{patient}}/{{name}}"
    messages = as_messages(rows)
    first, second, last = (
        messages[at : at + len(messages) // 3 + 1] for at in range(0, len(messages), len(messages) // 3 + 1)
    )
    with Flow(tmp_path / "flow", source, config="mqtt_spool_bytes_max = 1048576\n") as flow:
        until(flow.spools, lambda: flow.said)
        with Publisher(own_mosquitto.port) as publisher:
            publisher.send(first[:-200])
            flow.kill()
            publisher.send(first[-200:])
            flow.start()
            publisher.send(second[:100])
            flow.kill()
            publisher.send(second[100:])
        own_mosquitto.stop()
        flow.start()
        own_mosquitto.start()
        with Publisher(own_mosquitto.port) as publisher:
            publisher.send(last)
        until(lambda: len(flow.decided()) >= len(whole), lambda: flow.said)
        until(lambda: not (flow.folder / "state" / "mqtt" / "vitals-0" / f"{0:020}.spool").exists())
        flow.stop()
        assert flow.decided() == whole


def test_clients_that_share_a_ward_decide_what_one_does(
    mosquitto: Mosquitto, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Each row goes to one of two, as the broker likes. Copies that a device sends are left out: they may be parted."""
    some = list({json.dumps(row): row for row in [*rows[:700], rows[-1]]}.values())
    lateness = "allowed_lateness_s = 300\n"  # a client may be ahead of the other
    expected = from_file(tmp_path, some, config=lateness)
    source = f"mqtt://127.0.0.1:{mosquitto.port}?vitals=spread/{{bed}}/{{patient}}/{{name}}"
    config = lateness + 'mqtt_client_id = "spread"\nmqtt_clients = 2\nworkers = 2\nshards = 2\n'
    messages = [(topic.replace("ward/", "spread/"), payload) for topic, payload in as_messages(some)]
    with Publisher(mosquitto.port) as publisher, Flow(tmp_path / "flow", source, config=config) as flow:
        until(lambda: len(flow.spools()) == 2, lambda: flow.said)
        publisher.send(messages)
        publisher.send(messages[-1:] * 3)  # each client hears how late it is
        until(lambda: len(flow.decided()) >= len(expected), lambda: flow.said)
        flow.stop()
    assert len(expected) > 3
    assert [without_offsets(text) for text in flow.decided()] == [without_offsets(text) for text in expected]


def test_a_wrong_password_ends_the_start_with_one_sentence(guarded_mosquitto: Mosquitto, tmp_path: Path) -> None:
    source = f"mqtt://{USER}@127.0.0.1:{guarded_mosquitto.port}?vitals=ward/#"
    options = RunOptions(
        flow="ward", source=source, sink=str(tmp_path / "t.db"), model="none", settings=Settings(mqtt_password="wrong")
    )
    with pytest.raises(UsageError) as raised:
        run_flow(options)
    assert str(raised.value) == (
        f"the MQTT broker 127.0.0.1:{guarded_mosquitto.port} does not let us in: user or password is wrong, or may "
        "not connect: check the user in the address, and mqtt_password"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # paho leaves a refused socket open
def test_tls_with_a_user_lets_us_in_and_an_unknown_authority_does_not(
    guarded_mosquitto: Mosquitto, certificates: Certificates, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    address = Address.parse(f"mqtts://{USER}@localhost:{guarded_mosquitto.tls_port}?vitals=x")
    known = Settings(mqtt_tls_ca=str(certificates.ca), mqtt_password=f"file:{secret}")
    address.broker(known).check()
    unknown = Settings(mqtt_tls_ca=str(certificates.other_ca), mqtt_password=f"file:{secret}")
    with pytest.raises(UsageError, match=r"its certificate is not believed: .* check the port, and mqtt_tls_ca"):
        address.broker(unknown).check()


def test_a_broker_that_is_away_is_waited_for(tmp_path: Path) -> None:
    Address.parse("mqtt://127.0.0.1:1?vitals=x").broker(Settings()).check()
    with pytest.raises(UsageError, match=r"no host nowhere\.invalid is known"):
        Address.parse("mqtt://nowhere.invalid?vitals=x").broker(Settings()).check()
