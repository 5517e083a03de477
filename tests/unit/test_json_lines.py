"""JSON lines: what a bad line costs the others."""

import io
from typing import Any

import orjson
import polars as pl
import pytest

from operators.columnar import json_lines
from operators.columnar.codec import HALVED_LINES, Codec
from schemas.ward import VITALS


def codec() -> Codec:
    return Codec(VITALS, ts_unit="ms", line_bytes_max=4096)


def sound_lines(rows: int) -> list[bytes]:
    return [
        orjson.dumps({"ts": 1_700_000_000_000 + at, "patient": f"p-{at % 7}", "hr": 60 + at % 40}) for at in range(rows)
    ]


@pytest.mark.parametrize("at", [0, 1, HALVED_LINES // 2 - 1, HALVED_LINES // 2, HALVED_LINES - 1])
def test_one_bad_line_in_a_large_batch_costs_one_row(at: int) -> None:
    lines = sound_lines(HALVED_LINES)
    lines[at] = b'{"ts":1700000000000,"patient":"p","hr":"x"}'
    decoded = codec().decode_lines(lines, 0)
    assert decoded.rejects["offset"].to_list() == [at]
    assert decoded.rows["offset"].to_list() == [row for row in range(len(lines)) if row != at]


@pytest.mark.parametrize(
    "bad",
    [
        b'{"ts":17',
        b"no object",
        b"",
        b'{"ts":1700000000000,"patient":"p","hr":"x"}',
        b'{"ts":1700000000000,"patient":"p","hr":[1]}',
        b'{"ts":1700000000000,"patient":"p","oxygen":{"l":2}}',
        b'{"ts":1700000000000,"patient":"p","seq":1.5}',
        b'{"ts":1700000000000,"patient":"p","hr":70,}',
        b'{"ts":1700000000000,"patient":"p","hr":"\xc3\xa9\\n"}',
    ],
)
def test_a_bad_line_is_found_without_parsing_its_batch_piece_by_piece(
    bad: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = sound_lines(2000)
    lines[1500] = bad
    calls, parse = [], pl.scan_ndjson
    monkeypatch.setattr(json_lines.pl, "scan_ndjson", lambda *given, **named: calls.append(1) or parse(*given, **named))
    decoder = codec()
    assert decoder.decode_lines(lines, 0).rejects["offset"].to_list() == [1500]
    assert len(calls) <= 3  # in vain, again, and once more where the first refusal does not lead to the line


def test_a_refusal_that_nothing_foresees_costs_its_own_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = sound_lines(100)
    parse = pl.scan_ndjson
    odd = {3, 50, 51, 99}

    def moody(source: io.BytesIO, **named: Any) -> pl.LazyFrame:
        if any(lines[at] in source.getvalue() for at in odd):
            raise pl.exceptions.ComputeError("not today")
        return parse(source, **named)

    monkeypatch.setattr(json_lines.pl, "scan_ndjson", moody)
    decoded = codec().decode_lines(lines, 0)
    assert dict(zip(decoded.rejects["offset"], decoded.rejects["detail"], strict=True)) == dict.fromkeys(
        sorted(odd), "the parser refuses this line"
    )
    assert decoded.rows["offset"].to_list() == [at for at in range(100) if at not in odd]


def test_an_object_for_a_key_is_seen_beside_a_line_that_is_no_object() -> None:
    decoded = codec().decode_lines([b"no object", b'{"ts":1700000000000,"patient":{"id":1},"hr":70}'], 0)
    assert decoded.rejects["reason"].to_list() == ["not_json", "wrong_type"]


def test_a_clean_batch_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    parse = pl.scan_ndjson
    monkeypatch.setattr(json_lines.pl, "scan_ndjson", lambda *given, **named: calls.append(1) or parse(*given, **named))
    assert codec().decode_lines(sound_lines(2000), 0).rows.height == 2000
    assert len(calls) == 1
