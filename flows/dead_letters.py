"""`tidegate replay-dead-letters`: refused rows, sent again after a fix."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows import store
from flows.connectors.files import NOTHING, HeldLines
from flows.connectors.headers import of_message
from flows.connectors.judge import codec_of, decode, intake_of
from flows.connectors.replay import MAPPINGS, Partition
from flows.connectors.sqlite import DeadLetter
from flows.registry import load_flow
from flows.run import Control, RunOptions, run_opened
from flows.sources import open_files
from flows.store.places import is_decided
from operators.columnar.mapping import Mapping


@dataclass(frozen=True, slots=True)
class Again:
    """sent: rows that are fine now and went through the flow; kept: those refused again; decided: decisions made."""

    sent: int
    kept: int
    decided: int


def replay_dead_letters(options: RunOptions, reason: str | None, now_us: int) -> Again:
    """Send what can be used now, in order of event time. A row that is refused again waits on, as it was. A decision
    that was made stays: a row that came too late for it does not change it. Rows of a clock that ran ahead go only
    where `reason` asks for them. Rows of CSV files are read by the header that they had, each header's as a partition
    of their own. Errors: UsageError.
    """
    path = Path(options.sink)
    domain = load_flow(options.flow, options.settings)
    mapping = Mapping.load(options.mapping, MAPPINGS) if options.mapping else None
    waiting = [
        letter
        for letter in store.dead_letters(path, reason, waiting=True)
        if letter.flow == domain.name and (reason or letter.reason != "future")
    ]
    partitions: list[Partition] = []
    sent: dict[str, list[DeadLetter]] = {}
    refused: set[tuple[str, int]] = set()
    for stream in domain.streams:
        codec = codec_of(stream, options.settings, mapping)
        intake = intake_of(domain, stream, options.settings, mapping)
        by_header: dict[bytes | None, list[DeadLetter]] = {None: []}
        for letter in waiting:
            if letter.stream == stream.name:
                by_header.setdefault(None if of_message(letter.header) else letter.header, []).append(letter)
        for at, (header, letters) in enumerate(by_header.items()):
            rows = HeldLines([letter.raw for letter in letters], 0, header).next(len(letters)) or NOTHING
            fine = decode(codec, rows, 0).rows.sort("event_us", "offset")
            usable = [letters[offset] for offset in fine["offset"]]
            name = f"again/{stream.name}" + (f".csv{at}" if at else "")
            sent[name] = usable
            held = partial(HeldLines, [letter.raw for letter in usable], header=header)
            partitions.append(Partition(name, stream, codec, intake, held))
    control = Control()
    counts = run_opened(
        domain,
        lambda: open_files(partitions, options, control),
        path,
        options,
        control,
        settled=lambda decision: is_decided(path, decision),
        refused=lambda letters: refused.update((letters.source, at) for at in letters.rejects["offset"]),
    )
    used = [letter for name in sent for at, letter in enumerate(sent[name]) if (name, at) not in refused]
    store.mark_replayed(path, used, now_us)
    return Again(len(used), len(waiting) - len(used), sum(counts.decisions.values()))
