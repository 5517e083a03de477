"""The sealed record: its text is the canonical form of what it says, whatever that is."""

from typing import Any

import orjson
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.domain import Judgement
from operators.record import Place, inputs_json, json_of, model_json, rfc3339, rows_of, seal, text_of
from schemas.decisions import RECORD_VERSION, canonical
from schemas.reading import Abstain, Reading
from tests.unit.sealed import seal as seal_by_hand
from tests.unit.sealed import sealed
from tests.unit.test_ledger import domain, row

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
shares = st.floats(0, 1)
readings = st.builds(
    Reading,
    labels=st.lists(texts, max_size=2),
    p=st.dictionaries(texts, shares, max_size=3),
    evidence=st.dictionaries(texts, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=2)),
    abstain=st.none() | st.sampled_from(Abstain),
)
plain = st.none() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts
judgements = st.builds(
    Judgement,
    rule=st.dictionaries(texts, plain | st.dictionaries(texts, plain) | st.lists(texts), max_size=3),
    action=texts,
    raised_by=st.lists(texts, max_size=2) | st.just(()),
    proposals=st.lists(st.dictionaries(texts, texts, max_size=2), max_size=2),
    rationale=texts,
)


@settings(max_examples=100, deadline=None)
@given(
    key=texts.filter(bool),
    note=st.none() | texts,
    judged=judgements,
    reading=readings,
    model=st.none() | st.dictionaries(texts, texts, max_size=3),
    names=st.lists(texts, min_size=2, max_size=2, unique=True),
    at_us=st.integers(0, 4 * 10**15),
    place=st.tuples(st.integers(0, 9), st.sampled_from(["0" * 64, "f" * 64])),
)
def test_the_text_of_a_record_is_the_canonical_form_of_the_record(
    key: str,
    note: str | None,
    judged: Judgement,
    reading: Reading,
    model: dict[str, str] | None,
    names: list[str],
    at_us: int,
    place: tuple[int, str],
) -> None:
    offsets = [{"partition": 1, "first": 3, "last": 9}, {"partition": 0, "first": 0, "last": 2}]
    window: dict[str, Any] = {**row(0, key, note), "start_us": at_us, "end_us": at_us + 1, "offsets": offsets}
    text = text_of({**window, "notes_us": at_us}, domain())
    inputs = inputs_json(window, domain(), names, text.sha256 if text else None, json_of(model))
    record = seal(window, domain(), judged, model_json(reading), inputs, 1, Place("a" * 32, *place))
    said = {
        "labels": list(reading.labels),
        "p": reading.p,
        "evidence": {label: [list(span) for span in spans] for label, spans in reading.evidence.items()},
        "abstain": reading.abstain.value if reading.abstain else None,
        "unsure": list(reading.unsure),
    }
    read = text and {"stream": "notes", "offset": 0, "ts": rfc3339(0), "sha256": text.sha256}
    whole = {
        **{"v": RECORD_VERSION, "id": "a" * 32, "flow": "test", "key": key, "revision": 1, "model": said},
        "window": [rfc3339(at_us), rfc3339(at_us + 1)],
        **{"rule": judged.rule, "action": judged.action, "rationale": judged.rationale},
        **{"raised_by": list(judged.raised_by), "proposals": list(judged.proposals)},
        "inputs": {
            **{"rows": 1, "features_sha256": "f" * 64, "model": model, "text": read},
            "offsets": {names[1]: [3, 9], names[0]: [0, 2]},
        },
    }
    assert record.text.encode() == canonical(seal_by_hand(whole, *place))
    assert record == sealed(orjson.loads(record.text))


def test_a_record_holds_the_text_by_digest_only() -> None:
    window = row(0, note="secret words")
    text = text_of(window, domain())
    assert text is not None
    inputs = inputs_json(window, domain(), ["vitals"], text.sha256, "null")
    assert "secret" not in inputs
    assert len(orjson.loads(inputs)["text"]["sha256"]) == 64


def test_rows_come_by_name_and_in_order() -> None:
    frame = pl.DataFrame({"key": ["a", "b"], "offsets": [[{"first": 1}], []], "score": [None, 2]})
    assert list(rows_of(frame)) == frame.to_dicts()
    assert list(rows_of(frame.clear())) == []
