"""The manifests of deploy/, read as their tools read them."""

import itertools
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from flows.cli import app
from schemas.settings import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def compose() -> dict[str, Any]:
    """compose.yaml, anchors and merges resolved."""
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8")))


def base() -> list[dict[str, Any]]:
    """Every resource that the base's kustomization.yaml lists, as it stands in its file."""
    folder = KUBERNETES / "base"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))["resources"]
    return [found for name in listed for found in yaml.safe_load_all((folder / name).read_text("utf-8"))]


@cache
def built(folder: str) -> list[dict[str, Any]]:
    """What Kustomize makes of `folder`, made once; skips where it is not installed."""
    made = subprocess.run([*_kustomize(), KUBERNETES / folder], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return list(yaml.safe_load_all(made.stdout))


def _kustomize() -> list[str]:
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    pytest.skip("neither kustomize nor kubectl is installed: one of them builds the manifests")


def of_kind(resources: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The resources of one kind; at least one."""
    found = [resource for resource in resources if resource["kind"] == kind]
    assert found, f"no {kind}"
    return found


def unit() -> dict[str, list[str]]:
    """The entries of the systemd unit: name -> values in order; continued lines joined."""
    entries: dict[str, list[str]] = {}
    text = (DEPLOY / "systemd" / "tidegate.service").read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            entries.setdefault(name, []).append(" ".join(value.split()))
    return entries


def drains_within_s(settings: Settings) -> float:
    """How long a run takes at most from the wish that it ends until it has."""
    return settings.drain_limit_s + settings.outlet_drain_s


def assert_runs(command: list[str]) -> None:
    """`command`, what follows `tidegate`, is a run that this version's command line knows every option of."""
    assert command[:2] == ["run", "ward"]
    parameters = typer.main.get_command(app).commands["run"].params  # type: ignore[attr-defined]
    known = {option: parameter for parameter in parameters for option in parameter.opts}
    rest = list(command[2:])
    while rest:
        option = rest.pop(0)
        assert option in known, f"tidegate run has no option {option}"
        if not known[option].is_flag:
            assert rest, f"{option} lacks its value"
            assert not rest.pop(0).startswith("--"), f"{option} lacks its value"


def of_option(command: list[str], option: str) -> list[str]:
    """The values given to `option`."""
    return [value for name, value in itertools.pairwise(command) if name == option]
