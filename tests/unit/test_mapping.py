"""Mapping files: what they say, what is refused, and what the two shipped ones make of the archives they are for."""

import gzip
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import orjson
import polars as pl
import pytest

from operators.columnar.codec import Codec, Decoded
from operators.columnar.mapping import Mapping
from schemas.errors import UsageError
from schemas.fields import fields_of
from schemas.ward import VITALS, Vital

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "flows" / "mappings"
HOSPITAL = ROOT.parent / "shared" / "data" / "hospital"

MINIMAL = '[streams.vitals]\nfile = "x.csv"\n'


def shipped(name: str) -> Codec:
    return Codec(VITALS, ts_unit="ms", line_bytes_max=4096, mapping=Mapping.load(name, SHIPPED))


def own(tmp_path: Path, text: str) -> Mapping:
    path = tmp_path / "own.toml"
    path.write_text(MINIMAL + text, "utf-8")
    return Mapping.load(str(path), SHIPPED)


def mimic(*rows: tuple[str, str, str]) -> Decoded:
    """rows: name, value, unit."""
    columns = ["subject_id", "time", "name", "value", "unit"]
    cells = [("10004422", "2111-01-17 14:00:00", *row) for row in rows]
    return shipped("mimic-iv").decode_frame(pl.DataFrame(cells, schema=columns, orient="row"), 0, bytes)


def physionet(*rows: tuple[str, str, str]) -> Decoded:
    """rows: Time, Parameter, Value."""
    cells = [("152871", *row) for row in rows]
    frame = pl.DataFrame(cells, schema=["RecordID", "Time", "Parameter", "Value"], orient="row")
    return shipped("physionet2012").decode_frame(frame, 0, bytes)


def test_names_units_and_times_of_an_archive_become_ours() -> None:
    rows = mimic(
        ("abp_sys", "105.0", "mmHg"), ("temp_f", "98.4", "degF"), ("rr", "12.0", "insp/min"), ("temp_c", "36", "degC")
    ).rows
    assert rows["key"].to_list() == ["10004422"] * 4
    assert rows["event_us"].unique().to_list() == [datetime(2111, 1, 17, 14, tzinfo=UTC).timestamp() * 1e6]
    assert rows["sbp"].to_list() == [105, None, None, None]
    assert rows["temp"].to_list() == [None, 36.89, None, 36]
    assert rows["rr"].to_list() == [None, None, 12, None]


def test_elapsed_time_and_fractions_of_an_archive_become_ours() -> None:
    decoded = physionet(
        ("00:28", "FiO2", "0.29"), ("47:49", "HR", "72"), ("5:61", "HR", "72"), ("2001-01-01", "HR", "72")
    )
    assert decoded.rows["fio2"].to_list() == [29.0, None]
    assert decoded.rows["event_us"].to_list() == [946_686_480_000_000, 946_856_940_000_000]
    assert decoded.rejects["reason"].to_list() == ["bad_time", "bad_time"]
    assert "elapsed HH:MM" in decoded.rejects["detail"][0]


def test_a_checked_name_makes_no_measure_and_is_counted_while_it_is_plausible() -> None:
    decoded = mimic(
        ("alarm_hr_high", "120", "bpm"), ("alarm_hr_high", "5050", "bpm"), ("alarm_abp_high", "110160", "mmHg")
    )
    assert (decoded.rows.height, decoded.checked) == (0, 1)
    assert decoded.rejects.select("reason", "detail").rows() == [
        ("out_of_range", "alarm_hr_high 5050 is outside 10..300"),
        ("out_of_range", "alarm_abp_high 110160 is outside 20..320"),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("abp_mean", "-23.0", "mmHg"), "out_of_range"),
        (("abp_mean", "801.0", "mmHg"), "out_of_range"),
        (("temp_c", "99", "degC"), "out_of_range"),
        (("hr", "0", "bpm"), "out_of_range"),
        (("heart", "80", "bpm"), "unknown_name"),
        (("sbp", "80", "mmHg"), "unknown_name"),
        (("hr", "80", "kPa"), "unknown_unit"),
        (("alarm_hr_high", "80", "kPa"), "unknown_unit"),
        (("alarm_hr_high", "high", "bpm"), "wrong_type"),
        (("hr", "", "bpm"), "missing_field"),
        (("", "80", "bpm"), "missing_field"),
    ],
    ids=str,
)
def test_what_an_archive_cannot_mean_is_rejected_with_its_reason(row: tuple[str, str, str], reason: str) -> None:
    assert mimic(row).rejects["reason"].to_list() == [reason]


def test_weight_of_minus_one_means_unknown_and_is_rejected() -> None:
    decoded = physionet(("00:00", "Weight", "-1.0"), ("00:00", "Weight", "79.2"), ("00:00", "SaO2", "97"))
    assert decoded.rejects["reason"].to_list() == ["out_of_range"]
    assert decoded.checked == 2


def archive(folder: str, file: str) -> pl.DataFrame:
    path = HOSPITAL / folder / file
    if not path.is_file():
        pytest.skip(f"{path} is not here: the archives are not part of the project")
    return pl.read_csv(gzip.decompress(path.read_bytes()), infer_schema=False)


def test_the_artefacts_of_mimic_iv_land_in_the_rejects() -> None:
    frame = archive("mimic-iv-demo-vitals", "vitals.csv.gz")
    decoded = shipped("mimic-iv").decode_frame(frame, 0, bytes)
    assert decoded.rows.height + decoded.rejects.height + decoded.checked == frame.height
    assert set(decoded.rejects["reason"]) == {"out_of_range"}
    rejected = {tuple(row) for row in frame[decoded.rejects["offset"].to_list()].select("name", "value").rows()}
    assert {("abp_mean", "-23.0"), ("abp_mean", "801.0"), ("temp_c", "99.0"), ("hr", "0.0")} <= rejected
    rejects_of = Counter(frame[decoded.rejects["offset"].to_list()]["name"])
    for name, field in (("hr", "hr"), ("rr", "rr"), ("spo2", "spo2"), ("abp_mean", "map"), ("nibp_sys", "sbp")):
        spec = fields_of(Vital)[field]
        assert spec.ge is not None
        assert spec.le is not None
        value = pl.col("value").cast(pl.Float64)
        outside = frame.filter((pl.col("name") == name) & ((value < spec.ge) | (value > spec.le)))
        assert rejects_of[name] == outside.height


def test_every_row_of_physionet_is_accounted_for() -> None:
    frame = archive("physionet2012", "records.csv.gz").head(60_000)
    decoded = shipped("physionet2012").decode_frame(frame, 0, bytes)
    assert decoded.rows.height + decoded.rejects.height + decoded.checked == frame.height
    assert set(decoded.rejects["reason"]) == {"out_of_range", "missing_field"}  # some rows of the archive have no name
    assert (
        decoded.rows["hr"].drop_nulls().len()
        == frame.filter((pl.col("Parameter") == "HR") & (pl.col("Value").cast(pl.Float64) >= 10)).height
    )


def test_a_mapping_of_ones_own_may_only_rename(tmp_path: Path) -> None:
    mapping = own(
        tmp_path,
        'columns = { ts = "when", key = "who" }\nclock = { format = "%d.%m.%Y %H:%M", zone = "Europe/Berlin" }\n',
    )
    frame = pl.DataFrame({"when": ["01.07.2024 12:00", "31.03.2024 02:30"], "who": ["p", "p"], "hr": ["80", "80"]})
    decoded = Codec(VITALS, ts_unit="ms", line_bytes_max=4096, mapping=mapping).decode_frame(frame, 0, bytes)
    assert decoded.rows.select("key", "event_us", "hr").rows() == [("p", 1_719_828_000_000_000, 80.0)]
    assert decoded.rejects["reason"].to_list() == ["bad_time"]  # an hour that the clock skipped
    assert mapping.streams["vitals"].time == "partition"


def test_a_mapping_reads_json_lines_too(tmp_path: Path) -> None:
    mapping = own(
        tmp_path,
        'columns = { key = "mrn", name = "code", value = "v", unit = "u" }\n'
        '[streams.vitals.names]\nHF = { field = "hr" }\n',
    )
    codec = Codec(VITALS, ts_unit="s", line_bytes_max=4096, mapping=mapping)
    row = {"ts": 1_700_000_000, "mrn": 7, "v": 81, "u": "bpm"}
    decoded = codec.decode_lines([orjson.dumps({**row, "code": "HF"}), orjson.dumps({**row, "code": "hr"})], 0)
    assert decoded.rows.select("key", "hr").rows() == [("7", 81.0)]
    assert decoded.rejects["reason"].to_list() == ["unknown_name"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("time = 'patient'\n", "time"),
        ("colums = { ts = 'x' }\n", "colums"),
        ("clock = { format = '%Y' }\n", "zone"),
        ("clock = { zone = 'Mars/Base' }\n", "Mars/Base"),
        ("clock = { format = 'elapsed HH:MM' }\n", "epoch"),
        ("clock = { since = 'once' }\n", "since"),
        ("[streams.vitals.names]\nx = { field = 'hr', scale = 0 }\n", "scale"),
        ("[streams.vitals.names]\nx = { field = 'hr' }\n[streams.vitals.checked]\nx = { ge = 0, le = 1 }\n", "both"),
        ("[[[", "not TOML"),
    ],
)
def test_a_mistake_in_a_mapping_is_named_with_its_file(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as raised:
        own(tmp_path, text)
    assert "own.toml" in str(raised.value)


def test_a_mapping_onto_a_field_that_is_no_measure_is_refused(tmp_path: Path) -> None:
    mapping = own(tmp_path, "[streams.vitals.names]\nx = { field = 'hrr' }\n")
    with pytest.raises(UsageError, match="hrr"):
        Codec(VITALS, ts_unit="ms", line_bytes_max=4096, mapping=mapping)
    mapping = own(tmp_path, "columns = { ts = 'hr' }\n")
    with pytest.raises(UsageError, match="columns"):
        Codec(VITALS, ts_unit="ms", line_bytes_max=4096, mapping=mapping)


def test_a_mapping_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(UsageError, match="mimic-iv, physionet2012"):
        Mapping.load("mimic", SHIPPED)
