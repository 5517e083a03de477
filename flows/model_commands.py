"""Commands about readers: `read`, `model`, and those that make and measure them, which need the extra `train`."""

import importlib
import logging
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from flows.lines import lines, say
from flows.pull import pull, seal
from flows.reading import read_lines
from flows.texts import folder_of
from schemas.errors import UsageError
from schemas.settings import Settings
from schemas.texts import FIELDS

app = typer.Typer()
read = typer.Typer(no_args_is_help=True, help="Read texts with the language model.\n\nOne JSON line in, one line out.")
model = typer.Typer(no_args_is_help=True, help="Bring a model of your own.\n\nA folder that ONNX Runtime GenAI runs.")
app.add_typer(read, name="read")
app.add_typer(model, name="model")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Model = Annotated[str, typer.Option("--model", help="`default`, or a model folder.")]
Config = Annotated[Path | None, typer.Option("--config", help="Settings, a TOML file.")]

Real = Annotated[
    Path | None, typer.Option("--real", help="Folder with the real texts whose labels the corpus keeps by digest.")
]
Work = Annotated[Path, typer.Option("--out", help="Work folder; a run that was stopped goes on from it.")]
Stages = Annotated[list[str] | None, typer.Option("--stage", help="Only this stage; may be given more than once.")]


@read.command("ward")
def read_ward(as_json: AsJson = False, model: Model = "default", config: Config = None) -> None:
    """Read notes: `{"id", "text"}` a line on standard input.

    Gives labels, a probability for each, the words that carried them, and whether to act on it.
    """
    _read("ward", as_json, model, config)


@read.command("roadside")
def read_roadside(as_json: AsJson = False, model: Model = "default", config: Config = None) -> None:
    """Read incident reports: `{"id", "text"}` a line on standard input.

    Gives kind, blocked and status, a probability for each label, the words that carried them, whether to act on it.
    """
    _read("roadside", as_json, model, config)


@read.command("desk")
def read_desk(as_json: AsJson = False, model: Model = "default", config: Config = None) -> None:
    """Read headlines: `{"id", "text"}` a line on standard input.

    Gives topic, direction and certainty, a probability for each label, the words that carried them, whether to act.
    """
    _read("desk", as_json, model, config)


def _read(domain: str, as_json: bool, model: str, config: Path | None) -> None:
    for reading in read_lines(lines(), domain, model, Settings.load(config)):
        if as_json:
            say(reading)
            continue
        answers = [reading[field.name] for field in FIELDS[domain]]
        said = ", ".join(", ".join(answer) if isinstance(answer, list) else answer for answer in answers if answer)
        abstains = f" (abstains: {reading['abstain']})" if reading["abstain"] else ""
        typer.echo(f"{reading['id']}: {said or '-'}{abstains}")


@model.command("pull")
def pull_model(
    spec: Annotated[str, typer.Argument(help="hf:owner/name, hf:owner/name/folder, with @revision if wanted.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
) -> None:
    """Fetch a model from the Hugging Face hub, on a machine that is allowed online.

    The folder gets a manifest, so that what runs later is what was fetched.
    """
    done = pull(spec, out)
    typer.echo(f"{done.name} at {done.commit}: {done.files} files, {done.size} bytes, SHA-256 {done.digest}")


@model.command("seal")
def seal_model(
    folder: Annotated[Path, typer.Argument(help="A folder that ONNX Runtime GenAI can run.")],
    name: Annotated[str, typer.Option("--name", help="What records call it.")],
) -> None:
    """Write the manifest of a model folder that you have already.

    Only a folder with one is run.
    """
    typer.echo(seal(folder, name))


def _part(name: str) -> Any:
    """A module of the recipe, imported when it is asked for: torch is not part of a plain installation."""
    try:
        return importlib.import_module(f"models.train.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("models"):
            raise
        raise UsageError(f"{error.name} is not installed: pip install 'tidegate[train]', then try again") from error


def _known(domain: str) -> str:
    if domain not in FIELDS:
        raise UsageError(f"there is no domain {domain}: give one of {', '.join(FIELDS)}")
    return domain


@app.command()
def train(
    out: Work,
    real: Real = None,
    jars: Annotated[Path, typer.Option(help="Folder with the jars that carry pretrained encoders.")] = Path("jars"),
    seed: Annotated[int, typer.Option(help="All chance comes from it.")] = 0,
    stage: Stages = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="As PyTorch names it: cpu, cuda.")] = "cpu",
    quick: Annotated[
        bool, typer.Option("--quick", help="Under three hours on two cores: nobody teaches the default.")
    ] = False,
) -> None:
    """Train the readers from the corpus, stage by stage.

    Shows progress, may be stopped at any time and started again, and draws its curves.
    """
    logging.getLogger("models").setLevel(logging.INFO)
    _part("recipe").train(out, real, jars, seed, stage or (), threads, device=device, quick=quick)
    typer.echo(f"curves: {_part('curves').draw(out)}")


@app.command()
def compress(out: Work, real: Real = None, stage: Stages = None) -> None:
    """Make model folders, int8 and fp32, of what `train` left.

    Exports, quantizes, and calibrates on texts that were held out.
    """
    for name in stage or _part("recipe").SHIPPED:
        typer.echo(_part("compress").compress(out, name, real))


@app.command()
def evaluate(
    data: Annotated[
        list[Path], typer.Option("--data", help="Labelled texts, JSON Lines; may be given more than once.")
    ],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="`default`, a folder, or NAME=FOLDER; more than once.")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Majority, keywords, TF-IDF with logistic regression.")] = True,
    real: Real = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write every figure here.")] = None,
) -> None:
    """Measure readers and baselines on labelled texts.

    One table a file; per label with --json.
    """
    evaluation = _part("evaluate")
    found: dict[str, Any] = {}
    for path in data:
        try:
            domain = evaluation.domain_of(path)
        except ValueError as error:
            raise UsageError(str(error)) from error
        named = dict(_named(each) for each in model or ["default"])
        examples = _part("corpus").load(path, domain)
        rows = [
            evaluation.evaluate(system, examples, domain)
            for system in evaluation.systems(domain, named, baselines, data=real)
        ]
        found[path.name] = rows
        typer.echo(f"{path.name}: {len(examples)} texts\n\n{evaluation.table(rows, domain)}")
    if as_json is not None:
        as_json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")


def _named(model: str) -> tuple[str, Path]:
    name, separator, folder = model.partition("=")
    return (name, folder_of(folder)) if separator else (model, folder_of(model))


@app.command()
def corpus(
    domain: Annotated[str, typer.Argument(help="ward, roadside or desk.")],
    check: Annotated[
        bool, typer.Option("--check", help="Look for faults instead; exit 1 where there are any.")
    ] = False,
    dev: Annotated[list[Path] | None, typer.Option("--dev", help="Texts for measuring that must not be in it.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed composes the same texts.")] = 0,
) -> None:
    """Compose augmented training texts, one JSON line each; or check the corpus.

    Two notes joined, slips of the pen, other drugs of a class, steering lines, names explained.
    """
    lint = _part("lint")
    if not check:
        for row in lint.augmented(_known(domain), seed):
            say(row)
        return
    faults = list(lint.findings(_known(domain), dev or ()))
    for field, counts in lint.balance(lint.ours(domain), domain).items():
        typer.echo(f"{field}: " + ", ".join(f"{label} {count}" for label, count in counts.most_common()))
    for fault in faults:
        typer.echo(f"{fault.what}: " + " | ".join(fault.texts))
    if faults:
        raise typer.Exit(1)
