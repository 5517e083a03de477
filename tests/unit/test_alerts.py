"""The alert state machine: a table of paths, and what no path may do."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.alerts import TOLD, AlertEvent, AlertState, step

RENOTIFY_US = 900


def run(steps: list[tuple[int, int]]) -> tuple[AlertState | None, list[AlertEvent]]:
    state: AlertState | None = None
    events: list[AlertEvent] = []
    for rank, at_us in steps:
        state, new = step(state, rank, at_us, RENOTIFY_US)
        events += new
    return state, events


@pytest.mark.parametrize(
    ("steps", "edges"),
    [
        pytest.param([(0, 60)], [], id="nothing to tell"),
        pytest.param([(2, 60), (2, 120), (2, 180)], [("open", 2, 60)], id="once, not for every window"),
        pytest.param([(2, 60), (0, 120), (0, 180)], [("open", 2, 60), ("close", 0, 120)], id="closes on return"),
        pytest.param([(1, 60), (4, 120)], [("open", 1, 60), ("rise", 4, 120)], id="a rise is told"),
        pytest.param(
            [(4, 60), (2, 120), (3, 180)],
            [("open", 4, 60), ("fall", 2, 120), ("rise", 3, 180)],
            id="a rise after a fall is told again",
        ),
        pytest.param(
            [(2, 60), (2, 959), (2, 960)], [("open", 2, 60), ("renotify", 2, 960)], id="told again on the timer"
        ),
        pytest.param(
            [(2, 60), (3, 120), (3, 960), (3, 1020)],
            [("open", 2, 60), ("rise", 3, 120), ("renotify", 3, 1020)],
            id="a rise starts the timer anew",
        ),
        pytest.param(
            [(4, 60), (2, 960)],
            [("open", 4, 60), ("fall", 2, 960), ("renotify", 2, 960)],
            id="a fall does not hide that the timer is due",
        ),
        pytest.param([(2, 60), (2, 9999)], [("open", 2, 60), ("renotify", 2, 9999)], id="one telling after a gap"),
        pytest.param([(2, 120), (0, 60), (1, 60)], [("open", 2, 120)], id="an older window cannot lower"),
        pytest.param([(2, 120), (4, 60)], [("open", 2, 120), ("rise", 4, 60)], id="an older window can raise"),
        pytest.param(
            [(2, 120), (4, 60), (0, 90)],
            [("open", 2, 120), ("rise", 4, 60)],
            id="a rise from an older window does not make the next old one new",
        ),
    ],
)
def test_a_path_makes_exactly_these_edges(steps: list[tuple[int, int]], edges: list[tuple[str, int, int]]) -> None:
    assert [(event.kind, event.rank, event.at_us) for event in run(steps)[1]] == edges


paths = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 400)), max_size=60).map(
    lambda gaps: [(rank, sum(gap for _, gap in gaps[: nth + 1])) for nth, (rank, _) in enumerate(gaps)]
)


@settings(max_examples=60, deadline=None)
@given(paths)
def test_no_open_alert_is_silent_past_its_timer(steps: list[tuple[int, int]]) -> None:
    state: AlertState | None = None
    told_us = 0
    for rank, at_us in steps:
        state, events = step(state, rank, at_us, RENOTIFY_US)
        told_us = at_us if any(event.kind in TOLD for event in events) else told_us
        assert (state is None) == (rank == 0)
        assert state is None or at_us - told_us < RENOTIFY_US


@settings(max_examples=60, deadline=None)
@given(paths)
def test_every_alert_opens_once_and_closes_once_and_its_edges_join_up(steps: list[tuple[int, int]]) -> None:
    level = 0
    for event in run(steps)[1]:
        assert event.before == level
        assert (event.kind == "open") == (level == 0)
        assert (event.kind == "close") == (event.rank == 0)
        assert {"rise": event.rank > level, "fall": event.rank < level, "renotify": event.rank == level}.get(
            event.kind, True
        )
        level = event.rank


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 300), st.integers(1, 80))
def test_one_level_for_ever_is_one_opening_and_then_the_timer(rank: int, every_us: int, count: int) -> None:
    events = run([(rank, every_us * (nth + 1)) for nth in range(count)])[1]
    spacing = -(-RENOTIFY_US // every_us) * every_us
    kinds = ["open"] + ["renotify"] * ((count - 1) * every_us // spacing)
    assert [event.kind for event in events] == kinds
    assert [event.at_us for event in events] == [every_us + nth * spacing for nth in range(len(kinds))]


@settings(max_examples=40, deadline=None)
@given(paths, st.tuples(st.integers(0, 4), st.integers(0, 20_000)))
def test_a_step_out_of_order_never_lowers_an_open_alert(steps: list[tuple[int, int]], old: tuple[int, int]) -> None:
    state, _ = run(steps)
    if state is not None and old[1] < state[2]:
        after, events = step(state, *old, RENOTIFY_US)
        assert after is not None
        assert after[0] == max(state[0], old[0])
        assert {event.kind for event in events} <= {"rise"}


@settings(max_examples=40, deadline=None)
@given(paths, paths)
def test_a_state_that_went_through_json_goes_on_as_if_it_had_not(
    before: list[tuple[int, int]], after: list[tuple[int, int]]
) -> None:
    state, _ = run(before)
    stored = json.loads(json.dumps(state))
    restored = None if stored is None else tuple(stored)
    for rank, at_us in after:
        (state, events), (restored, again) = (step(each, rank, at_us, RENOTIFY_US) for each in (state, restored))
        assert (state, events) == (restored, again)
