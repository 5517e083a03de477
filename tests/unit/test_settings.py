"""Where settings come from: a variable wins over the file, and a wrong one is named."""

from pathlib import Path

import pytest

from schemas.errors import UsageError
from schemas.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tidegate.toml"
    path.write_text('window_s = 30\nkafka = {"ssl.ca.location" = "/ca.pem"}\n')
    return path


def test_a_variable_wins_over_the_file_and_what_neither_says_is_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TIDEGATE_WINDOW_S", "15")
    settings = Settings.load(file)
    assert (settings.window_s, settings.kafka) == (15, {"ssl.ca.location": "/ca.pem"})
    assert settings.ts_unit == Settings().ts_unit


def test_a_table_in_a_variable_is_json(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TIDEGATE_KAFKA", '{"sasl.username": "ward"}')
    assert Settings.load(file).kafka == {"sasl.username": "ward"}


@pytest.mark.parametrize(("name", "value"), [("WINDOW_S", "-1"), ("WINDOW_S", "soon"), ("KAFKA", "{")])
def test_a_wrong_variable_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"TIDEGATE_{name}", value)
    with pytest.raises(UsageError, match=name.lower()):
        Settings.load(None)


def test_a_name_that_is_no_setting_is_refused(tmp_path: Path):
    path = tmp_path / "tidegate.toml"
    path.write_text("windows_s = 30\n")
    with pytest.raises(UsageError, match="windows_s"):
        Settings.load(path)
