"""Real texts that are not ours to copy: read where they lie, named in our corpus by digest only."""

import csv
import gzip
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_LINK = re.compile(r"https?://\S+")


def plain(text: str) -> str:
    """Without links and doubled blanks: what makes two copies of one text the same text."""
    return " ".join(_LINK.sub("", text).split())


def digest(text: str) -> str:
    """SHA-256 of the plain text."""
    return hashlib.sha256(plain(text).encode()).hexdigest()


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _incidents(data: Path) -> Iterator[str]:
    for row in _rows(data / "traffic/calgary-incidents/incidents.csv.gz"):
        yield f"{row['INCIDENT INFO'].strip()}: {row['DESCRIPTION'].strip()}"


def _tweets(data: Path) -> Iterator[str]:
    for row in _rows(data / "markets/financial-tweets/tweets.csv.gz"):
        yield row["text"]


_SOURCES: Mapping[str, Callable[[Path], Iterator[str]]] = {"roadside": _incidents, "desk": _tweets}
NAMES = {
    "roadside": "Calgary traffic incidents (Open Government Licence - City of Calgary)",
    "desk": "financial news tweets (zeroshot/twitter-financial-news-sentiment)",
}


def real_texts(domain: str, data: Path) -> dict[str, str]:
    """digest -> text, of every real text of the domain under the folder `data`; empty where there are none.

    Errors: FileNotFoundError where the folder lacks the file.
    """
    source = _SOURCES.get(domain)
    return {} if source is None else {digest(text): text for text in source(data)}
