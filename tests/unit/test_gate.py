"""The gate over tables that mean nothing, so that only its own laws are tested."""

from collections.abc import Mapping, Set
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.gate import ONE_LEVEL, Flag, Gate, Propose, Raise, render

ACTIONS = ("none", "watch", "advise", "divert", "close")
LABELS = ("red", "green", "blue", "grey")


def above(limit: int) -> Any:
    def condition(labels: Set[str], facts: Mapping[str, Any]) -> bool:
        return bool(facts["level"] >= limit)

    return condition


raises = st.lists(
    st.builds(
        Raise,
        st.sampled_from(LABELS),
        st.sampled_from([*ACTIONS, ONE_LEVEL]),
        st.sampled_from(["so", "thus"]),
        st.integers(0, 9).map(above),
    ),
    max_size=8,
)
proposals = st.lists(
    st.builds(
        Propose,
        st.sampled_from(["p", "q"]),
        st.lists(st.sampled_from(LABELS), max_size=3).map(tuple),
        st.just("do"),
        st.integers(0, 9).map(above),
    ),
    max_size=4,
)
given_labels = st.lists(st.sampled_from([*LABELS, "unknown"]), max_size=4)


@settings(max_examples=60, deadline=None)
@given(raises, proposals, st.sampled_from(ACTIONS), given_labels, st.integers(0, 9))
def test_the_action_is_the_highest_of_the_rule_and_every_raise_whatever_the_table(
    table: list[Raise], offers: list[Propose], rule: str, labels: list[str], level: int
) -> None:
    outcome = Gate(ACTIONS, table, offers).decide(rule, labels, {"level": level})
    highest = ACTIONS.index(rule)
    lifted = []
    for row in table:
        if row.label in labels and row.when(frozenset(labels), {"level": level}):
            one_up = min(ACTIONS.index(rule) + 1, len(ACTIONS) - 1)
            rank = one_up if row.to == ONE_LEVEL else ACTIONS.index(row.to)
            if rank > ACTIONS.index(rule):
                lifted.append(row.label)
            highest = max(highest, rank)
    assert outcome.action == ACTIONS[highest]
    assert ACTIONS.index(outcome.action) >= ACTIONS.index(rule)
    assert outcome.raised_by == list(dict.fromkeys(lifted))
    assert bool(outcome.because) == (outcome.action != rule)
    assert [offer["id"] for offer in outcome.proposals] == [
        row.name for row in offers if set(row.labels) & set(labels) and row.when(frozenset(), {"level": level})
    ]


@settings(max_examples=30, deadline=None)
@given(raises, proposals, st.sampled_from(ACTIONS))
def test_without_labels_the_rule_stands_and_nothing_is_added(
    table: list[Raise], offers: list[Propose], rule: str
) -> None:
    assert Gate(ACTIONS, table, offers).decide(rule, (), {}) == (rule, [], [], [], [])


@settings(max_examples=30, deadline=None)
@given(raises, st.randoms(), st.sampled_from(ACTIONS), given_labels)
def test_the_order_of_the_table_does_not_change_the_action(
    table: list[Raise], random: Any, rule: str, labels: list[str]
) -> None:
    shuffled = random.sample(table, len(table))
    first, second = (Gate(ACTIONS, rows).decide(rule, labels, {"level": 5}) for rows in (table, shuffled))
    assert (first.action, set(first.raised_by)) == (second.action, set(second.raised_by))


def test_two_raises_of_one_level_make_one_level() -> None:
    gate = Gate(ACTIONS, [Raise("red", ONE_LEVEL, "r"), Raise("blue", ONE_LEVEL, "b")])
    outcome = gate.decide("watch", ("red", "blue"), {})
    assert (outcome.action, outcome.raised_by, outcome.because) == ("advise", ["red", "blue"], ["r", "b"])


def test_a_raise_that_does_not_lift_above_the_rule_is_not_named() -> None:
    gate = Gate(ACTIONS, [Raise("red", "watch", "r"), Raise("blue", ONE_LEVEL, "b")])
    assert gate.decide("close", LABELS, {}) == ("close", [], [], [], [])


def test_the_reasons_are_those_that_carry_the_action_while_every_label_that_lifts_is_named() -> None:
    gate = Gate(ACTIONS, [Raise("red", "watch", "r"), Raise("blue", "close", "b"), Raise("blue", "divert", "c")])
    outcome = gate.decide("none", LABELS, {})
    assert (outcome.raised_by, outcome.because) == (["red", "blue"], ["b"])


def test_a_flag_is_carried_with_its_label() -> None:
    gate = Gate(ACTIONS, [], flags=[Flag("odd", "red"), Flag("even", "blue")])
    assert gate.decide("none", ("red",), {}).flags == ["odd"]


def test_a_table_that_raises_to_no_known_action_is_refused_when_it_is_built() -> None:
    with pytest.raises(ValueError, match="no action 'panic'"):
        Gate(ACTIONS, [Raise("red", "panic", "")])


def test_a_slot_is_filled_by_code_and_a_clause_without_its_value_is_dropped() -> None:
    template = "saturation {spo2.mean} %|on {flow} L/min|by {who}"
    assert render(template, {"spo2.mean": 91.0, "flow": None, "who": "mask"}, ", ") == "saturation 91 %, by mask"
    assert render(template, {"spo2.mean": 91.05, "flow": 2.5, "who": None}) == "saturation 91.05 % on 2.5 L/min"
    assert render("{a}", {"a": None}) == ""


def test_a_slot_that_nobody_filled_is_an_error_and_not_a_sentence() -> None:
    with pytest.raises(ValueError, match="no slot 'score'"):
        render("NEWS2 {score}", {"spo2.mean": 91})


def test_a_value_cannot_bring_slots_or_formats_of_its_own() -> None:
    assert render("{a} and {b}", {"a": "{b} %s", "b": "|"}) == "{b} %s and |"
