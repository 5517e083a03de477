"""Live over MQTT: rows are published while the program is killed, its broker restarts, or the link between is cut."""

import signal
import time
from collections.abc import Callable

from tests.chaos.site import Link
from tests.chaos.trial import LIMIT_S, POLL_S, Broke, Trial, decided

CHUNK = 20


def mqtt_live(trial: Trial) -> None:
    """Live over MQTT: the program is killed, the broker restarts or the link is cut, while rows are published."""
    link, lines = trial.link, [row.line for row in trial.input.rows]
    assert link is not None
    trial.start()
    subscribed = trial.folder / trial.recovery / "mqtt"
    _until(trial, lambda: any(subscribed.glob("*/subscribed.json")))
    pause_s, as_before_s = trial.stream_s * CHUNK / len(lines), 0.0
    due = [max(moment, 0.0) for moment in trial.moments]
    for at in range(0, len(lines), CHUNK):
        link.publish(lines[at : at + CHUNK])
        time.sleep(pause_s)
        if due and at >= due[0] * len(lines):
            _as_before(trial, link)
            as_before_s = time.monotonic() + _disturb(trial, link, due.pop(0))
        elif time.monotonic() > as_before_s:
            _as_before(trial, link)
    time.sleep(max(as_before_s - time.monotonic(), 0.0))
    _as_before(trial, link)
    _until(trial, lambda: decided(trial.db) >= len(trial.undisturbed.decisions))
    assert trial.process is not None
    trial.process.send_signal(signal.SIGTERM)
    ended = trial.ended()
    if ended.code:
        trial.complaints.append(f"SIGTERM ends it with {ended.code}: {ended.last_words}")


def _disturb(trial: Trial, link: Link, moment: float) -> float:
    """Gives for how many seconds things stay so."""
    how, for_s = trial.chance.choice(("kill", "broker", "torn", "silent")), trial.chance.uniform(0, 3)
    trial.note(f"{how} at {moment:.0%} for {for_s:.1f} s")
    if how == "kill":
        trial.kill()
    elif how == "broker":
        link.broker.stop()
        time.sleep(for_s)
        link.broker.start()
        return 0.0
    else:
        (link.proxy.cut if how == "torn" else link.proxy.stall)()
    return for_s


def _as_before(trial: Trial, link: Link) -> None:
    link.proxy.heal()
    if trial.process is None:
        trial.start()


def _until(trial: Trial, holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not holds():
        if trial.process is not None and trial.process.poll() is not None:
            raise Broke(f"it ended while rows came: {trial.ended().last_words}")
        if time.monotonic() > end_s:
            raise Broke(f"stuck at {decided(trial.db)} of {len(trial.undisturbed.decisions)} decisions")
        time.sleep(POLL_S)
