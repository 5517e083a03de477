"""`tidegate replay-dead-letters`: refused rows, sent again after a fix."""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flows import store
from flows.connectors.files import HeldLines
from flows.connectors.replay import MAPPINGS, Partition, codec_of, intake_of
from flows.connectors.sqlite import DeadLetter
from flows.registry import load_flow
from flows.run import RunOptions, run_partitions
from flows.store.places import is_decided
from operators.columnar.mapping import Mapping


@dataclass(frozen=True, slots=True)
class Again:
    """sent: rows that are fine now and went through the flow; kept: those refused again; decided: decisions made."""

    sent: int
    kept: int
    decided: int


def replay_dead_letters(options: RunOptions, reason: str | None, now_us: int) -> Again:
    """Send what can be used now, in order of event time. A decision that was made stays: a row that came too late for
    it does not change it. Rows of a clock that ran ahead go only where `reason` asks for them. Errors: UsageError.
    """
    path = Path(options.sink)
    domain = load_flow(options.flow, options.settings)
    mapping = Mapping.load(options.mapping, MAPPINGS) if options.mapping else None
    waiting: dict[str, list[DeadLetter]] = defaultdict(list)
    for letter in store.dead_letters(path, reason, waiting=True):
        if letter.flow == domain.name and (reason or letter.reason != "future"):
            waiting[letter.stream].append(letter)
    partitions, sent = [], []
    for stream in domain.streams:
        letters = waiting[stream.name]
        codec = codec_of(stream, options.settings, mapping)
        fine = codec.decode_lines([letter.raw for letter in letters], 0).rows.sort("event_us", "offset")
        usable = [letters[at] for at in fine["offset"]]
        sent += usable
        lines = [letter.raw for letter in usable]
        intake = intake_of(domain, stream, options.settings)
        partitions.append(Partition(f"again/{stream.name}", stream, codec, intake, partial(HeldLines, lines)))
    result = run_partitions(domain, partitions, path, options, settled=lambda decision: is_decided(path, decision))
    store.mark_replayed(path, sent, now_us)
    return Again(len(sent), sum(map(len, waiting.values())) - len(sent), sum(result["decisions"].values()))
