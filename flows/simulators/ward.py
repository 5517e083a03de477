"""A made-up ward: writes a replay folder and states everything it planted in it.

Patients follow the model of `flows/simulators/physiology.py` (baseline, drivers, couplings, Ornstein-Uhlenbeck
variability), which also states its limits: this tests a pipeline and is not a clinical model. Pulse, respiration and
saturation come at 1 Hz; pressure from a cuff every 5-15 min; temperature, consciousness and air-or-oxygen with each
spot observation, every 10 min; all of them in the first second. Runs shorter than 40 min shorten these intervals in
proportion, and all stories (`flows/simulators/stories.py`) scale with the length of the run.

`vitals.jsonl` is in the order of arrival: each monitor has its own phase in the second and each row its own delay on
the way. The same arguments give the same bytes, on one machine and version of numpy.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from flows.simulators.physiology import DRIVERS, MEASURES, Readings, ramp, readings, resting
from flows.simulators.stories import DULL_NOTES, NO_FAULTS, ORDINARY, STORIES, Story
from schemas.errors import UsageError

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
DAY_MS = 86_400_000
MINUTES_MIN = 5.0  # shorter, and no row could be late by more than a window and the allowed lateness
ROWS_MAX = 2_000_000  # the whole run is built in memory

Row = dict[str, Any]


class Sent(NamedTuple):
    """One line on its way to the file."""

    arrival_ms: int
    bed: int
    second: int
    line: bytes
    fault: str | None
    readable: bool


@dataclass(frozen=True, slots=True)
class Planted:
    """One patient's story. `begins`, `ends` are true time, RFC 3339; `rows` counts that patient's readable vitals rows
    sent between them (begin included, end not), each once however often it was delivered."""

    bed: str
    patient: str
    kind: str
    what: str
    begins: str
    ends: str
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a simulated ward contains; `planted.json` holds the same fields.

    rows: lines of each file. lines: for each fault the line numbers (from 1) in `vitals.jsonl`; numbers: how many.
    Faults: `duplicate` (the repeat, not the first), `out_of_order` (3-8 s behind, within the default lateness), `late`
    (at least 130 s behind), `future`, and the rejection reasons of the malformed rows.
    """

    seed: int
    beds: int
    minutes: float
    start: str
    planted: tuple[Planted, ...]
    rows: dict[str, int]
    numbers: dict[str, int]
    lines: dict[str, tuple[int, ...]]


# Each breaks an ordinary row: reason -> row -> what arrives instead. One reason may come twice.
BROKEN: tuple[tuple[str, Callable[[Row], bytes]], ...] = (
    ("not_json", lambda row: orjson.dumps(row)[:-12]),
    ("wrong_type", lambda row: orjson.dumps({**row, "hr": "ninety"})),
    ("out_of_range", lambda row: orjson.dumps({**row, "hr": 0})),
    ("out_of_range", lambda row: orjson.dumps({**row, "temp": 99.0})),
    (
        "unknown_name",
        lambda row: orjson.dumps(
            {"ts": row["ts"], "patient": row["patient"], "name": "bed_tilt", "value": 30, "unit": "deg"}
        ),
    ),
    ("missing_field", lambda row: orjson.dumps({name: value for name, value in row.items() if name != "patient"})),
)
FAULTS = ("duplicate", "out_of_order", "late", "future", *dict.fromkeys(reason for reason, _ in BROKEN))


@dataclass(frozen=True, slots=True)
class Ward:
    """A run before anything is sent; arrays are (seconds, beds)."""

    stories: tuple[Story, ...]
    shown: Readings
    cuff: NDArray[np.bool_]  # a pressure is in this row
    spot: NDArray[np.bool_]  # temperature, consciousness and oxygen are in this row
    no_spo2: NDArray[np.bool_]

    @property
    def seconds(self) -> int:
        return len(self.cuff)

    def span_s(self, bed: int) -> tuple[int, int]:
        """Seconds [begin, end) of the bed's story."""
        story = self.stories[bed]
        return round(story.begin * self.seconds), round(story.end * self.seconds)


def simulate_ward(
    out: Path, *, seed: int = 1, beds: int = 12, minutes: float = 40.0, start: datetime | None = None
) -> Manifest:
    """Write `vitals.jsonl`, `notes.jsonl`, `settings.jsonl` and `planted.json` into the folder `out`; older ones there
    are replaced. Bed 1 has the first story, bed 2 the second; with fewer beds the last stories are left out, with more
    the others are ordinary. `start` (with a zone; the default is a fixed date) is cut to the millisecond.

    Errors: UsageError where an argument is out of bounds or the folder cannot be written.
    """
    start_ms = _checked_start_ms(seed, beds, minutes, START if start is None else start)
    physiology_rng, sending_rng, notes_rng = np.random.default_rng(seed).spawn(3)
    ward = _ward(physiology_rng, beds, int(minutes * 60))
    sent = sorted(_send(sending_rng, ward, start_ms), key=lambda one: one[:3])
    lines: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(sent, 1):
        if one.fault is not None:
            lines[one.fault].append(number)
    files = {
        "vitals.jsonl": [one.line for one in sent],
        "notes.jsonl": [orjson.dumps(row) for row in _notes(notes_rng, ward, start_ms)],
        "settings.jsonl": [
            orjson.dumps({"ts": _ts(start_ms), "patient": f"p-{bed:02d}", "spo2_scale": 2, "by": "Dr Okafor"})
            for bed, story in enumerate(ward.stories, 1)
            if story.kind == "copd_scale2"
        ],
    }
    manifest = Manifest(
        seed=seed,
        beds=beds,
        minutes=minutes,
        start=_ts(start_ms),
        planted=tuple(_planted(ward, sent, start_ms)),
        rows={name: len(rows) for name, rows in files.items()},
        numbers={fault: len(lines[fault]) for fault in FAULTS},
        lines={fault: tuple(lines[fault]) for fault in FAULTS},
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, rows in files.items():
            (out / name).write_bytes(b"".join(row + b"\n" for row in rows))
        (out / "planted.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise UsageError(f"the folder {out} cannot be written ({error.strerror}): choose another one") from error
    return manifest


def describe(manifest: Manifest) -> str:
    """What was planted, in plain English, for a person who is about to replay it."""
    head = (
        f"{manifest.beds} beds for {manifest.minutes:g} minutes from {manifest.start}, seed {manifest.seed}: "
        + ", ".join(f"{count} rows in {name}" for name, count in manifest.rows.items())
        + "."
    )
    stories = [
        f"  {one.bed} ({one.patient}), {one.kind}: {one.what}; {one.begins[11:19]} to {one.ends[11:19]}."
        for one in manifest.planted
    ]
    faults = [f"  {count} {fault.replace('_', ' ')}" for fault, count in manifest.numbers.items() if count]
    return "\n".join([head, "Planted:", *stories, "Faulty rows (line numbers are in planted.json):", *faults])


def vitals_frame(seed: int, beds: int, seconds: int, start_us: int) -> pl.DataFrame:
    """A steady ward for load: every measure in every row, no faults, in the order of time.

    Columns: ts (String, RFC 3339), patient, bed, hr, rr, spo2, sbp (Int64), temp (Float64), seq (Int64); beds * seconds
    rows.
    """
    rng = np.random.default_rng(seed)
    shown = readings(rng, resting(rng, beds), np.zeros((seconds, beds, len(DRIVERS))))
    phase_ms = np.sort(rng.integers(0, 1000, beds))
    ms = start_us // 1000 + 1000 * np.arange(seconds)[:, None] + phase_ms
    names = np.arange(1, beds + 1)
    return pl.DataFrame(
        {
            "ts": pl.Series(ms.ravel()).cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ"),
            "patient": [f"p-{name:03d}" for name in names] * seconds,
            "bed": [f"W-{name:03d}" for name in names] * seconds,
            **{measure: getattr(shown, measure).ravel() for measure in MEASURES},
            "seq": np.repeat(np.arange(1, seconds + 1), beds),
        }
    )


def write_load(out: Path, *, seed: int, beds: int, seconds: int) -> int:
    """Write the frame of `vitals_frame` from the default start as a replay folder; returns the number of rows."""
    frame = vitals_frame(seed, beds, seconds, int(START.timestamp()) * 1_000_000)
    out.mkdir(parents=True, exist_ok=True)
    frame.write_ndjson(out / "vitals.jsonl")
    return frame.height


def _checked_start_ms(seed: int, beds: int, minutes: float, start: datetime) -> int:
    """Milliseconds since the epoch. Errors: UsageError naming the argument."""
    if seed < 0:
        raise UsageError(f"seed {seed} is negative: use 0 or more")
    if beds < 1:
        raise UsageError(f"{beds} beds make no ward: use 1 or more")
    if not minutes >= MINUTES_MIN:  # also where it is no number
        raise UsageError(f"{minutes:g} minutes are too short for the late rows: use {MINUTES_MIN:g} or more")
    if beds * minutes * 60 > ROWS_MAX:
        raise UsageError(f"{beds} beds for {minutes:g} minutes are more than {ROWS_MAX} rows: use fewer")
    if start.tzinfo is None:
        raise UsageError(f"start {start.isoformat()} has no zone: add one, for example +00:00")
    return int(start.timestamp()) * 1000 + start.microsecond // 1000


def _ts(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"


def _ward(rng: np.random.Generator, beds: int, seconds: int) -> Ward:
    """Physiology, what the sensors make of it, and when a nurse or a cuff measures."""
    stories = (STORIES + (ORDINARY,) * beds)[:beds]
    baseline = resting(rng, beds)
    drivers = np.zeros((seconds, beds, len(DRIVERS)))
    for bed, story in enumerate(stories):
        if story.baseline is not None:
            baseline[bed] = story.baseline
        if story.driver is not None:
            rising = ramp(seconds, round(story.begin * seconds), round(story.peak * seconds))
            drivers[:, bed, DRIVERS.index(story.driver)] = rising
    shown = readings(rng, baseline, drivers)

    pace = min(1.0, seconds / 2400)
    second = np.arange(seconds)
    cuff = np.zeros((seconds, beds), np.bool_)
    spot = np.zeros((seconds, beds), np.bool_)
    no_spo2 = np.zeros((seconds, beds), np.bool_)
    for bed, story in enumerate(stories):
        # The sick are measured often; a nurse takes her round bed by bed.
        cuff_s = round(pace * 60 * (5 if story.driver else rng.integers(5, 16)))
        cuff[::cuff_s, bed] = True
        spot[:, bed] = (second - round(pace * 15 * (bed % 12))) % round(pace * 600) == 0
        cuff[0, bed] = spot[0, bed] = True
        if story.kind == "probe_off":
            slip, off, back = (round(share * seconds) for share in (story.begin, story.peak, story.end))
            sliding = 32 + 60 * np.exp(-np.arange(off - slip) / (10 * pace)) + rng.uniform(0, 6, off - slip)
            shown.spo2[slip:off, bed] = np.minimum(sliding, shown.spo2[slip:off, bed]).astype(np.int64)
            no_spo2[off:back, bed] = True
    return Ward(stories, shown, cuff, spot, no_spo2)


def _row(ward: Ward, bed: int, second: int, ts_ms: int) -> Row:
    """One wide row as the monitor sends it; what was not measured is absent, a sensor that is off is null."""
    shown, at = ward.shown, (second, bed)
    spo2 = None if ward.no_spo2[at] else int(shown.spo2[at])
    row: Row = {"ts": _ts(ts_ms), "patient": f"p-{bed + 1:02d}", "bed": f"W3-{bed + 1:02d}"}
    row |= {"hr": int(shown.hr[at]), "rr": int(shown.rr[at]), "spo2": spo2}
    if ward.cuff[at]:
        row |= {"sbp": int(shown.sbp[at]), "dbp": int(shown.dbp[at])}
    if ward.spot[at]:
        row |= {"temp": float(shown.temp[at]), "acvpu": "A", "oxygen": ward.stories[bed].oxygen}
    row["seq"] = second + 1
    return row


def _late_s_max(ward: Ward) -> int:
    return min(360, ward.seconds // 2)


def _faults(rng: np.random.Generator, ward: Ward) -> dict[tuple[int, int], str | int]:
    """(second, bed) -> `duplicate`, `out_of_order`, `late`, or an index into `BROKEN`; a row has at most one."""
    plain = ~ward.cuff & ~ward.spot & np.array([story.kind not in NO_FAULTS for story in ward.stories])
    plain[:30] = plain[-40:] = False
    places = [(int(second), int(bed)) for second, bed in rng.permutation(np.argwhere(plain))]
    rows = plain.size
    last = ward.seconds - _late_s_max(ward) - 5  # a later row would arrive after the end
    late = [place for place in places if place[0] < last][: max(2, rows // 2000)]
    wanted: list[str | int] = [*["duplicate"] * max(3, rows // 500), *["out_of_order"] * max(5, rows // 200)]
    wanted += list(range(len(BROKEN))) * max(1, rows // 10_000)
    taken = set(late)
    rest = [place for place in places if place not in taken]
    assert len(rest) >= len(wanted)
    return {**dict.fromkeys(late, "late"), **dict(zip(rest, wanted, strict=False))}


def _send(rng: np.random.Generator, ward: Ward, start_ms: int) -> Iterator[Sent]:
    """Every line, bed by bed, with the time at which it arrives."""
    faults = _faults(rng, ward)
    phase_ms = rng.integers(0, 1000, len(ward.stories))
    way_ms = np.clip(rng.lognormal(np.log(80.0), 0.6, ward.cuff.shape), 5, 900).astype(np.int64)
    for bed, story in enumerate(ward.stories):
        begin, end = ward.span_s(bed)
        for second in range(begin if story.kind == "quiet" else ward.seconds):
            true_ms = start_ms + 1000 * second + int(phase_ms[bed])
            arrival_ms = true_ms + int(way_ms[second, bed])
            fault = faults.get((second, bed))
            if story.kind == "clock_ahead" and begin <= second < end:
                line = orjson.dumps(_row(ward, bed, second, true_ms + DAY_MS))
                yield Sent(arrival_ms, bed, second, line, "future", True)
                continue
            row = _row(ward, bed, second, true_ms)
            if isinstance(fault, int):
                reason, broken = BROKEN[fault]
                yield Sent(arrival_ms, bed, second, broken(row), reason, False)
                continue
            if fault == "late":
                arrival_ms += int(rng.integers(130, _late_s_max(ward) + 1)) * 1000
            elif fault == "out_of_order":
                arrival_ms += int(rng.integers(3000, 8001))
            line = orjson.dumps(row)
            yield Sent(arrival_ms, bed, second, line, None if fault == "duplicate" else fault, True)
            if fault == "duplicate":
                yield Sent(arrival_ms + int(rng.integers(2000, 30_001)), bed, second, line, fault, True)


def _notes(rng: np.random.Generator, ward: Ward, start_ms: int) -> list[Row]:
    """The stories' notes, which quote what the monitor shows, and ordinary ones; in the order of time."""
    dull = [DULL_NOTES[i] for i in rng.permutation(len(DULL_NOTES))]
    told: list[tuple[int, int, str]] = []  # (second, bed, text)
    written = 0
    for bed, story in enumerate(ward.stories):
        if story.note is not None:
            second = round(story.note_at * ward.seconds)
            told.append((second, bed, story.note.format(**_last_shown(ward, bed, second))))
        # A dull note comes before a story's own: the newest note of a patient may be the only one that is read.
        early, spread = ((0.03, 0.14),), ((0.05, 0.45), (0.5, 0.95))
        for low, high in spread if story is ORDINARY else early if story.dull_note else ():
            told.append((round(rng.uniform(low, high) * ward.seconds), bed, dull[written % len(dull)]))
            written += 1
    return [
        {"ts": _ts(start_ms + 1000 * second), "patient": f"p-{bed + 1:02d}", "note": text}
        for second, bed, text in sorted(told)
    ]


def _last_shown(ward: Ward, bed: int, second: int) -> Row:
    """The newest value of each measure at a second; temperature is as old as the spot observation."""
    spot = int(np.flatnonzero(ward.spot[: second + 1, bed])[-1])
    spo2 = int(np.flatnonzero(~ward.no_spo2[: second + 1, bed])[-1])
    shown = ward.shown
    return {
        "hr": int(shown.hr[second, bed]),
        "rr": int(shown.rr[second, bed]),
        "spo2": int(shown.spo2[spo2, bed]),
        "temp": float(shown.temp[spot, bed]),
    }


def _planted(ward: Ward, sent: list[Sent], start_ms: int) -> Iterator[Planted]:
    readable = np.zeros(ward.cuff.shape, np.int64)
    for one in sent:
        if one.readable:
            readable[one.second, one.bed] = 1
    for bed, story in enumerate(ward.stories):
        if story is ORDINARY:
            continue
        begin, end = ward.span_s(bed)
        yield Planted(
            bed=f"W3-{bed + 1:02d}",
            patient=f"p-{bed + 1:02d}",
            kind=story.kind,
            what=story.what,
            begins=_ts(start_ms + 1000 * begin),
            ends=_ts(start_ms + 1000 * end),
            rows=int(readable[begin:end, bed].sum()),
        )
