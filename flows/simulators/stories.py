"""What happens on a made-up ward: one story for each of the first beds, and the notes nurses write."""

from typing import NamedTuple


class Story(NamedTuple):
    """What happens to one patient. Times are shares of the run."""

    kind: str
    what: str
    begin: float = 0.0
    peak: float = 0.0  # where the driver has reached 1
    end: float = 1.0
    driver: str | None = None
    baseline: tuple[float, ...] | None = None  # in the order of MEASURES
    oxygen: bool = False
    note: str | None = None
    note_at: float = 0.0
    dull_note: bool = False  # an ordinary note early in the run, before anything happens


STORIES = (
    Story(
        "deterioration",
        "respiratory failure: rr and hr rise, spo2 falls, NEWS2 from 0-1 to 7 or more",
        begin=0.35, peak=0.725, driver="lung", baseline=(80, 16, 97.2, 126, 36.9), dull_note=True,
        note="Called to bed space. Looks tired, using accessory muscles. RR {rr}, sats {spo2} on air with good trace, "
        "pulse {hr}. Sat upright, outreach bleeped.",
        note_at=0.85,
    ),
    Story(
        "sepsis",
        "fever, hr and rr rise, NEWS2 5-6, and a note that says suspected sepsis: the gate raises to emergency",
        begin=0.15, peak=0.4, driver="infection", baseline=(80, 16, 97.8, 129, 36.9), dull_note=True,
        note="T {temp}, HR {hr}, RR {rr}, flushed and shivering. Suspected sepsis, likely urinary. Two sets of blood "
        "cultures and lactate sent, first dose IV antibiotics given. Reg aware.",
        note_at=0.6,
    ),
    Story(
        "copd",
        "COPD at 88-90 % on air with a documented 88-92 % target and no setting: scale 2 is proposed",
        baseline=(84, 18, 89.0, 134, 36.7),
        note="COPD. Seen by resp reg on the round: target sats 88-92% written on the chart. {spo2} on air, usual for "
        "him, talking in full sentences.",
        note_at=0.015,
    ),
    Story(
        "copd_scale2",
        "COPD at 89-91 % on oxygen; a settings row puts the patient on scale 2",
        baseline=(82, 18, 90.2, 130, 36.8), oxygen=True,
        note="Known CO2 retainer, pH 7.36 pCO2 7.4 this morning. 1L nasal specs, keep 88-92, scale 2 signed for by "
        "Dr Okafor.",
        note_at=0.02,
    ),
    Story(
        "athlete",
        "resting pulse 44-48, benign and documented: only the pulse scores",
        baseline=(45.8, 14, 98.0, 124, 36.7),
        note="Triathlete. Resting pulse always 44-48 per GP letter, ECG sinus brady, echo normal last year. "
        "Asymptomatic.",
        note_at=0.025,
    ),
    Story(
        "probe_off",
        "the saturation probe slips: implausible values, then none (null), then back on",
        begin=0.4, peak=0.425, end=0.58,
        note="Sats reading {spo2} but probe hanging off the finger, pink and chatting. Ignore that reading, new probe "
        "being fetched.",
        note_at=0.45,
    ),
    Story(
        "clock_ahead",
        "the monitor's clock is a day ahead: its rows are dated tomorrow",
        begin=0.3, end=0.4, dull_note=True,
    ),
    Story("quiet", "the stream stops for good", begin=0.55, dull_note=True),
    Story(
        "opioid",
        "respiration sinks to 9 under morphine, and a note names it: the gate raises to urgent",
        begin=0.3, peak=0.55, driver="opioid", baseline=(74, 15.5, 97.0, 124, 36.8),
        note="Morphine PCA for pancreatitis pain, 9 good demands in the last hour. Sedation score 0, comfortable. "
        "Resps counted at {rr}, pain team asked to review the bolus.",
        note_at=0.65,
    ),
)  # fmt: skip
ORDINARY = Story("ordinary", "a stable patient with ordinary notes")
NO_FAULTS = ("probe_off", "clock_ahead", "quiet")  # no late, repeated or broken rows: they stay exactly as told

DULL_NOTES = (
    "Ate half of lunch, two cups of tea. Sat out in chair since ten.",
    "Walked to the bathroom with frame and one. Steady, no complaints.",
    "Daughter phoned, will visit after work with clean pyjamas.",
    "Dressing to left shin changed, clean and dry. Next due Thursday.",
    "Slept well. Bowels opened. Mouth care done, glasses cleaned.",
    "Physio seen, stairs to be tried tomorrow. Stick at bedside.",
    "Waiting for transport home, TTOs checked with patient. Sandwich given.",
    "Cannula left forearm flushed, VIP 0. Water jug filled.",
    "Weight 71.4 kg, unchanged. Fluid chart up to date.",
    "Asked for the radio, found in the day room. In good spirits.",
    "Social worker in re package of care, forms left with son.",
    "Skin intact, heels clear. Turned himself overnight.",
)
