"""The codec: bytes and cells to rows and rejects."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from operators.columnar.checks import REJECTS
from operators.columnar.codec import Codec, Decoded
from schemas.ward import NOTES, SETTINGS, VITALS

TS_MS = 1_700_000_000_000
ROW = {"ts": TS_MS, "patient": "p-01", "hr": 90}


def codec(ts_unit: str = "ms", line_bytes_max: int = 4096) -> Codec:
    return Codec(VITALS, ts_unit=ts_unit, line_bytes_max=line_bytes_max)


def decode(*rows: dict[str, Any] | bytes, ts_unit: str = "ms", line_bytes_max: int = 4096) -> Decoded:
    lines = [row if isinstance(row, bytes) else orjson.dumps(row) for row in rows]
    decoded = codec(ts_unit, line_bytes_max).decode_lines(lines, 100)
    assert decoded.rows.height + decoded.rejects.height + decoded.checked == len(rows)
    return decoded


def reason(row: dict[str, Any] | bytes, **options: Any) -> tuple[str, str]:
    """Reason and detail of a row that must be rejected, alone and beside a good one."""
    alone, beside = decode(row, **options).rejects, decode(ROW, row, ROW, **options).rejects
    assert alone["reason"].to_list() == beside["reason"].to_list()
    assert beside["offset"].to_list() == [101]
    return alone.row(0)[1:3]


def test_a_row_gets_its_key_its_time_and_its_offset() -> None:
    row = {
        "ts": TS_MS,
        "patient": "p-01",
        "bed": "W3",
        "hr": 92,
        "temp": 37.4,
        "acvpu": "A",
        "oxygen": False,
        "seq": 17,
    }
    decoded = decode(row)
    assert decoded.rows.columns[:3] == ["key", "event_us", "offset"]
    assert decoded.rows.schema["hr"] == pl.Float64
    got = {name: value for name, value in decoded.rows.row(0, named=True).items() if value is not None}
    want = {**row, "key": "p-01", "event_us": TS_MS * 1000, "offset": 100}
    assert got == {name: value for name, value in want.items() if name not in ("ts", "patient")}
    assert decoded.rejects.schema == REJECTS


@pytest.mark.parametrize(
    ("change", "expected", "word"),
    [
        ({"hr": 0}, "out_of_range", "hr 0 /min is outside 10..300"),
        ({"temp": 99.5}, "out_of_range", "temp 99.5 Cel is outside 25..45"),
        ({"gcs": 2}, "out_of_range", "gcs 2 is outside 3..15"),
        ({"hr": "90"}, "wrong_type", 'hr "90" is not a number'),
        ({"hr": True}, "wrong_type", "hr true"),
        ({"hr": {"a": 1}}, "wrong_type", "hr"),
        ({"seq": 1.5}, "wrong_type", "seq 1.5 is not a whole number"),
        ({"seq": 2**63}, "wrong_type", "seq"),
        ({"seq": -1}, "out_of_range", "seq -1 is outside 0.."),
        ({"oxygen": 1}, "wrong_type", "oxygen 1 is not true or false"),
        ({"acvpu": "X"}, "wrong_type", "acvpu X is none of A C V P U"),
        ({"patient": None}, "missing_field", "patient is missing"),
        ({"patient": ""}, "missing_field", "patient"),
        ({"patient": ["p"]}, "wrong_type", "patient is not text"),
        ({"patient": True}, "wrong_type", "patient is not text"),
        ({"bed": {"id": 1}}, "wrong_type", "bed is not text"),
        ({"patient": "p" * 129}, "too_long", "patient has 129 characters"),
        ({"ts": None}, "missing_field", "ts is missing"),
        ({"ts": True}, "bad_time", "ts true"),
        ({"bed": "b" * 5000}, "too_long", "the limit is 4096"),
    ],
    ids=str,
)
def test_a_bad_field_costs_its_row_and_says_why(change: dict[str, Any], expected: str, word: str) -> None:
    why, detail = reason({**ROW, **change})
    assert why == expected
    assert word in detail


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "not_json"),
        (b"", "not_json"),
        (b"  ", "not_json"),
        (b"\xff", "not_json"),
        (b'{"ts":1700000000000,"patient":"p","hr":NaN}', "not_json"),
        (b'{"ts":1700000000000,"patient":"p"}{"ts":1700000000000,"patient":"p"}', "not_json"),
        (b'{"ts":1700000000000,"patient":"p"}\n{"ts":1700000000000,"patient":"p"}', "not_json"),
        (b"[" * 3000, "not_json"),
        (b"null", "wrong_type"),
        (b'[{"ts":1700000000000,"patient":"p"}]', "wrong_type"),
    ],
    ids=repr,
)
def test_a_line_that_is_no_object_costs_itself(line: bytes, expected: str) -> None:
    assert reason(line)[0] == expected
    assert decode(line).rejects["raw"].to_list() == [line]


def test_a_blank_line_and_two_objects_in_one_line_do_not_cancel_out() -> None:
    decoded = decode(ROW, b"", b'{"ts":1700000000000,"patient":"x"}\n{"ts":1700000000000,"patient":"y"}', ROW)
    assert decoded.rejects["offset"].to_list() == [101, 102]


def test_a_message_may_be_laid_out_over_several_lines() -> None:
    assert decode(b'{"ts":1700000000000,\n "patient":"p"}').rows["key"].to_list() == ["p"]


def test_an_identifier_may_be_a_number() -> None:
    assert decode({**ROW, "patient": 10004422}).rows["key"].to_list() == ["10004422"]


def test_text_that_looks_like_json_is_text() -> None:
    assert decode({**ROW, "patient": "[1]", "bed": "true"}).rows.height == 1


@pytest.mark.parametrize(
    ("ts", "unit", "us"),
    [
        (1_700_000_000, "s", 1_700_000_000_000_000),
        (1_700_000_000_123, "ms", 1_700_000_000_123_000),
        (1_700_000_000_123_456, "us", 1_700_000_000_123_456),
        (1_700_000_000_123_456_789, "ns", 1_700_000_000_123_456),
        ("1700000000123", "ms", 1_700_000_000_123_000),
        ("2023-11-14T22:13:20Z", "ms", 1_700_000_000_000_000),
        ("2023-11-14t22:13:20.123456789z", "ms", 1_700_000_000_123_456),
        ("2023-11-15T00:13:20+02:00", "ms", 1_700_000_000_000_000),
        (631_152_000_000, "ms", 631_152_000_000_000),
        (7_258_118_399_999, "ms", 7_258_118_399_999_000),
    ],
)
def test_a_time_is_text_with_a_zone_or_an_integer_in_the_unit(ts: object, unit: str, us: int) -> None:
    assert decode({**ROW, "ts": ts}, ts_unit=unit).rows["event_us"].to_list() == [us]


@pytest.mark.parametrize(
    ("ts", "unit"),
    [
        (1_700_000_000, "ms"),
        (1_700_000_000_000, "s"),
        (9_223_372_036_854_775_807, "s"),
        (-5, "ns"),
        (1_700_000_000.5, "s"),
        (631_151_999_999, "ms"),
        (7_258_118_400_000, "ms"),
        ("2023-11-14T22:13:20", "ms"),
        ("2023-11-14", "ms"),
        ("yesterday", "ms"),
        ("1989-12-31T23:59:59Z", "ms"),
        ("2200-01-01T00:00:00Z", "ms"),
        ([1], "ms"),
    ],
)
def test_a_time_out_of_range_or_without_zone_is_rejected_and_never_guessed(ts: object, unit: str) -> None:
    alone = decode({**ROW, "ts": ts}, ts_unit=unit).rejects
    assert alone["reason"].to_list() == ["bad_time"]
    assert f"an integer in {unit}" in alone["detail"][0]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda moment, hours: moment.replace(tzinfo=timezone(timedelta(hours=hours))),
            st.datetimes(datetime(1990, 1, 2), datetime(2199, 12, 30)),
            st.integers(-12, 14),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_rfc_3339_agrees_with_the_standard_library(moments: list[datetime]) -> None:
    rows = decode(*({**ROW, "ts": moment.isoformat()} for moment in moments), {**ROW, "ts": TS_MS}).rows
    want = [(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) for moment in moments]
    assert rows["event_us"].to_list() == [*want, TS_MS * 1000]


def test_a_long_row_fills_the_column_of_its_name() -> None:
    long = {"ts": TS_MS, "patient": "p-01"}
    rows = decode(
        {**long, "name": "hr", "value": 80, "unit": "bpm"},
        {**long, "name": "temp", "value": 98.6, "unit": "degF"},
        {**long, "name": "temp", "value": 36.6},
        {**long, "name": "acvpu", "value": "V"},
        {**long, "name": "oxygen", "value": True},
        ROW,
        {**long, "name": "rr", "value": 20, "unit": "insp/min", "seq": 5},
    ).rows
    assert rows["hr"].to_list() == [80, None, None, None, None, 90, None]
    assert rows["temp"].to_list() == [None, 37.0, 36.6, None, None, None, None]
    assert rows["acvpu"].to_list()[3] == "V"
    assert rows["oxygen"].to_list()[4] is True
    assert rows.row(6, named=True)["rr"] == 20
    assert rows["seq"].to_list()[6] == 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"name": "pulse", "value": 80}, "unknown_name"),
        ({"name": "bed", "value": "x"}, "unknown_name"),
        ({"name": "hr", "value": 80, "unit": "kPa"}, "unknown_unit"),
        ({"name": "hr", "value": 8, "unit": "/min"}, "out_of_range"),
        ({"name": "temp", "value": 37, "unit": "degF"}, "out_of_range"),
        ({"name": "hr", "value": "fast"}, "wrong_type"),
        ({"name": "hr", "value": "nan"}, "wrong_type"),
        ({"name": "oxygen", "value": "maybe"}, "wrong_type"),
        ({"name": "acvpu", "value": "X"}, "wrong_type"),
        ({"name": "hr", "value": None}, "missing_field"),
        ({"name": None, "value": 80}, "missing_field"),
        ({"pulse": 80}, "unknown_name"),
        ({"pulse": 80, "bed": "W3"}, "unknown_name"),
    ],
    ids=str,
)
def test_a_measure_that_cannot_be_placed_is_rejected_by_a_stated_rule(change: dict[str, Any], expected: str) -> None:
    assert reason({"ts": TS_MS, "patient": "p-01", **change})[0] == expected


def test_a_strange_field_beside_a_measure_or_none_at_all_does_no_harm() -> None:
    bare = {"ts": TS_MS, "patient": "p-01"}
    assert (
        decode({**ROW, "vendor": "x"}, bare, {**bare, "hr": None, "vendor": 1}, {**bare, "bed": "W3"}).rows.height == 4
    )


def test_streams_without_measures_have_no_long_rows() -> None:
    line = orjson.dumps({"ts": TS_MS, "patient": "p", "note": "afebrile", "name": "hr", "value": 1})
    assert Codec(NOTES, ts_unit="ms", line_bytes_max=4096).decode_lines([line], 0).rows["note"].to_list() == [
        "afebrile"
    ]
    line = orjson.dumps({"ts": TS_MS, "patient": "p", "spo2_scale": 3, "by": "Dr N"})
    assert (
        Codec(SETTINGS, ts_unit="ms", line_bytes_max=4096).decode_lines([line], 0).rejects["reason"][0]
        == "out_of_range"
    )


def some_lines(seed: int, rows: int, bad_every: int) -> list[bytes]:
    """Sound rows, wide and long, among every kind of bad one."""
    rng = random.Random(seed)
    poison = [
        b"{",
        b"",
        b"[]",
        b'{"ts":1700000000000,"patient":"p","hr":"x"}',
        b'{"ts":1700000000000,"patient":"p","hr":1}',
        b'{"ts":17,"patient":"p","hr":60}',
        b'{"ts":1700000000000,"hr":60}',
        b'{"ts":1700000000000,"patient":"p","pulse":60}',
        b'{"ts":1700000000000,"patient":["p"],"hr":60}',
        b'{"ts":1700000000000,"patient":"p","name":"x","value":60}',
        b'{"ts":1700000000000,"patient":"p","hr":60,"hr":"60"}',
        b'{"ts":1700000000000,"patient":"\\ud800","hr":60}',
        b'{"ts":1700000000000,\n"patient":"p","hr":60}',
        b'{"bed":"' + b"x" * 5000 + b'"}',
    ]
    lines = []
    for at in range(rows):
        row: dict[str, Any] = {"ts": TS_MS + at, "patient": f"p-{at % 7}"}
        long = {"name": "temp", "value": 98.6, "unit": "degF"}
        row |= long if rng.random() < 0.1 else {"hr": rng.randint(40, 140), "spo2": 95.5}
        lines.append(rng.choice(poison) if bad_every and rng.randrange(bad_every) == 0 else orjson.dumps(row))
    return lines


def joined(parts: Sequence[Decoded]) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.concat([part.rows for part in parts]), pl.concat([part.rejects for part in parts])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), bad_every=st.sampled_from([0, 3, 20, 200]), cut=st.sampled_from([1, 7, 100, 10_000]))
def test_a_row_fares_the_same_in_any_cut_of_the_batches(seed: int, bad_every: int, cut: int) -> None:
    lines = some_lines(seed, 40 if cut == 1 else 300, bad_every)
    whole = joined([codec().decode_lines(lines, 5)])
    parts = joined([codec().decode_lines(lines[at : at + cut], 5 + at) for at in range(0, len(lines), cut)])
    for one, other in zip(whole, parts, strict=True):
        assert_frame_equal(one, other)
    assert whole[1]["raw"].to_list() == [lines[offset - 5] for offset in whole[1]["offset"]]


def test_the_reason_of_a_row_does_not_depend_on_its_neighbours() -> None:
    twice = b'{"patient":"p","ts":1700000000000,"patient":true,"hr":1}'  # the first counts
    doubtful = b'{"patient":true,"ts":1700000000000,"hr":70}'
    assert decode(twice).rejects["reason"].to_list() == ["out_of_range"]
    assert decode(twice, doubtful).rejects["reason"].to_list() == ["out_of_range", "wrong_type"]


def test_nothing_decodes_to_nothing() -> None:
    assert decode().rows.height == 0
    nothing = pl.DataFrame(schema={"ts": pl.String, "patient": pl.String})
    assert codec().decode_frame(nothing, 0, bytes).rejects.height == 0


def test_cells_of_text_are_converted_strictly_and_one_bad_cell_costs_its_row() -> None:
    frame = pl.DataFrame(
        {
            "ts": ["2023-11-14T22:13:20Z", "1700000000000", "1700000000000", "1700000000000", "", "1700000000000"],
            "patient": ["a", "b", "c", "d", "e", ""],
            "hr": ["90", "", "fast", "90", "90", "90"],
            "oxygen": ["true", "0", "1", "yes", "1", "1"],
            "seq": ["1", "2", "3", "4", "5", "6"],
        }
    )
    decoded = codec().decode_frame(frame, 10, [b"%d" % row for row in range(6)].__getitem__)
    assert decoded.rows.select("key", "offset", "hr", "oxygen", "seq").rows() == [
        ("a", 10, 90.0, True, 1),
        ("b", 11, None, False, 2),
    ]
    assert decoded.rejects["reason"].to_list() == ["wrong_type", "wrong_type", "missing_field", "missing_field"]
    assert decoded.rejects["detail"].to_list()[:2] == ["hr 'fast' is not a number", "oxygen 'yes' is not true or false"]
    assert decoded.rejects["raw"].to_list() == [b"2", b"3", b"4", b"5"]


def test_typed_cells_are_taken_where_they_lose_nothing() -> None:
    moment = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "ts": pl.Series([moment] * 4, dtype=pl.Datetime("ns", "UTC")),
            "patient": [7, 8, 9, 10],
            "hr": pl.Series([90, 91, 92, 93], dtype=pl.Int16),
            "rr": pl.Series([12.5, float("nan"), None, 14], dtype=pl.Float32),
            "seq": [1.0, 2.0, 3.5, 4.0],
            "oxygen": [True, None, False, True],
        }
    )
    decoded = codec().decode_frame(frame, 0, bytes)
    assert decoded.rows["event_us"].to_list() == [1_700_000_000_000_000] * 2
    assert decoded.rows["key"].to_list() == ["7", "10"]
    assert decoded.rejects.select("offset", "reason").rows() == [(1, "out_of_range"), (2, "wrong_type")]


def test_a_naive_datetime_is_no_time_until_a_mapping_names_its_zone() -> None:
    frame = pl.DataFrame({"ts": [datetime(2023, 11, 14)], "patient": ["p"], "hr": [60.0]})
    assert codec().decode_frame(frame, 0, bytes).rejects["reason"].to_list() == ["bad_time"]


def test_a_table_of_unknown_columns_is_rejected_by_name() -> None:
    frame = pl.DataFrame({"ts": [TS_MS], "patient": ["p"], "pulse": [60.0]})
    rejects = codec().decode_frame(frame, 0, bytes).rejects
    assert rejects["reason"].to_list() == ["unknown_name"]
    assert "pulse" in rejects["detail"][0]
