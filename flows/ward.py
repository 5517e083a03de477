"""The ward: bedside vitals and notes in, NEWS2 and what a note adds to it out.

vitals -> decode+check -> shard -> 60 s windows -> last known values, 6 h medians -> NEWS2 -> gate(+ note) -> sinks
settings, notes ------------------------^ joined as of event time
"""

from functools import partial

from operators.columnar.news2 import PARTS
from operators.domain import Domain, Text
from operators.ward import CARRIED, MEDIANS, judge, ward_rule
from schemas.settings import Settings
from schemas.ward import ACTIONS, NOTES, SETTINGS, VITALS
from schemas.windows import Agg, WindowSpec


def flow(settings: Settings) -> Domain:
    """The ward under these settings."""
    stale_us = {part: int(getattr(settings, f"stale_{part}_s") * 1e6) for part in PARTS}
    return Domain(
        name="ward",
        revision="news2-2017/1",
        actions=ACTIONS,
        streams=(VITALS, NOTES, SETTINGS),
        window=WindowSpec("tumbling", length_us=int(settings.window_s * 1e6)),
        aggregates=(
            *(Agg(f"{field}.median", field, "median") for field in MEDIANS),
            *(Agg(f"{field}.last", field, "last") for field in CARRIED),
            *(Agg(f"{field}.last_us", field, "last_us") for field in CARRIED),
        ),
        carry=CARRIED,
        baselines={"hr": "hr.median", "sbp": "sbp.last"},
        baseline_us=int(settings.baseline_s * 1e6),
        rule=partial(ward_rule, stale_us=stale_us),
        judge=judge,
        text=Text("notes", "note", int(settings.note_valid_s * 1e6)),
        effects={"spo2_scale_2": {"spo2_scale": 2}},
        effects_stream="settings",
    )
