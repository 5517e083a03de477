"""The faults: each is done to a trial in mid-stream. What must hold afterwards is in `harness`."""

import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import ElectionType, TopicPartition

from flows import store
from tests.chaos.mqtt import mqtt_live
from tests.chaos.site import counts
from tests.chaos.trial import Broke, Ended, Skipped, Trial

HOUR_S = 3600
SLOW_S = 10.0
REFUSED = (2, 3)
LONG_SHARE = 0.15


@dataclass(frozen=True)
class Fault:
    """A fault. weight: how often it is drawn. nodes: brokers it needs. processes: of the program, at most.

    one_life: the program must live through it, and so its counts are those of an undisturbed run.
    redelivers: the input is sent otherwise than in the undisturbed run. webhook: decisions also go to a slow server.
    mqtt: the input comes over MQTT, and the program is asked to end.
    """

    make: Callable[[Trial], None]
    weight: int = 2
    nodes: int = 1
    processes: int = 1
    one_life: bool = False
    redelivers: bool = False
    webhook: bool = False
    mqtt: bool = False

    @property
    def name(self) -> str:
        """As it is printed."""
        return self.make.__name__


def kill(trial: Trial) -> None:
    """kill -9 of the program."""
    for moment in trial.moments:
        if trial.until(moment):
            trial.note(_at(moment))
            trial.kill()
        elif trial.ended().code == 0:
            return
    trial.finish()


def kill_member(trial: Trial) -> None:
    """kill -9 of one of the program's processes, the first or another."""
    for moment in trial.moments:
        if not trial.until(moment):
            if trial.ended().code == 0:
                return
            continue
        others = trial.others()
        nth = trial.chance.randrange(len(others) + 1)
        trial.note(f"{_at(moment)} process {nth} of {len(others) + 1}")
        trial.kill(others[nth - 1] if nth else None)
    trial.finish()


def broker_stopped(trial: Trial) -> None:
    """The broker is stopped in good order, and started again."""
    _broker_away(trial, lambda broker: broker.stop())


def broker_killed(trial: Trial) -> None:
    """kill -9 of the broker, which is started again."""
    _broker_away(trial, lambda broker: broker.kill())


def _broker_away(trial: Trial, end: Callable[..., None]) -> None:
    broker = trial.cluster.brokers[0]
    for moment in trial.moments[:2]:
        if not trial.until(moment):
            break
        away_s = trial.chance.uniform(0, 4)
        trial.note(f"{_at(moment)} for {away_s:.1f} s")
        end(broker)
        time.sleep(away_s)
        broker.start()
        trial.cluster.wait()
    trial.finish()


def leader_moved(trial: Trial) -> None:
    """The broker that leads the vitals goes, another leads; it comes back and leads again."""
    topic, partitions = trial.topics.names["vitals"], trial.topics.partitions
    for moment in trial.moments[:2]:
        if not trial.until(moment):
            break
        leader = trial.cluster.leader(topic, trial.chance.randrange(partitions))
        hard = trial.chance.random() < 0.5
        trial.note(f"{_at(moment)} {'killed' if hard else 'stopped'} {leader.node}")
        (leader.kill if hard else leader.stop)()
        time.sleep(trial.chance.uniform(0.5, 2))
        leader.start()
        trial.cluster.wait()
        wanted = [TopicPartition(topic, number) for number in range(partitions)]
        admin = trial.cluster.admin  # held, for it ends with its last name
        admin.elect_leaders(ElectionType.PREFERRED, wanted).result(30)
    trial.finish()


def network_cut(trial: Trial) -> None:
    """No byte passes between the program and the brokers: connections torn and refused, or only silent."""
    for moment in trial.moments[:2]:
        if not trial.until(moment):
            break
        torn = trial.chance.random() < 0.5
        for_s = trial.chance.uniform(1, 60 if trial.chance.random() < LONG_SHARE else 10)
        trial.note(f"{_at(moment)} {'torn' if torn else 'silent'} for {for_s:.1f} s")
        for proxy in trial.cluster.proxies.values():
            (proxy.cut if torn else proxy.stall)()
        time.sleep(for_s)
        for proxy in trial.cluster.proxies.values():
            proxy.heal()
    trial.finish()


def redelivery(trial: Trial) -> None:
    """Rows come twice and in another order; and the program is killed once among them."""
    _perhaps_killed(trial, 0.5)


def slow_sink(trial: Trial) -> None:
    """A web server takes decisions slowly, refuses now and then, and hangs up without an answer."""
    _perhaps_killed(trial, 0.3)


def _perhaps_killed(trial: Trial, share: float) -> None:
    """Let it run to its end, and in this share of the cases kill it once before."""
    moment = trial.moments[0]
    if trial.chance.random() < share and trial.until(moment):
        trial.note(f"killed {_at(moment)}")
        trial.kill()
    trial.finish()


def disk_full(trial: Trial) -> None:
    """The disk that holds the store, and in half of the cases the recovery folder too, is full for a while."""
    with _small_disk(trial, trial.chance.randrange(48, 400)):
        if trial.chance.random() < 0.5:
            trial.recovery = "disk/recovery"
        trial.note("with the recovery folder" if "/" in trial.recovery else "the store alone")
        for _ in range(2):
            trial.start()
            ended = trial.ended()
            if ended.code == 0:
                trial.note("it was never full")
                break
            if ended.code != 3 or "full" not in ended.said:
                trial.complaints.append(f"a full disk is told as exit {ended.code}: {ended.last_words}")
        subprocess.run(["mount", "-o", "remount,size=64m", trial.db.parent], check=True)
        trial.finish()
        for path in (trial.db, *trial.db.parent.glob(f"{trial.db.name}-*")):
            shutil.copy(path, trial.folder)
    trial.db = trial.folder / trial.db.name


@contextmanager
def _small_disk(trial: Trial, size_kb: int) -> Iterator[None]:
    disk = trial.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise Skipped("a small disk cannot be mounted: mounting needs root")
    trial.note(f"{size_kb} KiB")
    before, trial.db = str(trial.db), disk / trial.db.name
    trial.args = [str(trial.db) if arg == before else arg for arg in trial.args]
    try:
        yield
    finally:
        trial.close()
        subprocess.run(["umount", disk], check=True)


def clock_stepped(trial: Trial) -> None:
    """This machine's clock jumps an hour ahead or back, as the program sees it; set back, it ends and is started."""
    clock = trial.folder / "clock"
    clock.write_bytes(bytes(8))
    trial.env |= {"LD_PRELOAD": str(_false_clock(trial.folder)), "CHAOS_CLOCK": str(clock)}
    trial.cluster.pace(trial.input.bytes / SLOW_S)  # most partitions wait for rows when it jumps
    offset_s = 0
    for moment in trial.moments:
        if not trial.until(moment):
            break
        was_s, offset_s = offset_s, trial.chance.choice([other for other in (-HOUR_S, 0, HOUR_S) if other != offset_s])
        trial.ends_asked += offset_s < was_s
        trial.note(f"{_at(moment)} {offset_s:+d} s")
        with clock.open("r+b") as file:
            file.write(struct.pack("q", offset_s))
    trial.finish()


def _false_clock(folder: Path) -> Path:
    if shutil.which("cc") is None:
        raise Skipped("no false clock without a C compiler: install it (Debian: gcc, libc6-dev)")
    library, source = folder / "clock.so", Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True)
    return library


def recovery_damaged(trial: Trial) -> None:
    """The file of the recovery store is damaged: the program says so, or is not touched by it; a new folder helps."""
    if not _killed(trial, trial.moments[-1]):
        return
    path = next((trial.folder / trial.recovery).glob("part-*.sqlite3"))
    if trial.chance.random() < 0.7:
        with closing(sqlite3.connect(path)) as db:  # what is in its log goes into the file, which is then damaged
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
        trial.note("its log is gone")
    data = bytearray(path.read_bytes())
    size = len(data)
    how = trial.chance.choice(("empty", "short", "zeros", "noise", "byte", "other"))
    begin = trial.chance.randrange(100, size)
    if how in ("empty", "short"):
        del data[begin if how == "short" else 0 :]
    elif how == "byte":
        data[begin] ^= 1 << trial.chance.randrange(8)
    else:
        begin, end = (0, size) if how == "other" else (begin, min(begin + size // 3, size))
        data[begin:end] = bytes(end - begin) if how == "zeros" else trial.chance.randbytes(end - begin)
    path.write_bytes(data)
    trial.note(f"{how}, {size} bytes")
    trial.start()
    ended = trial.ended()
    if ended.code == 0:
        trial.note("it was not needed")
        return
    _clear(trial, ended)
    trial.recovery = "new"
    trial.finish()


def log_wiped(trial: Trial) -> None:
    """The topic is made anew, or what was not read yet expires, or the broker forgets all; stopped or running."""
    how = trial.chance.choice(("made anew", "expired", "broker wiped"))
    running = trial.chance.random() < 0.5 and how != "expired"
    moment = min(max(trial.moments[0], 0.1), 0.5)
    trial.note(f"{how}, {'running' if running else 'stopped'}, {_at(moment)}")
    if running:
        if not trial.until(moment):
            raise Broke(f"ended before it was disturbed, exit {trial.ended().code}")
    elif not _killed(trial, moment):
        return
    if how == "expired":
        _expire(trial, 0.8)
    elif how == "made anew":
        trial.cluster.delete(trial.topics.names["vitals"])
        time.sleep(1)
        trial.topics.create_one("vitals")
        if running and trial.process is not None and trial.process.poll() == 0:
            trial.note("it had read all before")
            trial.ended()
            return
        trial.topics.send(trial.input.rows, ["vitals"])
    else:
        _wipe_broker(trial)
    codes = []
    for _ in range(3):
        if trial.process is None:
            trial.start()
        ended = trial.ended()
        codes.append(ended.code)
        if ended.code in (0, 2):
            break
    trial.note(f"exit {', '.join(map(str, codes))}")
    if codes[-1] == 0:
        if how != "expired":
            trial.complaints.append("it went on over another log and said nothing")
        return
    _clear(trial, ended)
    trial.recovery = "new"
    trial.finish()


def _expire(trial: Trial, share: float) -> None:
    trial.partial, trial.before = True, list(store.decisions(trial.db))
    for (stream, number), count in counts(trial.input.rows).items():
        if stream == "vitals":
            trial.cluster.expire(trial.topics.names["vitals"], int(count * share), number)


def _wipe_broker(trial: Trial) -> None:
    trial.topic_lost = True
    (broker,) = trial.cluster.brokers
    broker.kill()
    broker.wipe()
    broker.start()
    trial.cluster.wait()
    for stream in list(trial.topics.names):
        trial.topics.create_one(stream)
    trial.topics.send(trial.input.rows)


def _killed(trial: Trial, moment: float) -> bool:
    """Run it up to a moment with some decisions and a recovery store. Gives False where it ended before."""
    if not trial.until(max(moment, 0.1)):
        code = trial.ended().code
        trial.note(f"ended before, exit {code}")
        return False
    trial.note(_at(max(moment, 0.1)))
    trial.kill()
    return True


def _clear(trial: Trial, ended: Ended) -> None:
    """What a person reads who has to do something: one of our sentences, last, and the way out."""
    sentence = ended.said.strip().splitlines()[-1] if ended.said.strip() else ""
    if ended.code not in REFUSED or not sentence.startswith("tidegate: ") or "--recovery" not in sentence:
        trial.complaints.append(f"no clear refusal, exit {ended.code}: {sentence}")


def _at(moment: float) -> str:
    return f"at {moment:.0%}" if moment >= 0 else f"{-moment:.1f} s in"


FAULTS: tuple[Fault, ...] = (
    Fault(kill, weight=4),
    Fault(kill_member, weight=3, processes=3),
    Fault(broker_stopped, one_life=True),
    Fault(broker_killed, one_life=True),
    Fault(leader_moved, nodes=3, one_life=True),
    Fault(network_cut, weight=3, processes=2, one_life=True),
    Fault(redelivery, redelivers=True),
    Fault(slow_sink, webhook=True),
    Fault(disk_full),
    Fault(clock_stepped, one_life=True),
    Fault(recovery_damaged),
    Fault(log_wiped),
    Fault(mqtt_live, weight=3, mqtt=True),
)
