"""Decisions as Parquet files: a file is there whole and on disk, or not at all, and each decision is in one.

A file holds what one send brought: the follower waits until there is enough of it, or until it has waited long enough.
It is written under a name that starts with a dot, forced to disk, and renamed. Its name says what it holds:
KIND-STORE-FIRST-LAST-MARK.parquet, the numbers of the first and the last item in the store and the last one's mark.
After a restart the names say where to go on, also where the store had no time to note it.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from polars.exceptions import PolarsError

from flows.connectors.outlets import Address, Item, Kind, Mark, Outlet, OutletDown, Pace
from schemas.errors import UsageError
from schemas.settings import Settings

_INSTANT = pl.Datetime("us", "UTC")
DECISIONS: dict[str, Any] = {
    "n": pl.Int64,
    "id": pl.String,
    "revision": pl.Int64,
    "flow": pl.String,
    "key": pl.String,
    "window_start": _INSTANT,
    "window_end": _INSTANT,
    "seq": pl.Int64,
    "action": pl.String,
    "rule_action": pl.String,
    "rationale": pl.String,
    "hash": pl.String,
    "prev": pl.String,
    "record": pl.String,
}
"""Columns of decisions. record: the whole of it, as it was sealed."""
DEAD_LETTERS: dict[str, Any] = {
    "n": pl.Int64,
    "flow": pl.String,
    "stream": pl.String,
    "source": pl.String,
    "offset": pl.Int64,
    "reason": pl.String,
    "detail": pl.String,
    "letter": pl.String,
}
"""Columns of dead letters. letter: the whole of it, as JSON."""
_NAME = re.compile(
    r"(?P<kind>decision|dead_letter)-(?P<token>[0-9a-f]+)-\d{12,}-(?P<n>\d{12,})-(?P<mark>[0-9a-f]+)\.parquet"
)


class ParquetOutlet(Outlet):
    """A folder of files. One store's files do not get in the way of another's."""

    def __init__(self, name: str, folder: Path, token: str, pace: Pace) -> None:
        self.name, self.dead_letters, self.pace = name, True, pace
        self._folder, self._token = folder, token

    def remembered(self) -> Mapping[Kind, Mark]:
        """The last item of each kind that is in a file. What a kill left half written is removed."""
        found: dict[Kind, Mark] = {}
        with _in_plain_words(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob(f".*-{self._token}-*.part"):
                path.unlink()
            for path in self._folder.iterdir():
                match = _NAME.fullmatch(path.name)
                if match is not None and match["token"] == self._token:
                    kind: Kind = "decision" if match["kind"] == "decision" else "dead_letter"
                    if kind not in found or int(match["n"]) > found[kind].n:
                        found[kind] = Mark(int(match["n"]), match["mark"])
        return found

    def send(self, items: Sequence[Item]) -> None:
        """One file for each kind among `items`. Errors: OutletDown when the folder cannot be written."""
        decisions = [item for item in items if item.kind == "decision"]
        letters = [item for item in items if item.kind == "dead_letter"]
        with _in_plain_words(self._folder):
            if decisions:
                self._write(decisions, pl.DataFrame(map(_decision, decisions), DECISIONS, orient="row"))
            if letters:
                self._write(letters, pl.DataFrame(map(_letter, letters), DEAD_LETTERS, orient="row"))

    def close(self) -> None:
        """Every file is whole already."""

    def _write(self, items: Sequence[Item], frame: pl.DataFrame) -> None:
        first, last = items[0], items[-1]
        name = f"{last.kind}-{self._token}-{first.n:012d}-{last.n:012d}-{last.mark}.parquet"
        aside = self._folder / f".{name}.part"
        try:
            frame.write_parquet(aside)
            _to_disk(aside)
            aside.rename(self._folder / name)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _to_disk(self._folder)


def _decision(item: Item) -> tuple[Any, ...]:
    record = orjson.loads(item.body)
    start, end = map(datetime.fromisoformat, record["window"])
    names = ("seq", "action", "rationale", "hash", "prev")
    seq, action, rationale, hash_, prev = (record[name] for name in names)
    place = (item.n, item.id, item.revision, record["flow"], record["key"], start, end, seq)
    return *place, action, record["rule"]["action"], rationale, hash_, prev, item.body.decode()


def _letter(item: Item) -> tuple[Any, ...]:
    letter = orjson.loads(item.body)
    return item.n, *(letter[name] for name in list(DEAD_LETTERS)[1:-1]), item.body.decode()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _in_plain_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, PolarsError) as error:
        raise OutletDown(
            f"{folder} cannot be written ({error}): free space, or give back the right to write"
        ) from error


def parquet_outlet(address: Address, settings: Settings, token: str) -> ParquetOutlet:
    """`parquet:FOLDER`; the folder is made when it is needed. Errors: UsageError."""
    address.only()
    if address.parts.netloc or not address.parts.path:
        address.refuse("give a folder on this machine: parquet:FOLDER")
    folder = Path(address.parts.path).absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the sink {address.text}: {folder} is a file: name a folder")
    pace = Pace(settings.outlet_file_rows, settings.outlet_file_bytes, settings.outlet_file_s)
    return ParquetOutlet(address.named(f"parquet:{folder}"), folder, token, pace)
