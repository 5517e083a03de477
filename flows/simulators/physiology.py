"""Bedside numerics of made-up patients, one reading a second.

The model, for each patient (all arrays are (seconds, patients)):

- three drivers between 0 and 1 push the patient away from a baseline: `lung` (loss of gas exchange), `infection`,
  `opioid`. Each has a direct effect on each measure (`DIRECT`), scaled by the driver;
- couplings act on the whole deviation, noise included: a saturation below the patient's own baseline raises pulse and
  respiration (an opioid takes the latter away), fever raises both, a falling systolic pressure raises the pulse;
- variability is an Ornstein-Uhlenbeck process for each measure, sampled exactly at 1 Hz, with a shared arousal part, so
  that pulse and respiration wander together; the pulse also swings with each breath (respiratory sinus arrhythmia),
  less so when it is fast;
- a monitor shows whole numbers, and temperature to 0.1.

Limits: the gains are chosen so that the planted courses cross the right NEWS2 bands. They are of the right sign and
size but fitted to no patient. There are no arrhythmias, drugs, meals, sleep, movement or circadian rhythm; above 30
breaths a minute the swing with the breath is aliased by the sampling. It tests a pipeline and is not a clinical model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MEASURES = ("hr", "rr", "spo2", "sbp", "temp")
DRIVERS = ("lung", "infection", "opioid")

# Effect of each driver at 1 on each measure: (drivers, measures), in /min, /min, %, mm[Hg], Cel.
DIRECT = np.array(
    [
        [26.0, 7.5, -8.5, -8.0, 0.0],
        [17.0, 2.6, -0.3, -16.0, 1.9],
        [-6.0, -6.1, -2.0, -6.0, 0.0],
    ]
)
NOISE_SD = np.array([1.3, 0.55, 0.4, 3.0, 0.04])
NOISE_TAU_S = np.array([25.0, 30.0, 45.0, 240.0, 1200.0])
AROUSAL = np.array([0.6, 0.6, -0.3, 0.2, 0.0])  # share of the common innovation; the rest is the measure's own

HYPOXIA_TO_HR, HYPOXIA_TO_RR = 1.2, 0.6  # /min for each % below the patient's own saturation
FEVER_TO_HR, FEVER_TO_RR = 10.0, 2.0  # /min for each Cel
BAROREFLEX = 0.2  # /min for each mm[Hg] lost, at a resting pulse of 70
BREATH_SWING = 1.2  # /min, at a pulse of 60
DIASTOLIC_SHARE = 0.55  # of a change in systolic pressure


@dataclass(frozen=True, slots=True)
class Readings:
    """What the monitors show; each array is (seconds, patients)."""

    hr: Ints
    rr: Ints
    spo2: Ints
    sbp: Ints
    dbp: Ints
    temp: Floats


def resting(rng: np.random.Generator, patients: int) -> Floats:
    """Baselines of adults who score 0 in NEWS2: (patients, measures), in the order of `MEASURES`."""
    low = np.array([64.0, 14.0, 97.0, 118.0, 36.5])
    high = np.array([82.0, 17.0, 98.4, 138.0, 37.1])
    return rng.uniform(low, high, (patients, len(MEASURES)))


def ramp(seconds: int, begin_s: int, end_s: int) -> Floats:
    """A driver that rises smoothly from 0 at `begin_s` to 1 at `end_s` and stays there: (seconds,)."""
    share = np.clip((np.arange(seconds) - begin_s) / max(end_s - begin_s, 1), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def wander(rng: np.random.Generator, seconds: int, patients: int) -> Floats:
    """Stationary Ornstein-Uhlenbeck noise of unit variance: (seconds, patients, measures)."""
    own = rng.standard_normal((seconds, patients, len(MEASURES)))
    shared = rng.standard_normal((seconds, patients, 1))
    noise = np.sqrt(1.0 - AROUSAL**2) * own + AROUSAL * shared
    kept = np.exp(-1.0 / NOISE_TAU_S)
    added = np.sqrt(1.0 - kept**2)
    for t in range(1, seconds):
        noise[t] = kept * noise[t - 1] + added * noise[t]
    return noise


def readings(rng: np.random.Generator, baseline: Floats, drivers: Floats) -> Readings:
    """Run the model. `baseline` is (patients, measures), `drivers` is (seconds, patients, drivers) in 0..1."""
    seconds, patients, _ = drivers.shape
    assert baseline.shape == (patients, len(MEASURES))
    # Written out, not a matrix product, so that no linear algebra library can change the last bit.
    pushed = sum(drivers[:, :, d, None] * DIRECT[d] for d in range(len(DRIVERS)))
    hr0, rr0, spo2_0, sbp0, temp0 = baseline.T
    noise = wander(rng, seconds, patients) * NOISE_SD
    pushed_hr, pushed_rr, pushed_spo2, pushed_sbp, pushed_temp = np.moveaxis(pushed, 2, 0)
    noise_hr, noise_rr, noise_spo2, noise_sbp, noise_temp = np.moveaxis(noise, 2, 0)

    spo2_change = pushed_spo2 + noise_spo2
    sbp_change = pushed_sbp + noise_sbp
    hypoxia = np.maximum(-spo2_change, 0.0)
    breathing = rr0 + pushed_rr + FEVER_TO_RR * pushed_temp + HYPOXIA_TO_RR * hypoxia * (1.0 - drivers[:, :, 2])
    rr = breathing + noise_rr * np.minimum(breathing / 16.0, 1.0)  # slow breathing is steadier breathing
    hr = hr0 + pushed_hr + FEVER_TO_HR * pushed_temp + HYPOXIA_TO_HR * hypoxia
    hr += (noise_hr - BAROREFLEX * sbp_change) * hr0 / 70.0
    breath = 2.0 * np.pi * (np.cumsum(rr, axis=0) / 60.0 + rng.uniform(0.0, 1.0, patients))
    hr += BREATH_SWING * 60.0 / np.maximum(hr, 30.0) * np.sin(breath)

    dbp = 0.6 * sbp0 + DIASTOLIC_SHARE * sbp_change
    return Readings(
        hr=_whole(hr, 20, 250),
        rr=_whole(rr, 4, 60),
        spo2=_whole(spo2_0 + spo2_change, 50, 100),
        sbp=_whole(sbp0 + sbp_change, 50, 240),
        dbp=_whole(dbp, 25, 140),
        temp=np.round(np.clip(temp0 + pushed_temp + noise_temp, 33.0, 42.0), 1),
    )


def _whole(values: Floats, low: int, high: int) -> Ints:
    return np.rint(np.clip(values, low, high)).astype(np.int64)
