"""What a dataflow's parts raise, seen before Bytewax does: with several workers it keeps only that something failed."""

from collections.abc import Callable
from functools import partial
from typing import Any

from bytewax.inputs import Source
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import Sink

OnFault = Callable[[Exception], None]


class Guard:
    """Stands in front of what a dataflow calls.

    on_fault: is told of an error, and may end the process. begun: called by each worker when it begins, which in a
    cluster is once all processes have found each other.
    """

    def __init__(self, on_fault: OnFault | None, begun: Callable[[], None]) -> None:
        self._on_fault, self._begun = on_fault, begun

    def source(self, source: Source[Any]) -> None:
        """Watch a source, and its partitions once they are built."""
        self._watch(source, "list_parts", lambda _: self._begun())
        self._watch(source, "build_part", lambda part: self._watch(part, "next_batch"))

    def sink(self, sink: Sink[Any]) -> None:
        """Watch a sink, and its partitions once they are built."""
        self._watch(sink, "build_part", lambda part: self._watch(part, "write_batch"))

    def logic(self, logic: StatefulBatchLogic[Any, Any, Any]) -> None:
        """Watch a stateful step."""
        self._watch(logic, "on_batch")

    def _watch(self, thing: Any, method: str, then: Callable[[Any], None] | None = None) -> None:
        setattr(thing, method, partial(self._call, getattr(thing, method), then))

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
