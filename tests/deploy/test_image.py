"""The Dockerfile: small, nobody's, and fed with nothing but what it copies."""

import json
import tomllib
from pathlib import Path

import pytest

from tests.deploy.manifests import DEPLOY, compose

ROOT = DEPLOY.parent


def instructions() -> list[tuple[str, str]]:
    """(instruction, what it is given) in order; continued lines joined, comments left out."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def last_stage() -> dict[str, str]:
    """The last stage's instructions; of one that comes twice, the last."""
    steps = instructions()
    start = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    return dict(steps[start:])


def test_the_image_runs_as_a_numbered_nobody() -> None:
    uid, _, gid = last_stage()["USER"].partition(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    assert compose()["services"]["tidegate"]["user"] == last_stage()["USER"]


def test_the_image_is_built_in_two_stages_and_takes_only_the_installed_program() -> None:
    stages = [rest for name, rest in instructions() if name == "FROM"]
    assert stages == ["${BASE} AS build", "${BASE}"]
    assert last_stage()["COPY"] == "--from=build /opt/tidegate /opt/tidegate"
    base = next(rest for name, rest in instructions() if name == "ARG")
    assert base.startswith("BASE=docker.io/library/python:3.11-slim")
    assert not [rest for name, rest in instructions() if name == "ADD" or "curl" in rest or "--index" in rest]


def test_the_image_starts_tidegate_and_asks_whether_it_lives() -> None:
    stage = last_stage()
    assert json.loads(stage["ENTRYPOINT"]) == ["/opt/tidegate/bin/tidegate"]
    options, _, command = stage["HEALTHCHECK"].partition("CMD ")
    assert "--interval" in options
    asked = json.loads(command)
    assert asked[0].startswith("/opt/tidegate/bin/python")
    compile(asked[2], "healthcheck", "exec")
    assert "/healthz" in asked[2]
    assert stage["STOPSIGNAL"] == "SIGTERM"


def test_the_image_has_the_extras_that_its_settings_need() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    arguments = dict(rest.split("=", 1) for name, rest in instructions() if name == "ARG")
    extras = arguments["EXTRAS"].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    assert "otlp" in extras  # compose.yaml sends its traces to a collector


def copied() -> set[str]:
    """What the build stage takes from the project."""
    taken = [rest.split() for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    return {source for sources in taken for source in sources[:-1]}


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    rules = [rule for rule in (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines() if rule[0] != "#"]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied()


@pytest.mark.parametrize("name", sorted(copied()))
def test_what_is_copied_is_there(name: str) -> None:
    assert Path(ROOT, name).exists()
