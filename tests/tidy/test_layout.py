"""Rules of the project that a machine can check."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "models", "operators", "schemas")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

ALLOWED = {
    "schemas": {"schemas"},
    "operators/columnar": {"schemas", "operators.columnar"},
    "operators": {"schemas", "operators"},
    "models": {"schemas", "models"},
    "flows": set(PACKAGES),
}
ONLY_IN = {
    "bytewax": (  # the engine, and what is measured against it: to replace it, these are replaced
        "operators/adapters/",
        "flows/bench/",
        "flows/connectors/partitions.py",
        "flows/connectors/sink.py",
        "flows/engine.py",
        "flows/recovery.py",
    ),
    "confluent_kafka": ("flows/bench/", "flows/connectors/"),
    "onnxruntime": ("models/",),
    "torch": ("models/train/",),
    "sqlite3": ("flows/",),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name(path)}: relative import"
            yield node.module


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name)
def test_a_file_fits_in_a_head(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, f"{node.name} is too long"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    layer = max((layer for layer in ALLOWED if name(path).startswith(layer + "/")), key=len)
    for module in imports(path):
        top = module.split(".")[0]
        if top in PACKAGES:
            assert any(module == ok or module.startswith(ok + ".") for ok in ALLOWED[layer]), f"imports {module}"
        if top in ONLY_IN:
            assert name(path).startswith(ONLY_IN[top]), f"imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_no_file_prints_or_leaves_work_undone(path: Path) -> None:
    text = path.read_text("utf-8")
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    if not name(path).startswith(("flows/cli", "models/train/")):
        assert "print" not in calls
    for mark in ("TO" + "DO", "FIX" + "ME", "NotImplemented"):
        assert mark not in text


BELOW = [path for path in SOURCES if not name(path).startswith(("flows/", "models/train/"))]
"""The training recipe runs against a wall-clock budget; everything else below the flows gets time as a value."""


@pytest.mark.parametrize("path", BELOW, ids=name)
def test_there_is_no_wall_clock_below_the_flows(path: Path) -> None:
    for call in ("time.time(", "datetime.now(", "datetime.utcnow("):
        assert call not in path.read_text("utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_every_public_name_is_explained(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_no_module_is_called_utils_and_no_build_output_is_tracked() -> None:
    assert not [name(path) for path in SOURCES if path.stem in {"utils", "util", "helpers", "base", "common", "misc"}]
    if (ROOT / ".git").exists():
        tracked = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        assert not [file for file in tracked if file.endswith((".db", ".pyc", ".log"))]


def test_tests_are_named_as_sentences() -> None:
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert node.name.count("_") >= 3, f"{name(path)}: {node.name}"
