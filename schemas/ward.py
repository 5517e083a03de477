"""The ward: bedside vitals, notes about a patient, and a clinician's settings."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.streams import Stream, measure

ACTIONS = ("none", "nurse", "review", "urgent", "emergency")

LABELS = (
    "hypercapnic_target",
    "on_oxygen",
    "rate_limiting_drug",
    "low_resting_rate",
    "pacemaker",
    "opioid",
    "infection_suspected",
    "immunosuppressed",
    "recent_surgery",
    "bleeding_risk",
    "new_confusion",
    "comfort_care",
    "pregnant",
    "artefact",
)

Patient = Annotated[str, Field(min_length=1, max_length=128)]


class Vital(BaseModel):
    """One reading of one patient; every measure may be absent. Ranges: what monitors show of living adults."""

    model_config = ConfigDict(strict=True)

    ts: int
    patient: Patient
    bed: str | None = Field(default=None, max_length=128)
    hr: float | None = measure("/min", 10, 300)
    rr: float | None = measure("/min", 0, 90)  # 0 is apnoea, and NEWS2 scores it
    spo2: float | None = measure("%", 30, 100)
    sbp: float | None = measure("mm[Hg]", 20, 320)
    dbp: float | None = measure("mm[Hg]", 10, 220)
    map: float | None = measure("mm[Hg]", 10, 260)
    temp: float | None = measure("Cel", 25, 45)
    acvpu: Literal["A", "C", "V", "P", "U"] | None = None
    oxygen: bool | None = None
    o2_flow: float | None = measure("L/min", 0, 100)
    fio2: float | None = measure("%", 15, 100)
    gcs: float | None = measure("{score}", 3, 15)
    gcs_eye: float | None = measure("{score}", 1, 4)
    gcs_verbal: float | None = measure("{score}", 1, 5)
    gcs_motor: float | None = measure("{score}", 1, 6)
    seq: int | None = Field(default=None, ge=0)


class Note(BaseModel):
    """Free text about one patient."""

    model_config = ConfigDict(strict=True)

    ts: int
    patient: Patient
    note: str = Field(min_length=1)


class Setting(BaseModel):
    """A clinician's explicit choice of SpO2 scale for one patient; never inferred."""

    model_config = ConfigDict(strict=True)

    ts: int
    patient: Patient
    spo2_scale: Literal[1, 2]
    by: str = Field(min_length=1, max_length=128)


VITALS = Stream("vitals", Vital, key="patient", role="events", seq="seq")
NOTES = Stream("notes", Note, key="patient", role="context")
SETTINGS = Stream("settings", Setting, key="patient", role="context")
