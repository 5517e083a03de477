import pytest

from flows.run import RunOptions, sinks_of
from flows.sources import is_live
from schemas.errors import UsageError


def test_one_sink_is_the_store_wherever_it_stands_and_the_others_follow_it() -> None:
    outlets = ("kafka://b:9092?decisions=d", "parquet:out", "stdout:")
    for store in ("t.db", "sqlite:t.db", "sqlite:///var/t.db", "./t.db"):
        assert sinks_of([store, *outlets]) == (store, outlets)
        assert sinks_of([*outlets, store]) == (store, outlets)


def test_a_run_without_a_store_or_with_two_is_refused() -> None:
    with pytest.raises(UsageError, match=r"none of the sinks is a decision store, .* add one"):
        sinks_of(["stdout:"])
    with pytest.raises(UsageError, match=r"a.db, b.db are decision stores: a run has exactly one"):
        sinks_of(["a.db", "stdout:", "b.db"])


@pytest.mark.parametrize(
    ("source", "follow", "until_end", "live"),
    [
        ("folder", False, False, False),
        ("folder", True, False, True),
        ("kafka://b:9092?vitals=v", False, False, True),
        ("kafka://b:9092?vitals=v", False, True, False),
        ("mqtts://b?vitals=v", False, False, True),
    ],
)
def test_rows_come_as_they_happen_from_brokers_and_followed_files(
    source: str, follow: bool, until_end: bool, live: bool
) -> None:
    options = RunOptions(flow="ward", source=source, sink="t.db", follow=follow, until_end=until_end)
    assert is_live(options) == live
