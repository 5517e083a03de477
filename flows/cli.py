"""The command `tidegate`. A command parses, calls and prints; errors become exit codes here and nowhere else.

What only one command needs is imported by it: a run on a small machine has no use for the simulator or the benchmarks.
"""

import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from flows import model_commands, store
from flows.lines import lines, say
from flows.live import Table, summary_table
from flows.run import Member, RunOptions, sinks_of
from flows.start import start
from operators.columnar.news2 import score_rows
from schemas.errors import TidegateError, UsageError
from schemas.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
simulate = typer.Typer(
    no_args_is_help=True, help="Write simulated input to replay.\n\nThe file planted.json says what is in it."
)
score = typer.Typer(no_args_is_help=True, help="Score rows by a published rule.\n\nOne JSON line in, one line out.")
app.add_typer(simulate, name="simulate")
app.add_typer(model_commands.app)
app.add_typer(score, name="score")

Db = Annotated[Path, typer.Option("--db", help="The decision store.")]
By = Annotated[str, typer.Option("--by", help="Who decides: a person's name.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the record.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings, a TOML file.")]
Model = Annotated[str, typer.Option("--model", help="`default`, `small`, a folder, or `none` for the rules alone.")]
DEFAULT_DB = Path("tidegate.db")


@app.command()
def run(
    flow: Annotated[str, typer.Argument(help="A flow that ships (`ward`), or a Python file with flow().")],
    source: Annotated[str, typer.Option("--source", help="A folder to replay, kafka://host:port?..., mqtt://...")],
    sinks: Annotated[
        list[str] | None,
        typer.Option("--sink", help="The decision store (a file); again for kafka://, mqtt://, parquet:, https:// ..."),
    ] = None,
    model: Model = "default",
    config: Config = None,
    recovery: Annotated[Path | None, typer.Option("--recovery", help="Folder of the recovery store.")] = None,
    mapping: Annotated[
        str | None, typer.Option("--mapping", help="How the source names things: shipped, or a TOML file.")
    ] = None,
    until_end: Annotated[
        bool,
        typer.Option(
            "--until-end", help="Stop where the source ends, Kafka where it ended at the start; a folder does."
        ),
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep reading what is appended to the folder's files.")
    ] = False,
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="Replay at this many times real time; 0: as fast as it goes.")
    ] = 0,
    summary: Annotated[Path | None, typer.Option("--summary", help="Write the summary here, as JSON.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Show a live table of decisions.")] = False,
    processes: Annotated[
        int, typer.Option("--processes", min=1, max=64, help="Spread the work over so many processes, started here.")
    ] = 1,
    addresses: Annotated[
        list[str] | None, typer.Option("-a", help="host:port of each process, the same on all machines.")
    ] = None,
    index: Annotated[int | None, typer.Option("-i", help="Which of them this is, from 0.")] = None,
) -> None:
    """Run a flow: a source in, decisions out.

    It may be killed at any moment; with --recovery it goes on where it was. SIGTERM ends it in order.
    """
    if summary is not None and not summary.absolute().parent.is_dir():
        raise UsageError(f"the folder of --summary {summary} does not exist: make it, or name another file")
    store_address, outlets = sinks_of(sinks or [str(DEFAULT_DB)])
    options = RunOptions(
        flow=flow,
        source=source,
        sink=store_address,
        outlets=outlets,
        model=model,
        settings=Settings.load(config),
        recovery=recovery,
        mapping=mapping,
        follow=follow and not until_end,
        until_end=until_end,
        speed=speed,
        member=_member(addresses or [], index, processes),
    )
    with Table(live) as table:
        result = start(options, processes, table.show)
    if summary is not None:
        summary.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    # Standard output belongs to the decisions where they go there.
    typer.echo(summary_table(result), err=any(address.startswith("stdout:") for address in outlets))


def _member(addresses: list[str], index: int | None, processes: int) -> Member:
    if not addresses and index is None:
        return Member()
    from flows.cluster import addressed

    if processes > 1:
        raise UsageError("--processes starts its processes by itself: give it, or -a and -i, not both")
    return addressed(addresses, index)


@app.command()
def demo(
    flow: Annotated[str, typer.Argument(help="Only `ward` so far.")] = "ward",
    out: Annotated[Path, typer.Option(help="Folder for the simulated input; made anew.")] = Path("demo"),
    sink: Annotated[Path, typer.Option(help="The decision store; made anew.")] = DEFAULT_DB,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 1,
    speed: Annotated[float, typer.Option(min=0, help="Times real time.")] = 60,
    minutes: Annotated[float, typer.Option(min=1, help="Length of the simulated stretch.")] = 40,
) -> None:
    """Simulate twelve beds, replay them through the real flow, show decisions live.

    Ends by itself with a summary.
    """
    from flows.demo import run_demo

    typer.echo(run_demo(flow, out, sink, seed=seed, speed=speed, minutes=minutes))


@app.command(name="demo-kafka")
def demo_kafka(
    out: Annotated[Path, typer.Option(help="Folder for the simulated input; made anew.")] = Path("demo"),
    sink: Annotated[Path, typer.Option(help="The decision store; made anew.")] = DEFAULT_DB,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 1,
    speed: Annotated[float, typer.Option(min=1, help="Times real time.")] = 60,
    minutes: Annotated[float, typer.Option(min=1, help="Length of the simulated stretch.")] = 40,
) -> None:
    """The same through a real Kafka broker, which it starts: vitals, notes and settings in, decisions out.

    Needs Java and Maven.
    """
    from flows.demo_kafka import run_demo_kafka

    typer.echo(run_demo_kafka(out, sink, seed=seed, speed=speed, minutes=minutes))


@app.command()
def decisions(
    db: Db = DEFAULT_DB,
    as_json: Annotated[bool, typer.Option("--json", help="One record a line.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with new records as they come.")] = False,
) -> None:
    """List decisions in order of window end, key and revision.

    With --json each line is the whole record.
    """
    for record in store.follow(db, time.sleep) if follow else store.decisions(db):
        if as_json:
            say(record)
        else:
            typer.echo(
                f"{record['window'][1]}  {record['key']:<12} r{record['revision']}  {record['action']:<10} "
                f"{record['rationale']}"
            )


@app.command()
def outlets(
    db: Db = DEFAULT_DB,
    forget: Annotated[str | None, typer.Option("--forget", help="Forget this one; used again, it starts over.")] = None,
) -> None:
    """Show how far each sink has followed the store.

    What waits, what was sent, what was refused, and why.
    """
    from flows.store import outbox

    if forget is not None:
        outbox.forget(db, forget)
    typer.echo(outbox.outlets_text(db))


@app.command()
def trace(
    decision: Annotated[str, typer.Argument(help="The decision's id, or a trace's.")],
    db: Db = DEFAULT_DB,
    file: Annotated[Path | None, typer.Option("--file", help="The spans; else `trace_file` of the settings.")] = None,
    config: Config = None,
) -> None:
    """Show where the time of a traced decision went, as a tree.

    From the local file of spans of its run.
    """
    from flows.tracing.tree import trace_text

    spans = file or Path(Settings.load(config).trace_file)
    if not spans.name:
        raise UsageError("where are the spans? give --file, or --config with a trace_file")
    typer.echo(trace_text(decision, db, spans))


@app.command()
def verify(db: Db = DEFAULT_DB) -> None:
    """Check every hash chain of a store.

    Prints the count, or names the first broken record and exits with 1.
    """
    found = store.verify(db)
    typer.echo(
        f"{found.records} records of {found.keys} keys, {found.checkpoints} checkpoints and "
        f"{found.human_actions} human actions are intact"
    )


@app.command()
def accept(
    decision: Annotated[str, typer.Argument(help="The decision's id.")],
    by: By,
    reason: Reason,
    proposal: Annotated[str | None, typer.Option(help="Which proposal, where there are several.")] = None,
    db: Db = DEFAULT_DB,
) -> None:
    """Accept a proposal, in your name.

    It is logged, and counts from then on.
    """
    store.accept(db, decision, by=by, reason=reason, at_us=time.time_ns() // 1000, proposal=proposal)
    typer.echo(f"accepted {decision}")


@app.command()
def override(
    decision: Annotated[str, typer.Argument(help="The decision's id.")],
    by: By,
    reason: Reason,
    action: Annotated[str | None, typer.Option(help="What is done instead.")] = None,
    db: Db = DEFAULT_DB,
) -> None:
    """Record that a person decided otherwise, and why.

    The decision itself stays as it was.
    """
    store.override(db, decision, by=by, reason=reason, at_us=time.time_ns() // 1000, action=action)
    typer.echo(f"overridden {decision}")


@app.command(name="replay-dead-letters")
def replay(
    flow: Annotated[str, typer.Argument(help="The flow that refused them.")] = "ward",
    db: Db = DEFAULT_DB,
    reason: Annotated[str | None, typer.Option("--reason", help="Only those refused for this reason.")] = None,
    model: Model = "default",
    config: Config = None,
    mapping: Annotated[str | None, typer.Option("--mapping", help="As for `run`.")] = None,
) -> None:
    """Send refused rows through the flow again, after a fix.

    Those that would be refused again stay; a decision that was made stays as it was.
    """
    from flows.dead_letters import replay_dead_letters

    options = RunOptions(
        flow=flow, source="", sink=str(db), model=model, settings=Settings.load(config), mapping=mapping
    )
    again = replay_dead_letters(options, reason, time.time_ns() // 1000)
    typer.echo(
        f"{again.sent} rows sent again, {again.decided} decisions made from them; {again.kept} rows stay refused"
    )


@simulate.command("ward")
def simulate_a_ward(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("ward"),
    seed: Annotated[int, typer.Option("--seed", help="The same seed writes the same bytes.")] = 1,
    beds: Annotated[int, typer.Option(min=1, help="Beds.")] = 12,
    minutes: Annotated[float, typer.Option(min=1, help="Length.")] = 40,
) -> None:
    """A ward with planted trouble.

    A deterioration, a sepsis, a COPD target, an athlete, a probe off, a wrong clock, a quiet bed, bad rows.
    """
    from flows.simulators.ward import describe, simulate_ward

    typer.echo(describe(simulate_ward(out, seed=seed, beds=beds, minutes=minutes)))


@score.command("news2")
def score_news2() -> None:
    """NEWS2 of each row on standard input.

    Rows hold id, rr, spo2, spo2_scale, oxygen, sbp, hr, acvpu, temp; a missing one means no score.
    """
    for scored in score_rows([_row(line) for line in lines()]):
        say(scored)


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = None
    if isinstance(row, dict):
        return row
    typer.echo("a line is not a JSON object: it is scored as a row with everything missing", err=True)
    return {}


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="windows, ward, read, trace or kafka.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure here.")] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Also rival systems, where they are installed.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats; the median and the spread are printed.")] = 5,
    work: Annotated[Path | None, typer.Option("--work", help="read: a folder of `train`, to compare its fp32.")] = None,
    messages: Annotated[int | None, typer.Option(min=10_000, help="kafka: how many; else two million.")] = None,
    long: Annotated[bool, typer.Option("--long", help="kafka: also memory over ten million, some minutes.")] = False,
) -> None:
    """Measure speed, as ratios in one run.

    One core is pinned; limits are printed beside the results.
    """
    from flows.bench import run_bench

    result = run_bench(name, repeats=repeats, peers=peers, work=work, messages=messages, long=long or None)
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2) + b"\n")
    typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2))


@app.command()
def doctor(
    settings: Annotated[bool, typer.Option("--settings", help="List every setting.")] = False, config: Config = None
) -> None:
    """Check this machine and this installation.

    Says what is wrong, and what to do.
    """
    from flows import doctor as diagnosis

    loaded = Settings.load(config)
    if settings:
        typer.echo(diagnosis.settings_table(loaded))
        return
    typer.echo(diagnosis.check(loaded))


def main() -> None:
    """Entry point: run a command, turn our errors into one sentence and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except TidegateError as error:
        typer.echo(f"tidegate: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(0)
