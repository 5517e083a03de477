"""`tidegate bench windows --peers`: the same windows in Pathway and in Flink SQL, where they are installed.

Both come only with the optional extra `peers` (`pip install 'tidegate[peers]'`) and are imported nowhere else. Pathway
is under the Business Source Licence, so it must stay out of all other dependencies; Flink (Apache 2.0) needs Java. Each
runs in a process of its own, on one core, with parallelism 1 and nothing sent anywhere.

A speed is given only for answers that agree with the reference. The work is the peer's best case: a bounded file, no
lateness, no checkpoints, and only the aggregates that it has itself. Pathway takes the file in one commit, as a batch.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any

import polars as pl

ROWS = 200_000
"""Rows to give the peers: more would take minutes. The JVM is not fully warm by then: Flink gains with more rows."""
FEW = 1_000
RUNS = ("all", "few", "all", "all", "all")
"""Runs in one process, over all rows or over FEW. The first loads classes and compiles: told, not used. The second is
what starting a job costs (seconds in Flink): it is taken off the others, as a stream starts once."""
TIMEOUT_S = 300
TOLERANCE = 1e-9
"""Largest difference of two floats that agree, relative above one and absolute below."""
WINDOW = ("device", "start_us")
NOT_INSTALLED = "not installed: pip install 'tidegate[peers]'"

PATHWAY = ("count", "sum", "mean", "min", "max", "first", "last", "last_us")
FLINK = {
    "count": "COUNT(`value`)",
    "sum": "SUM(`value`)",
    "mean": "AVG(`value`)",
    "var": "VAR_SAMP(`value`)",
    "std": "STDDEV_SAMP(`value`)",
    "min": "MIN(`value`)",
    "max": "MAX(`value`)",
    "first": "FIRST_VALUE(`value`)",
    "last": "LAST_VALUE(`value`)",
    "last_us": "MAX(`ts`)",
    "median": "PERCENTILE(`value`, 0.5)",
    "q05": "PERCENTILE(`value`, 0.05)",
    "q25": "PERCENTILE(`value`, 0.25)",
    "q75": "PERCENTILE(`value`, 0.75)",
    "q95": "PERCENTILE(`value`, 0.95)",
}


def measure(lines: list[bytes], reference: pl.DataFrame, window_us: int = 10_000_000) -> dict[str, Any]:
    """For each peer a sentence why there is no result, or its rows a second with what was compared.

    lines: JSON events in order of event time. reference: device, start_us and the aggregates of the same lines.
    window_us: whole seconds. `rows_per_s` is the median of `runs_rows_per_s`, without `warm_up_s` and `start_s`. A peer
    that answers wrongly gets `wrong` and no speed, one that breaks gets `failed`.
    """
    results: dict[str, Any] = {}
    for peer, (module, package, offered) in PEERS.items():
        if find_spec(module) is None:
            results[peer] = NOT_INSTALLED
        elif peer == "flink" and not (os.environ.get("JAVA_HOME") or which("java")):
            results[peer] = "not run: Flink found no Java: install Java 17, or set JAVA_HOME to it"
        else:
            results[peer] = {"version": version(package), **_measure(peer, offered, lines, reference, window_us)}
    return results


def _measure(
    peer: str, offered: tuple[str, ...], lines: list[bytes], reference: pl.DataFrame, window_us: int
) -> dict[str, Any]:
    wanted = [name for name in reference.columns if name not in WINDOW]
    compared = [name for name in wanted if name in offered]
    result: dict[str, Any] = {
        "rows": len(lines),
        "windows": reference.height,
        "compared": compared,
        "left_out": [name for name in wanted if name not in offered],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for which_rows, some in (("all", lines), ("few", lines[:FEW])):
            (folder / f"{which_rows}.jsonl").write_bytes(b"\n".join(some) + b"\n")
        failure = _in_its_own_process(peer, folder, window_us)
        if failure is not None:
            return {**result, "failed": failure}
        warm_up_s, start_s, *taken_s = json.loads((folder / "seconds.json").read_bytes())
        schema = {column: reference.schema[column] for column in (*WINDOW, *compared)}
        parts = sorted((folder / f"run-{len(RUNS) - 1}").glob("[!.]*"))
        answers = pl.concat([pl.read_ndjson(part, schema=schema) for part in parts] or [pl.DataFrame(schema=schema)])
    wrong = disagreement(answers, reference, compared)
    if wrong is not None:
        return {**result, "wrong": wrong}
    started = {"warm_up_s": round(warm_up_s, 3), "start_s": round(start_s, 3)}
    if min(taken_s) <= start_s:
        return {**result, **started, "failed": f"{len(lines)} rows are too few: starting took as long as the work"}
    rates = [round(len(lines) / (taken - start_s)) for taken in taken_s]
    return {**result, **started, "rows_per_s": median(rates), "runs_rows_per_s": rates}


def disagreement(answers: pl.DataFrame, reference: pl.DataFrame, names: list[str]) -> str | None:
    """What differs first, or None: the same windows, each once, whole numbers equal, floats within TOLERANCE."""
    doubled = answers.height - answers.select(WINDOW).n_unique()
    missing = reference.join(answers, on=WINDOW, how="anti").height
    unknown = answers.join(reference, on=WINDOW, how="anti").height
    if doubled or missing or unknown:
        counts = f"{missing} are missing, {unknown} should not be there, {doubled} are given again"
        return f"of {reference.height} windows {counts}"
    both = reference.select(*WINDOW, *names).join(answers, on=WINDOW, suffix="_theirs")
    for name in names:
        ours, theirs = pl.col(name), pl.col(f"{name}_theirs")
        if reference.schema[name].is_integer():
            off = ours.ne_missing(theirs)
        else:
            # A null, a NaN or an infinity on one side only is a difference.
            near = ours.is_finite() & ((ours - theirs).abs() <= TOLERANCE * pl.max_horizontal(ours.abs(), 1.0))
            off = ~(near.fill_null(False) | ours.eq_missing(theirs))
        differ = both.filter(off).sort(WINDOW)
        if not differ.is_empty():
            row = differ.row(0, named=True)
            where = f"{row['device']} at {row['start_us']}: {row[f'{name}_theirs']} instead of {row[name]}"
            return f"{name} differs in {differ.height} of {both.height} windows, first {where}"
    return None


def _in_its_own_process(peer: str, folder: Path, window_us: int) -> str | None:
    """Run a peer over the folder's events; why it failed, or None. A session, so that a JVM it started ends with it."""
    # Pathway reports only where a licence key or a monitoring server is set: neither is handed on.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PATHWAY_")}
    env |= {"PATHWAY_THREADS": "1", "PATHWAY_PROCESSES": "1", "OTEL_SDK_DISABLED": "true"}
    # -P keeps this folder, whose modules have everyday names, out of the peer's import path.
    command = [sys.executable, "-P", __file__, peer, str(folder), str(window_us)]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"no answer after {TIMEOUT_S} s"
        finally:
            _end_session(process)
    if code == 0:
        return None
    said = [line for line in (folder / "log.txt").read_text(errors="replace").splitlines() if line[:1].strip()]
    return f"exit code {code}: {said[-1] if said else 'it said nothing'}"


def _end_session(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def run_pathway(folder: Path, window_us: int) -> list[float]:
    """Seconds of each run; answers go to `run-N/` as JSON lines."""
    import pathway as pw  # only in the peer's own process

    taken = []
    for run, rows in enumerate(RUNS):
        pw.internals.parse_graph.G.clear()
        schema = pw.schema_from_types(ts=int, device=str, value=float)
        events = pw.io.jsonlines.read(str(folder / f"{rows}.jsonl"), schema=schema, mode="static")
        window = pw.temporal.tumbling(duration=window_us, origin=0)
        row, reduce = pw.this, pw.reducers
        windows = events.windowby(events.ts, window=window, instance=events.device).reduce(
            device=row._pw_instance,
            start_us=row._pw_window_start,
            count=reduce.count(),
            sum=reduce.sum(row.value),
            mean=reduce.avg(row.value),
            min=reduce.min(row.value),
            max=reduce.max(row.value),
            last_us=reduce.max(row.ts),
            earliest=reduce.min(pw.make_tuple(row.ts, row.value)),
            latest=reduce.max(pw.make_tuple(row.ts, row.value)),
        )
        answers = windows.select(*row.without(row.earliest, row.latest), first=row.earliest[1], last=row.latest[1])
        (folder / f"run-{run}").mkdir()
        pw.io.jsonlines.write(answers, str(folder / f"run-{run}" / "answers.jsonl"))
        started = time.perf_counter()
        pw.run(monitoring_level=pw.MonitoringLevel.NONE, with_http_server=False)
        taken.append(time.perf_counter() - started)
    return taken


def run_flink(folder: Path, window_us: int) -> list[float]:
    """Seconds of each run; answers go to `run-N/` as JSON lines."""
    from pyflink.table import EnvironmentSettings, TableEnvironment  # only in the peer's own process

    table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    table.get_config().set("parallelism.default", "1")
    table.get_config().set("table.local-time-zone", "UTC")
    # Flink takes a row for late when its time equals the watermark, hence one millisecond less.
    event = (
        "ts BIGINT, device STRING, `value` DOUBLE, event_time AS TO_TIMESTAMP_LTZ(ts / 1000, 3), "
        "WATERMARK FOR event_time AS event_time - INTERVAL '0.001' SECOND"
    )
    for rows in sorted(set(RUNS)):
        table.execute_sql(f"CREATE TABLE {rows}_rows ({event}) {_json_files(folder / f'{rows}.jsonl')}")
    columns = ", ".join(f"`{name}` {'BIGINT' if name in ('count', 'last_us') else 'DOUBLE'}" for name in FLINK)
    aggregates = ", ".join(f"{sql} AS `{name}`" for name, sql in FLINK.items())
    start_us = "CAST(TIMESTAMPDIFF(SECOND, TIMESTAMP '1970-01-01 00:00:00', window_start) AS BIGINT) * 1000000"
    taken = []
    for run, rows in enumerate(RUNS):
        (folder / f"run-{run}").mkdir()
        answers = f"CREATE TABLE answers_{run} (device STRING, start_us BIGINT, {columns})"
        table.execute_sql(f"{answers} {_json_files(folder / f'run-{run}')}")
        started = time.perf_counter()
        table.execute_sql(
            f"INSERT INTO answers_{run} SELECT device, {start_us}, {aggregates} "
            f"FROM TUMBLE(TABLE {rows}_rows, DESCRIPTOR(event_time), INTERVAL '{window_us // 1_000_000}' SECOND) "
            "GROUP BY device, window_start, window_end"
        ).wait()
        taken.append(time.perf_counter() - started)
    return taken


def _json_files(path: Path) -> str:
    return f"WITH ('connector' = 'filesystem', 'path' = '{path.as_uri()}', 'format' = 'json')"


PEERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "pathway": ("pathway", "pathway", PATHWAY),
    "flink": ("pyflink", "apache-flink", tuple(FLINK)),
}
RUNNERS: dict[str, Callable[[Path, int], list[float]]] = {"pathway": run_pathway, "flink": run_flink}

if __name__ == "__main__":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    _, chosen, place, length_us = sys.argv
    seconds = RUNNERS[chosen](Path(place), int(length_us))
    (Path(place) / "seconds.json").write_text(json.dumps(seconds))
