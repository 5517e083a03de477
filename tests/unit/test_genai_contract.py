"""What a generating model may answer, and how its choices become probabilities."""

import hashlib
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.genai_contract import PROMPT_VERSION, Walk, guidance, instruction, parse, pieces
from schemas.texts import FIELDS, TextField

INSTRUCTIONS = {"1": "e84fea138ce9d4e08a1115bbaae5a8598e9e10bb96c708fc96db21e34aec2ebb"}
"""SHA-256 of the instructions of all domains, by prompt version: other words, another version."""
KIND = (TextField("kind", ("collision", "closure", "other")),)
LIST = (TextField("labels", ("red", "green", "blue"), many=True),)
LETTERS = 'abcdefghijklmnopqrstuvwxyz_", :{}[]'


def answers(domain: str) -> st.SearchStrategy[tuple[str, tuple[str, ...]]]:
    """An answer in the contract, and its labels."""
    chosen = [
        st.sets(st.sampled_from(field.labels)).map(lambda some, field=field: [x for x in field.labels if x in some])
        if field.many
        else st.sampled_from(field.labels)
        for field in FIELDS[domain]
    ]

    def write(values: tuple[Any, ...]) -> tuple[str, tuple[str, ...]]:
        named = {field.name: value for field, value in zip(FIELDS[domain], values, strict=True)}
        labels = [x for value in values for x in ([value] if isinstance(value, str) else value)]
        return json.dumps(named), tuple(labels)

    return st.tuples(*chosen).map(write)


def walk(fields: tuple[TextField, ...], answer: list[str], weights: dict[str, float]) -> Walk:
    """Follow an answer given as tokens; the weight of a token is the same wherever it is allowed."""
    vocabulary = list(dict.fromkeys([*answer, *weights, *LETTERS]))
    walked = Walk(fields, {text: [at] for at, text in enumerate(vocabulary)})
    for text in answer:
        allowed = walked.allowed()
        logits = {at: math.log(weights.get(vocabulary[at], 1e-12)) for at in allowed}
        walked.take(vocabulary.index(text), logits, allowed)
    return walked


@pytest.mark.parametrize("domain", list(FIELDS))
@given(data=st.data())
def test_every_answer_in_the_contract_can_be_walked_to_its_end(domain: str, data: st.DataObject) -> None:
    answer, labels = data.draw(answers(domain))
    walked = walk(FIELDS[domain], list(answer), dict.fromkeys(LETTERS, 1.0))
    assert (walked.done, walked.lost) == (True, False)
    assert set(walked.p) == {label for field in FIELDS[domain] for label in field.labels}
    assert all(0 <= p <= 1 for p in walked.p.values())
    assert parse(answer, FIELDS[domain]) == labels


@given(answers("ward"))
def test_the_grammar_of_a_list_takes_every_set_of_labels_in_one_order(pair: tuple[str, tuple[str, ...]]) -> None:
    answer, labels = pair
    kind, pattern = guidance(FIELDS["ward"])
    assert kind == "regex"
    assert re.fullmatch(pattern, answer)
    for wrong in ([*labels, *labels[-1:]], list(reversed(labels))):
        if wrong != list(labels):
            assert not re.fullmatch(pattern, json.dumps({"labels": wrong}))


@pytest.mark.parametrize("domain", ["roadside", "desk"])
def test_single_choices_are_held_by_a_json_schema(domain: str) -> None:
    kind, text = guidance(FIELDS[domain])
    schema = json.loads(text)
    assert kind == "json_schema"
    assert schema["additionalProperties"] is False
    assert schema["required"] == [field.name for field in FIELDS[domain]]
    assert {name: tuple(rule["enum"]) for name, rule in schema["properties"].items()} == {
        field.name: field.labels for field in FIELDS[domain]
    }


@pytest.mark.parametrize(
    "answer",
    [
        "",
        '{"kind": "collision"',
        '{"kind": "crash"}',
        '{"kind": ["collision"]}',
        '{"kind": "collision", "more": 1}',
        '{"kind": null}',
        '["collision"]',
        "collision",
        '{"kind": 1}',
    ],
)
def test_anything_but_the_contract_is_no_answer(answer: str) -> None:
    assert parse(answer, KIND) is None


@pytest.mark.parametrize(
    "value", ['"red"', '["green", "red"]', '["red", "red"]', '["pink"]', "{}", "null", "[[]]", "[1]"]
)
def test_a_list_that_is_not_in_the_contract_is_no_answer(value: str) -> None:
    assert parse(f'{{"labels": {value}}}', LIST) is None


def test_a_label_of_its_own_token_gets_the_share_of_that_token() -> None:
    walked = walk(
        KIND, ['{"kind": "', "closure", '"}'], {'{"kind": "': 1, "closure": 3, "collision": 4, "other": 1, '"}': 1}
    )
    assert walked.p == pytest.approx({"collision": 0.5, "closure": 0.375, "other": 0.125}, abs=1e-6)


def test_a_label_of_several_tokens_gets_the_product_of_their_shares() -> None:
    weights = {'{"kind": "': 1, "c": 3, "ollision": 1, "losure": 4, "other": 1, '"}': 1}
    walked = walk(KIND, ['{"kind": "', "c", "losure", '"}'], weights)
    assert walked.p == pytest.approx({"collision": 0.15, "closure": 0.6, "other": 0.25}, abs=1e-6)


def test_labels_that_were_passed_over_together_share_their_weight() -> None:
    walked = walk(KIND, ['{"kind": "', "other", '"}'], {'{"kind": "': 1, "c": 3, "other": 1, '"}': 1})
    assert walked.p == pytest.approx({"collision": 0.375, "closure": 0.375, "other": 0.25}, abs=1e-6)


def test_a_token_that_leaves_the_way_taken_and_others_open_tells_nothing() -> None:
    weights = {'{"kind": "': 1, "c": 5, "coll": 1, "ision": 1, "other": 1, '"}': 1, "{": 9}
    walked = walk(KIND, ['{"kind": "', "coll", "ision", '"}'], weights)
    assert walked.p == pytest.approx({"collision": 0.5, "closure": 0, "other": 0.5}, abs=1e-6)


def test_in_a_list_each_p_is_that_of_a_label_given_the_labels_before_it() -> None:
    # First choice: red 1, green 2, blue 4, end 1. Green is taken; then blue 4 against the end 1, which is taken.
    weights = {'{"labels": ["': 7, '{"labels": []': 1, "red": 1, "green": 2, "blue": 4, '", "': 4, '"]': 1, "}": 1}
    walked = walk(LIST, ['{"labels": ["', "green", '"]', "}"], weights)
    assert walked.p == pytest.approx({"red": 1 / 8, "green": 2 / 7, "blue": 4 / 5}, abs=1e-6)


def test_an_empty_list_and_a_full_one_are_weighed_too() -> None:
    weights = {'{"labels": ["': 1, '{"labels": []': 3, "red": 1, "green": 1, "blue": 2, '", "': 1, '"]': 1, "}": 1}
    assert walk(LIST, ['{"labels": []', "}"], weights).p["blue"] == pytest.approx(
        0.1
    )  # a third of a quarter, against the end
    full = walk(LIST, ['{"labels": ["', "red", '", "', "green", '", "', "blue", '"]', "}"], weights)
    assert full.done
    assert full.p == pytest.approx({"red": 1 / 16, "green": 1 / 6, "blue": 1 / 2}, abs=1e-6)


def test_a_token_that_cannot_be_placed_loses_the_way_and_says_so() -> None:
    walked = walk(KIND, ['{"kind": "', "crash"], {})
    assert (walked.lost, walked.done, walked.allowed()) == (True, False, {})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_lose_the_way(value: float) -> None:
    walked = Walk(KIND, {letter: [at] for at, letter in enumerate(LETTERS)})
    allowed = walked.allowed()
    walked.take(next(iter(allowed)), dict.fromkeys(allowed, value), allowed)
    assert walked.lost


def test_pieces_are_read_from_both_kinds_of_vocabulary() -> None:
    byte_level = {"model": {"vocab": {"\u0120": 0, '"': 1, "coll": 2, "X": 3, '\u0120"': 4}}}
    assert pieces(byte_level) == {" ": [0], '"': [1], "coll": [2], ' "': [4]}
    unigram = {"model": {"vocab": [["<unk>", 0], ["\u2581", -1], ["other", -2]]}}
    assert pieces(unigram) == {" ": [1], "other": [2]}


@pytest.mark.parametrize("domain", list(FIELDS))
def test_the_instruction_names_every_label_and_every_field(domain: str) -> None:
    lines = instruction(domain, FIELDS[domain]).splitlines()
    for field in FIELDS[domain]:
        assert any(line.startswith(field.name) for line in lines)
        assert all(any(line.removeprefix("- ").split(":")[0] == label for line in lines) for label in field.labels)


def test_other_words_in_the_prompt_need_another_version() -> None:
    words = "\n".join(instruction(domain, fields) for domain, fields in FIELDS.items())
    assert INSTRUCTIONS[PROMPT_VERSION] == hashlib.sha256(words.encode()).hexdigest()
