from pathlib import Path

import pytest

from flows.connectors.outlets import Outlet, outlet
from flows.connectors.outlets.follower import Followers
from flows.connectors.outlets.stdout import StdoutOutlet
from flows.connectors.outlets.webhook import WebhookOutlet
from schemas.errors import UsageError
from schemas.settings import Settings
from tests.unit.outlet_fakes import Heard, filled

TOKEN = "0123456789abcdef"


@pytest.fixture
def signed(tmp_path: Path) -> Settings:
    key = tmp_path / "key"
    key.write_bytes(b"a key of twenty bytes\n")
    return Settings(outlet_webhook_key_file=str(key))


def made(address: str, settings: Settings | None = None) -> Outlet:
    return outlet(address, settings or Settings(), TOKEN)


def test_an_outlet_is_known_by_its_address_unless_it_is_given_a_name(signed: Settings, tmp_path: Path) -> None:
    assert made("kafka://b:9092?decisions=d").name == "kafka://b:9092/d"
    assert made("kafka://b:9092,c:9092?decisions=d&name=site").name == "site"
    assert made(f"parquet:{tmp_path}/out").name == f"parquet:{tmp_path}/out"
    assert made("stdout:").name == "stdout"
    assert made("https://h/hook?x=1#name=pager", signed).name == "pager"


def test_a_webhooks_name_holds_nothing_of_its_path_or_query(signed: Settings) -> None:
    one, two = made("https://h/secret?token=1", signed), made("https://h/secret?token=2", signed)
    assert isinstance(one, WebhookOutlet)
    assert one.name.startswith("https://h/")
    assert "secret" not in one.name
    assert "token" not in one.name
    assert one.name != two.name


def test_only_outlets_that_have_a_place_for_dead_letters_want_them(tmp_path: Path) -> None:
    assert not made("kafka://b:9092?decisions=d").dead_letters
    assert made("kafka://b:9092?decisions=d&dead_letters=l").dead_letters
    assert made(f"parquet:{tmp_path}/out").dead_letters
    assert not made("stdout:").dead_letters
    assert isinstance(made("stdout:?dead_letters=true"), StdoutOutlet)
    assert made("stdout:?dead_letters=true").dead_letters


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ftp://h/x", "of no known kind"),
        ("kafka", "of no known kind"),
        ("kafka://b:9092", "names no topic for decisions"),
        ("kafka://?decisions=d", "give kafka://HOST:PORT"),
        ("kafka://u@b:9092?decisions=d", "user and password go into"),
        ("kafka://b:9092?decisions=d&dead_letters=d", "same topic"),
        ("kafka://b:9092?decisions=d&decisions=e", "twice"),
        ("kafka://b:9092?decisions=", "decisions is empty"),
        ("kafka://b:9092?decisions=d&topic=x", "topic is no option of it: it takes decisions"),
        ("kafka://b:9092?decisions=d&transactional=yes", "give true or false"),
        ("kafka://b:9092?decisions=d&name=" + "n" * 300, "must have 1 to 200"),
        ("kafka://u:secret@b:9092?decisions=d", "must hold no password"),
        ("kafka://[b:9092?decisions=d", "cannot be read"),
        ("parquet:", "give a folder"),
        ("parquet://host/x", "give a folder"),
        ("stdout:x", "nothing comes after it"),
        ("https:///x", "there is no host"),
        ("https://h:99999/x", "its port"),
        ("https://user@h/x", "it holds a user"),
        ("https://h/x#secret=1", "secret is no option"),
        ("https://h/x", "there is no key to sign with"),
    ],
)
def test_a_wrong_address_is_told_in_a_sentence_that_shows_no_password(address: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        made(address)
    assert "u:secret" not in str(caught.value)


def test_a_key_must_be_readable_and_long_enough(tmp_path: Path) -> None:
    missing = Settings(outlet_webhook_key_file=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="cannot be read"):
        made("https://h/x", missing)
    (tmp_path / "short").write_bytes(b"short\n")
    with pytest.raises(UsageError, match="holds 5 bytes: a key has at least 16"):
        made("https://h/x", Settings(outlet_webhook_key_file=str(tmp_path / "short")))


def test_a_parquet_sink_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        made(f"parquet:{tmp_path}/f")


def test_two_outlets_of_one_name_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    filled(tmp_path / "t.db", 1)
    with pytest.raises(UsageError, match="two sinks are called stdout"):
        Followers(["stdout:", "stdout:"], tmp_path / "t.db", Settings(), Heard())
