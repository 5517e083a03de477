"""The systemd unit: hardened, started again only where that helps, given time to drain."""

import ctypes
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import ConnectorLost, ModelRefused, SourceLost, UsageError
from schemas.settings import Settings
from tests.deploy.manifests import DEPLOY, assert_runs, drains_within_s, unit

FOLDER, ROOT = DEPLOY / "systemd", DEPLOY.parent
EXPOSURE_MAX = 3.0


def exposure(file: Path) -> float:
    """How exposed a service of this unit is, 0 to 10, by systemd's own count."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed: it counts the exposure of a unit")
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", file],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    found = re.search(r"exposure level for tidegate.service: (\S+)", said)
    assert found
    return float(found[1])


def test_the_service_is_hardly_exposed() -> None:
    assert exposure(FOLDER / "tidegate.service") < EXPOSURE_MAX


def test_without_its_hardening_the_service_would_be_exposed(tmp_path: Path) -> None:
    text, _, rest = (FOLDER / "tidegate.service").read_text("utf-8").partition("# Hardening\n")
    assert rest
    bare = tmp_path / "tidegate.service"
    bare.write_text(text)
    assert exposure(bare) > EXPOSURE_MAX


def test_systemd_finds_nothing_wrong_with_the_unit() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed: it reads a unit as systemd does")
    said = subprocess.run(
        ["systemd-analyze", "verify", FOLDER / "tidegate.service"], capture_output=True, text=True, timeout=30
    ).stderr
    # The program is not installed where the tests run.
    wrong = [line for line in said.splitlines() if line and "tidegate is not executable" not in line]
    assert not [line for line in wrong if line.startswith(("tidegate.service", str(FOLDER)))]


def test_systemd_makes_the_user_that_the_service_runs_as(tmp_path: Path) -> None:
    if not shutil.which("systemd-sysusers"):
        pytest.skip("systemd-sysusers is not installed: it reads the file that makes the user")
    said = subprocess.run(
        ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", FOLDER / "tidegate.sysusers"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert f"Would create user '{unit()['User'][0]}'" in said.stdout + said.stderr or "tidegate" in said.stderr


def test_wrong_usage_is_not_tried_again_and_a_lost_broker_is() -> None:
    entries = unit()
    assert entries["Restart"] == ["on-failure"]
    never = {int(code) for code in entries["RestartPreventExitStatus"][0].split()}
    assert never == {UsageError.exit_code} == {ModelRefused.exit_code}
    assert ConnectorLost.exit_code not in never


def test_brokers_that_are_back_long_after_this_machine_find_the_service_still_trying() -> None:
    assert SourceLost.exit_code not in {int(code) for code in unit()["RestartPreventExitStatus"][0].split()}
    assert unit()["StartLimitIntervalSec"] == ["0"]
    assert Settings.load(FOLDER / "tidegate.toml").kafka_start_s == Settings().kafka_start_s


def test_the_service_may_take_the_time_to_drain() -> None:
    limit = unit()["TimeoutStopSec"][0]
    assert limit.endswith("s")
    assert int(limit[:-1]) > drains_within_s(Settings())


def test_the_service_starts_tidegate_with_what_its_example_says() -> None:
    lines = (FOLDER / "tidegate.env").read_text("utf-8").splitlines()
    environment = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    command = unit()["ExecStart"][0].replace("%S", "/var/lib")
    used = set(re.findall(r"\$\{?([A-Z]+)\}?", command))
    assert used <= set(environment)
    # As systemd does: ${NAME} stays one word, $NAME is split.
    words = [
        word
        for part in shlex.split(command)
        for word in (
            environment[part[1:]].split()
            if re.fullmatch(r"\$[A-Z]+", part)
            else [re.sub(r"\$\{([A-Z]+)\}", lambda name: environment[name[1]], part)]
        )
    ]
    assert words[0] == "/opt/tidegate/bin/tidegate"
    assert_runs(words[1:])
    for name in set(environment) - used:
        assert name.removeprefix("TIDEGATE_").lower() in Settings.model_fields


def test_the_example_configuration_is_one() -> None:
    settings = Settings.load(FOLDER / "tidegate.toml")
    secret = settings.kafka["sasl.password"].removeprefix("file:")
    name, _, folder = unit()["LoadCredential"][0].partition(":")
    assert secret.startswith(f"/run/credentials/tidegate.service/{name}_")
    assert f"d {folder} " in " ".join((FOLDER / "tidegate.tmpfiles").read_text("utf-8").split())


def test_the_service_has_limits() -> None:
    entries = unit()
    assert entries["MemoryMax"] == ["1G"]
    assert int(entries["TasksMax"][0]) <= 512
    assert entries["StateDirectoryMode"] == ["0750"]
    assert entries["UMask"] == ["0077"]


PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1


def without_writable_code() -> None:
    """As MemoryDenyWriteExecute does, from inside: no memory is written and then run. Raises where it cannot be had."""
    if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
        raise OSError


def test_the_program_lives_without_code_that_it_writes_itself() -> None:
    assert unit()["MemoryDenyWriteExecute"] == ["yes"]
    if tuple(map(int, re.findall(r"\d+", platform.release())[:2])) < (6, 3):
        pytest.skip("this kernel is older than 6.3: a process cannot give up writable code by itself")
    settings = dict(pair.split("=", 1) for line in unit()["Environment"] for pair in line.split())
    command = [sys.executable, "-m", "flows", "doctor"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **{name: value for name, value in settings.items() if name != "HOME"}},
        preexec_fn=without_writable_code,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "test note" in done.stdout, done.stderr
