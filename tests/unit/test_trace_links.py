"""Sampled messages find the windows that their rows are in, and no others."""

import itertools

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.adapters import trace
from operators.adapters.messages import LinkedWindows, SourceBatch
from operators.adapters.trace import FOLLOWED_MAX, LINKS_MAX, OpenLinks
from operators.columnar.checks import NO_REJECTS
from schemas.windows import WindowSpec

TUMBLING = WindowSpec("tumbling", length_us=10)
WindowKey = tuple[str, int, int]


def flat(found: LinkedWindows) -> dict[WindowKey, tuple[tuple[str, ...], int]]:
    return {(key, *span): linked for key, spans in found.items() for span, linked in spans.items()}


def batch(rows: list[tuple[int, str, int]], linked: list[int], received_ns: int = 5) -> SourceBatch:
    """rows: offset, key, event_us. linked: offsets of sampled messages; `m3` brought offset 3."""
    frame = pl.DataFrame(rows, schema={"offset": pl.Int64, "key": pl.String, "event_us": pl.Int64}, orient="row")
    links, offsets = tuple(f"m{offset}" for offset in linked), tuple(linked)
    return SourceBatch("r", "rows", frame, NO_REJECTS, 0, None, False, received_ns, {}, links, offsets)


def windows(*keys: WindowKey) -> pl.DataFrame:
    return pl.DataFrame(list(keys), schema={"key": pl.String, "start_us": pl.Int64, "end_us": pl.Int64}, orient="row")


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 49), st.booleans()), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_a_tumbling_window_has_the_links_of_its_own_rows(events: list[tuple[str, int, bool]], cuts: list[int]) -> None:
    links = OpenLinks(TUMBLING)
    rows = [(offset, key, event_us) for offset, (key, event_us, _) in enumerate(events)]
    bounds = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    for first, last in itertools.pairwise(bounds):
        sampled = [offset for offset in range(first, last) if events[offset][2]][:FOLLOWED_MAX]
        links.add(batch(rows[first:last], sampled))
    expected: dict[WindowKey, list[str]] = {}
    for first, last in itertools.pairwise(bounds):
        for offset in [offset for offset in range(first, last) if events[offset][2]][:FOLLOWED_MAX]:
            key, event_us, _ = events[offset]
            start_us = event_us // 10 * 10
            expected.setdefault((key, start_us, start_us + 10), []).append(f"m{offset}")
    found: dict[WindowKey, list[str]] = {}
    for end_us in range(10, 60, 10):
        closed = windows(*((key, end_us - 10, end_us) for key in "ab"))
        found |= {window: list(linked[0]) for window, linked in flat(links.closed(closed)).items()}
    assert found == {window: names[:LINKS_MAX] for window, names in expected.items()}
    assert not links


def test_a_row_of_a_sliding_window_is_followed_until_its_last_window_has_closed() -> None:
    links = OpenLinks(WindowSpec("sliding", length_us=10, every_us=5))
    links.add(batch([(3, "a", 12)], [3], received_ns=77))
    for start_us in (5, 10):
        (found,) = flat(links.closed(windows(("a", start_us, start_us + 10)))).values()
        assert found == (("m3",), 77)
    assert links.closed(windows(("a", 15, 25))) == {}
    assert not links


def test_a_row_of_a_session_is_followed_until_the_session_closes() -> None:
    links = OpenLinks(WindowSpec("session", gap_us=10))
    links.add(batch([(0, "a", 5), (1, "a", 90)], [0, 1]))
    assert list(flat(links.closed(windows(("a", 5, 15), ("b", 0, 50)))).values()) == [(("m0",), 5)]
    assert links
    assert list(flat(links.closed(windows(("a", 90, 100)))).values()) == [(("m1",), 5)]
    assert not links


def test_messages_whose_rows_were_refused_or_late_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    links = OpenLinks(TUMBLING)
    links.add(batch([(0, "a", 5)], [0, 8]))
    assert links.closed(windows(("b", 10, 20))) == {}
    assert not links
    monkeypatch.setattr(trace, "OPEN_MAX", 3)
    links = OpenLinks(TUMBLING)
    for offset in range(5):
        links.add(batch([(offset, "a", offset)], [offset]))
    assert links.closed(windows(("a", 0, 10)))["a"][0, 10].traceparents == ("m2", "m3", "m4")
