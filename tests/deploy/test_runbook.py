"""The runbook: every message in it is one that the program prints, every setting and file it names is there."""

import ast
import re

import pytest

from schemas.settings import Settings
from tests.deploy.manifests import DEPLOY

ROOT = DEPLOY.parent
RUNBOOK = (DEPLOY / "runbook.md").read_text("utf-8")
VARIABLE = re.compile(r"\b(?:[A-Z]{4,}|N)\b")
"""A name in capitals stands for what differs from site to site."""
SECTIONS = (
    "Start",
    "Stop",
    "Upgrade",
    "Restore",
    "Disk full",
    "Broker down",
    "Clock wrong",
    "Model refused",
    "Recovery store damaged",
    "The broker's log wiped",
)


def rows() -> list[list[str]]:
    """The rows of the table of messages."""
    _, _, table = RUNBOOK.partition("| message contains |")
    lines = [line for line in table.partition("\n\n")[0].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def said() -> str:
    """Every text in the program, one after the other."""
    texts = []
    for package in ("flows", "models", "operators", "schemas"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(re.sub(r"%[sd]", "\n", node.value))
    return "\n".join(texts)


@pytest.fixture(scope="module")
def program() -> str:
    return said()


@pytest.mark.parametrize("message", [row[0].strip("`") for row in rows()])
def test_a_message_in_the_table_is_one_that_the_program_prints(message: str, program: str) -> None:
    parts = [part.strip() for part in VARIABLE.split(message)]
    assert max(len(part) for part in parts) >= 7
    for part in parts:
        assert part in program


def test_the_table_names_exit_codes_that_there_are() -> None:
    assert len(rows()) > 20
    for row in rows():
        assert len(row) == 4
        assert row[1] == "runs on" or row[1][0] in "123"


def test_every_trouble_has_its_page() -> None:
    headings = re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE)
    assert set(SECTIONS) <= set(headings)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", RUNBOOK)) <= anchors


def test_the_settings_that_it_names_are_there() -> None:
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", RUNBOOK))
    reasons = {"bad_time", "unknown_name", "model_refused", "node_filesystem_avail_bytes"}
    assert named - reasons <= set(Settings.model_fields)
    assert "drain_limit_s" in named


def test_the_files_that_it_names_are_there() -> None:
    for name in re.findall(r"deploy/[a-z./{},]+[a-z}]", RUNBOOK):
        start, _, choice = name.partition("{")
        ends = choice.rstrip("}").split(",") if choice else [""]
        assert all((ROOT / (start + end)).exists() for end in ends), name
