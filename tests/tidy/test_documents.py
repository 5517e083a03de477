"""The documents say what the code does."""

from pathlib import Path

from flows.doctor import settings_table
from schemas.settings import Settings

README = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")


def test_the_readme_lists_every_setting_as_it_is() -> None:
    _, _, rest = README.partition("<!-- settings -->\n")
    written, _, _ = rest.partition("<!-- /settings -->")
    assert written.strip() == settings_table(Settings(), values=False).strip()


def test_the_readme_fits_its_first_screen() -> None:
    head, _, _ = README.partition("## Using it")
    assert len(head.splitlines()) <= 45
