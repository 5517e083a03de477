"""A source as the engine sees it: partitions by name. Connectors know these, and nothing else of Bytewax."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition

from operators.adapters.messages import SourceBatch

SourcePartition = StatefulSourcePartition[SourceBatch, Any]
Build = Callable[[Any], SourcePartition]
"""From what the partition's last snapshot was, None at first."""


class Partitions(FixedPartitionedSource[SourceBatch, Any]):
    """Partitions that are built when a worker is given them. here: names of those that this process can read."""

    def __init__(self, build: Mapping[str, Build], here: Iterable[str] | None = None) -> None:
        self._build = dict(build)
        self._here = list(self._build if here is None else here)

    def __or__(self, others: Self) -> "Partitions":
        """These and others, as one source."""
        return Partitions(self._build | others._build, [*self._here, *others._here])

    def list_parts(self) -> list[str]:
        return self._here

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> SourcePartition:
        return self._build[for_part](resume_state)
