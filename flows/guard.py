"""What a dataflow's parts raise, seen before Bytewax does: with several workers it keeps only that something failed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from flows.connectors.partitions import Partitions
from flows.connectors.sink import RecordSink
from flows.recovery import unreadable

L = TypeVar("L")
OnFault = Callable[[Exception], None]
_NO_SNAPSHOT = (ValueError, TypeError, LookupError, AssertionError, EOFError, pl.exceptions.PolarsError)
"""What is raised where a snapshot is of another version, or is none."""


class Guard:
    """Stands in front of what a dataflow calls.

    on_fault: is told of an error, and may end the process. begun: called by each worker when it begins, which in a
    cluster is once all processes have found each other. recovery: folder that snapshots come from.
    """

    def __init__(self, on_fault: OnFault | None, begun: Callable[[], None], recovery: Path | None) -> None:
        self._on_fault, self._begun, self._recovery = on_fault, begun, recovery

    def source(self, source: Partitions) -> None:
        """Watch a source, and its partitions once they are built."""
        self._watch(source, "list_parts", lambda _: self._begun())
        self._watch(source, "build_part", lambda part: self._watch(part, "next_batch"), self._resumed)

    def sink(self, sink: RecordSink) -> None:
        """Watch a sink, and its partitions once they are built."""
        self._watch(sink, "build_part", lambda part: self._watch(part, "write_batch"))

    def logic(self, build: Callable[[Any], L], snapshot: Any) -> L:
        """Build a stateful step, and watch it."""
        logic: L = self._call(partial(self._resumed, build), lambda logic: self._watch(logic, "on_batch"), snapshot)
        return logic

    def _watch(
        self,
        thing: Any,
        method: str,
        then: Callable[[Any], None] | None = None,
        around: Callable[..., Any] | None = None,
    ) -> None:
        called = getattr(thing, method)
        setattr(thing, method, partial(self._call, partial(around, called) if around else called, then))

    def _resumed(self, build: Callable[..., Any], *args: Any) -> Any:
        """Build from a snapshot, the last of `args`. Errors: UsageError for one that cannot be read."""
        try:
            return build(*args)
        except _NO_SNAPSHOT as error:
            if args[-1] is None or self._recovery is None:
                raise
            raise unreadable(self._recovery, error) from error

    def _call(self, method: Callable[..., Any], then: Callable[[Any], None] | None, *args: Any) -> Any:
        try:
            made = method(*args)
        except StopIteration:
            raise
        except Exception as error:
            if self._on_fault is not None:
                self._on_fault(error)
            raise
        if then is not None:
            then(made)
        return made
