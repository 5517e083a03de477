"""`tidegate doctor`: is this machine fit, is this installation whole."""

import os
import platform
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flows.texts import open_model
from schemas.errors import ModelRefused, TidegateError
from schemas.settings import Settings

PACKAGES = (
    "bytewax",
    "confluent-kafka",
    "numpy",
    "onnxruntime",
    "opentelemetry-exporter-prometheus",
    "opentelemetry-sdk",
    "orjson",
    "paho-mqtt",
    "polars",
    "pydantic",
    "tokenizers",
)
FREE_MB_MIN = 500
PYTHONS = ((3, 11), (3, 12))


def _findings(settings: Settings) -> Iterator[tuple[bool, str]]:
    python = sys.version_info[:2]
    yield python in PYTHONS, f"Python {platform.python_version()} (3.11 or 3.12 is needed: Bytewax has no newer wheel)"
    for package in PACKAGES:
        try:
            yield True, f"{package} {version(package)}"
        except PackageNotFoundError:
            yield False, f"{package} is not installed: run `pip install tidegate` again in this environment"
    yield sqlite3.sqlite_version_info >= (3, 35), f"SQLite {sqlite3.sqlite_version} (3.35 or newer is needed)"
    free_mb = shutil.disk_usage(Path.cwd()).free // 2**20
    yield free_mb >= FREE_MB_MIN, f"{free_mb} MB free in this folder ({FREE_MB_MIN} MB are needed)"
    yield True, f"{len(os.sched_getaffinity(0))} cores for this process"
    try:
        reader = open_model("default", "ward", settings)
        reading = reader.read("Suspected sepsis, cultures sent, first dose of antibiotics given.")
        yield (
            reading.abstain is None,
            f"model {reader.name} {reader.digest[:12]} on a test note: {', '.join(reading.labels) or 'nothing'}",
        )
    except ModelRefused as refusal:
        yield False, f"the model is refused, flows run on their rules alone: {refusal}"


def check(settings: Settings) -> str:
    """What was found, a line each. Errors: TidegateError where something is wrong, with the same lines."""
    findings = list(_findings(settings))
    report = "\n".join(f"{'ok     ' if fine else 'WRONG  '} {line}" for fine, line in findings)
    report += (
        f"\nok      settings: windows of {settings.window_s:g} s, {settings.shards} shards, {settings.workers} workers"
    )
    if not all(fine for fine, _ in findings):
        raise TidegateError(f"something is wrong here\n{report}")
    return report


def _shown(name: str, value: Any) -> str:
    """A setting's value for people to see and to send around: without what is secret in it."""
    if isinstance(value, dict):
        return str({key: _shown(key, held) for key, held in value.items()})
    text = str(value)
    if text and not text.startswith("file:") and re.search(r"password|secret|token|jaas", name):
        return "(set)"
    return re.sub(r"(?<=://)[^/@]*@", "...@", text)


def settings_table(settings: Settings, *, values: bool = True) -> str:
    """Every setting as a table: name, value, default, what it is. values: with the value in force."""
    rows = [("setting", "value", "default", "what it is"), ("---",) * 4]
    rows += [
        (name, _shown(name, getattr(settings, name)), str(field.default), str(field.description))
        for name, field in type(settings).model_fields.items()
    ]
    shown = rows if values else [(name, default, text) for name, _, default, text in rows]
    return "\n".join(" | ".join(row) for row in shown)
