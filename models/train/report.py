"""Everything that is measured of a finished model folder, for its card and its manifest."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.lexicon import Lexicon, lexicon
from models.reader import Reader, open_reader
from models.train import checks
from models.train.corpus import Example, load
from models.train.evaluate import evaluate, systems
from models.train.measure import figures
from models.train.synonyms import SWAPS
from schemas.texts import FIELDS

DEV = ("dev", "real-dev")
INVENTED_MAX = 300


def measure(whole: Path, exact: Path, held_out: Sequence[Example], data: Path | None, corpus: Path) -> dict[str, Any]:
    """Figures on the held-out texts, and where `data` has them on the texts for measuring, beside the baselines."""
    found: dict[str, Any] = {
        "held_out": {},
        "dev": {},
        "evidence": {},
        "hostile": {},
        "agreement": {},
        "without_words": {},
    }
    for domain in FIELDS:
        folders = {"int8": whole, "fp32": exact}
        readers = {name: open_reader(folder, domain, lexicon(domain)) for name, folder in folders.items()}
        reader, twin = readers.values()
        own = [row for row in held_out if row.domain == domain]
        found["held_out"][domain] = {
            name: figures([each.read(row.text) for row in own], own, domain) for name, each in readers.items()
        }
        measured = own
        for path in _dev_files(domain, data):
            examples = load(path, domain)
            measured = examples if path.name == f"{domain}.dev.jsonl" else measured
            rows = systems(domain, folders, baselines=True, corpus=corpus, data=data)
            found["dev"][path.name] = [evaluate(system, examples, domain) for system in rows]
        found["evidence"][domain] = checks.evidence(reader.read, measured)
        found["hostile"][domain] = checks.withstood(reader.read, measured, domain)
        found["agreement"][domain] = checks.agreement(reader.read, twin.read, [row.text for row in measured])
        if reader.words.classes:
            bare = open_reader(whole, domain, Lexicon({}))
            fields = figures([bare.read(row.text) for row in measured], measured, domain)["fields"]
            found["without_words"][domain] = {name: field["macro_f1"] for name, field in fields.items()}
        if domain == "ward":
            found["names"] = _names(whole, reader, held_out)
            if data is not None:
                found["prose"] = checks.on_prose(reader.read, data)
    return found


def _dev_files(domain: str, data: Path | None) -> list[Path]:
    if data is None:
        return []
    paths = [data / "decisions" / f"{domain}.{kind}.jsonl" for kind in DEV]
    return [path for path in paths if path.exists()]


def _names(whole: Path, reader: Reader, held_out: Sequence[Example]) -> Mapping[str, Any]:
    """Held-out notes whose drugs were renamed to names nobody knows: as they are, and with a line each in a lexicon."""
    own = [row for row in held_out if row.domain == "ward"]
    classes = {name: kind for name, kind in reader.words.classes.items() if name in SWAPS}
    renamed, words = checks.with_unknown_names(own, classes, random.Random(0))
    renamed = renamed[:INVENTED_MAX]
    found = {"texts": len(renamed)}
    for name, lines in (("without", Lexicon({})), ("with", words)):
        read = open_reader(whole, "ward", lines).read
        found[name] = figures([read(row.text) for row in renamed], renamed, "ward")["fields"]["labels"]["macro_f1"]
    return found
