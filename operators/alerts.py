"""Alert edges: when a key's action is told, and when it is told again. One alert at a time for each key.

This is not a certified alarm system; it decides what leaves as an edge instead of once for every window.
"""

from typing import Literal, NamedTuple

Kind = Literal["open", "rise", "fall", "renotify", "close"]

TOLD: frozenset[Kind] = frozenset({"open", "rise", "renotify"})
"""The edges of which a person is notified. `fall` and `close` are recorded only."""

AlertState = tuple[int, int, int]
"""Of an open alert: its level (rank of the action, above 0), when it was last told (us), the newest step (us).

Plain integers, so that it survives JSON. No open alert is None.
"""


class AlertEvent(NamedTuple):
    """One edge. `rank` is the level after it (0 for `close`), `before` the level until then."""

    kind: Kind
    rank: int
    before: int
    at_us: int


def step(
    state: AlertState | None, rank: int, at_us: int, renotify_us: int
) -> tuple[AlertState | None, list[AlertEvent]]:
    """Take the action decided for one window, as its rank (0 is `none`), at the event time `at_us`.

    Opens above 0, tells again on a rise above the level it has now, and once `renotify_us` of event time have passed
    since it was last told; a fall that is not to 0 is recorded and told only if that timer is due, a later rise tells
    again; 0 closes. Silence is bounded by `renotify_us` plus the time between two steps: a key that went quiet has to
    be stepped with the level it has.
    A step older than the newest one (the model's part of an earlier window) can only raise: what is known since then
    may not be undone by it.
    """
    if state is None:
        return ((rank, at_us, at_us), [AlertEvent("open", rank, 0, at_us)]) if rank > 0 else (None, [])
    level, told_us, newest_us = state
    if at_us < newest_us and rank <= level:
        return state, []
    newest_us = max(newest_us, at_us)
    if rank > level:
        return (rank, max(told_us, at_us), newest_us), [AlertEvent("rise", rank, level, at_us)]
    if rank == 0:
        return None, [AlertEvent("close", 0, level, at_us)]
    events = [AlertEvent("fall", rank, level, at_us)] if rank < level else []
    if at_us - told_us >= renotify_us:
        events.append(AlertEvent("renotify", rank, rank, at_us))
        told_us = at_us
    return (rank, told_us, newest_us), events
