"""Chaos: what the program promises, tried under faults that a seed draws.

    python -m tests.chaos.harness --seeds 20 [--first 100] [--only kill]

A seed draws an input, a fault and its moments. The flow runs once undisturbed over what is in the topics, then again
while the fault is done to it; both must come to the same decisions, dead letters and published decisions.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.brokers import mosquitto
from tests.brokers.kafka import missing
from tests.chaos.checks import Sinks, check
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.published import SlowServer
from tests.chaos.site import LAST, Input, Link, Site, Topics, redelivered, replay_folder, simulated, site
from tests.chaos.trial import Answer, Broke, Skipped, Trial

DECISIONS = "decisions"
OUTLETS = ((), ("kafka",), ("exactly",), ("parquet",), ("kafka", "parquet"))


@dataclass(frozen=True)
class Plan:
    """What a seed draws. moments: shares of the decisions; below 0, seconds into the program's start.

    sent_in_one: rows in one batch of the broker's. stream_s: how long the stream takes where nothing happens.
    """

    seed: int
    fault: Fault
    beds: int
    partitions: int
    sent_in_one: int
    stream_s: float
    processes: int
    outlets: tuple[str, ...]
    moments: tuple[float, ...]
    epoch_s: float
    batch_rows: int

    @classmethod
    def of(cls, seed: int) -> "Plan":
        """The same seed draws the same plan."""
        chance = random.Random(seed)
        (fault,) = chance.choices(FAULTS, [fault.weight for fault in FAULTS])
        moments = sorted(chance.uniform(-0.15, 0.95) for _ in range(chance.randint(1, 3)))
        several = fault.processes == 3
        return cls(
            seed=seed,
            fault=fault,
            beds=chance.randint(3, 8),
            partitions=chance.randint(1, 3),
            sent_in_one=chance.choice((10, 40, 100)),
            stream_s=chance.uniform(1.5, 4),
            processes=chance.randint(2, 3) if several else chance.choice((1, fault.processes)),
            outlets=chance.choice(OUTLETS),
            moments=tuple(moment if moment >= 0 else moment * 10 for moment in moments),
            epoch_s=chance.choice((0.05, 0.2, 1)),
            batch_rows=chance.choice((20, 60, 300)),
        )

    def __str__(self) -> str:
        sinks = f", {'+'.join(self.outlets)}" if self.outlets else ""
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{self.beds} beds, {self.partitions} partitions{processes}{sinks}"


@dataclass
class Outcome:
    """How a seed went. complaints: none where all held."""

    plan: Plan
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def word(self) -> str:
        """In one word."""
        return "skipped" if self.skipped else "FAILED" if self.complaints else "ok"

    def __str__(self) -> str:
        did, plan = "; ".join([*self.notes, *filter(None, [self.skipped])]), self.plan
        lines = [f"{plan.seed:5} {plan.fault.name:16} {self.word:7} {self.seconds:5.1f} s  {plan}: {did}"]
        return "\n".join([*lines, *(f"      {complaint}" for complaint in self.complaints)])


def run_seed(seed: int, place: Site) -> Outcome:
    """Run one seed; nothing of it is left behind."""
    plan = Plan.of(seed)
    outcome, began_s = Outcome(plan), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        with ExitStack() as held_open:
            _run(plan, folder, place, outcome, held_open)
    except Skipped as why:
        outcome.skipped = str(why)
    except Exception as error:
        outcome.complaints.append(str(error) if isinstance(error, Broke) else f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = time.monotonic() - began_s
    return outcome


def _run(plan: Plan, folder: Path, place: Site, outcome: Outcome, held_open: ExitStack) -> None:
    cluster = place.cluster(plan.fault.nodes)
    rows = simulated(folder / "ward", plan.seed, plan.beds, plan.partitions)
    before = Topics(cluster, f"chaos.{plan.seed}.{folder.name[6:]}", plan.partitions, plan.sent_in_one)
    held_open.callback(before.delete)
    before.create([DECISIONS])
    topics, chance = before, random.Random(f"{plan.seed} faults")
    if plan.fault.redelivers:
        rows.rows = rows.clean
    if plan.fault.mqtt:
        rows = replay_folder(folder / "replay", rows)
        undisturbed = _undisturbed(plan, folder / "undisturbed", before, rows, str(folder / "replay"))
        undisturbed.decisions = [record for record in undisturbed.decisions if record["key"] != LAST["patient"]]
    else:
        before.send(rows.rows)
        undisturbed = _undisturbed(plan, folder / "undisturbed", before, rows, before.source(cluster.bootstrap))
    if plan.fault.redelivers:
        rows = Input(redelivered(rows.rows, chance))
        topics = Topics(cluster, f"{before.prefix}.again", plan.partitions, plan.sent_in_one)
        held_open.callback(topics.delete)
        topics.create([DECISIONS])
        topics.send(rows.rows)
    trial = Trial(folder, cluster, topics, rows, plan.moments, plan.processes, chance, folder / "t.db")
    trial.undisturbed, trial.notes, trial.complaints = undisturbed, outcome.notes, outcome.complaints
    trial.stream_s = plan.stream_s
    if plan.fault.mqtt:
        trial.link = held_open.enter_context(closing(Link(folder / "mosquitto")))
    server = SlowServer(plan.seed) if plan.fault.webhook else None
    if server is not None:
        held_open.enter_context(closing(server))
    trial.args = _arguments(plan, trial, server)
    try:
        cluster.pace(rows.bytes / plan.stream_s / plan.fault.nodes)
        plan.fault.make(trial)
    finally:
        left = trial.close()
        cluster.heal()
    if left:
        outcome.complaints.append(f"processes {left} had to be killed at the end")
    topic = topics.names[DECISIONS] if {"kafka", "exactly"} & set(plan.outlets) else None
    check(trial, plan.fault, Sinks(plan.outlets, topic, server))


def _undisturbed(plan: Plan, folder: Path, topics: Topics, rows: Input, source: str) -> Answer:
    folder.mkdir()
    trial = Trial(folder, topics.cluster, topics, rows, (), 1, random.Random(), folder / "t.db")
    trial.args = [*_common(plan, folder), "--until-end", "--source", source, "--sink", str(trial.db)]
    try:
        trial.start()
        ended = trial.ended()
    finally:
        trial.close()
    if ended.code:
        raise Broke(f"undisturbed, it ends with {ended.code}: {ended.last_words}")
    answer = Answer.of(trial.db, trial.summary)
    assert answer.rows is not None
    if answer.rows["in"] != len(rows.rows):
        raise Broke(f"undisturbed, it counts {dict(answer.rows)} of {len(rows.rows)} rows")
    return answer


def _common(plan: Plan, folder: Path) -> list[str]:
    key, config = folder / "key", folder / "chaos.toml"
    key.write_text("a key for the webhook, long enough")
    config.write_text(
        f"""window_s = 10
batch_rows_max = {plan.batch_rows}
epoch_s = {plan.epoch_s}
shards = 3
kafka_queue_kb = 64
kafka_watch_s = 0.3
kafka_start_s = 60
idle_timeout_s = 100000
mqtt_spool_keep_s = 0
outlet_batch_rows = 50
outlet_retry_s = 0.1
outlet_retry_max_s = 1
outlet_file_s = 0.5
outlet_drain_s = 90
outlet_webhook_key_file = "{key}"
[kafka]
"fetch.message.max.bytes" = "8192"
"queued.min.messages" = "100"
"""
    )
    return ["run", "ward", "--model", "none", "--config", str(config)]


def _arguments(plan: Plan, trial: Trial, server: SlowServer | None) -> list[str]:
    topics, proxied = trial.topics, trial.cluster.proxied
    to_kafka = f"kafka://{proxied}?decisions={topics.names[DECISIONS]}"
    known = {
        "kafka": to_kafka,
        "exactly": f"{to_kafka}&transactional=true",
        "parquet": f"parquet:{trial.folder / 'files'}",
    }
    sinks = [str(trial.db), *(known[outlet] for outlet in plan.outlets), *([server.address] if server else [])]
    found = [*_common(plan, trial.folder), "--source"]
    found += [trial.link.source] if trial.link is not None else [topics.source(proxied), "--until-end"]
    return found + [word for sink in sinks for word in ("--sink", sink)]


def table(outcomes: Sequence[Outcome]) -> str:
    """Outcomes by fault."""
    lines = [f"{'fault':16} {'seeds':>5} {'ok':>4} {'failed':>6} {'skipped':>7} {'s each':>6}  what it does"]
    for fault in FAULTS:
        of = [outcome for outcome in outcomes if outcome.plan.fault is fault]
        if of:
            words = [outcome.word for outcome in of]
            tried = [words.count(word) for word in ("ok", "FAILED", "skipped")]
            each_s = sum(outcome.seconds for outcome in of) / len(of)
            told = (fault.make.__doc__ or "").strip()
            lines.append(f"{fault.name:16} {len(of):5} {tried[0]:4} {tried[1]:6} {tried[2]:7} {each_s:6.1f}  {told}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds, a line each, and sum up; gives the exit code."""
    parser = argparse.ArgumentParser(description="Faults drawn by seeds, against real brokers.")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first")
    parser.add_argument("--only", choices=[fault.name for fault in FAULTS], help="only seeds that draw this fault")
    asked = parser.parse_args(arguments)
    lacking = missing() or mosquitto.missing()
    if lacking:
        sys.stderr.write(f"{lacking}\n")
        return 2
    ending = False

    def end(*_: object) -> None:  # so that brokers end with us
        nonlocal ending
        ending = True  # what is raised may be lost in a callback of a library's
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    outcomes: list[Outcome] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-site-") as name, site(Path(name)) as place:
        seed = asked.first
        while len(outcomes) < asked.seeds and not ending:
            if asked.only is None or Plan.of(seed).fault.name == asked.only:
                outcomes.append(run_seed(seed, place))
                sys.stdout.write(f"{outcomes[-1]}\n")
                sys.stdout.flush()
            seed += 1
    failed = [outcome.plan.seed for outcome in outcomes if outcome.complaints]
    told = f"failed: {', '.join(map(str, failed))}" if failed else "all held"
    sys.stdout.write(f"\n{table(outcomes)}\n{len(outcomes)} seeds in {time.monotonic() - began_s:.0f} s, {told}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
