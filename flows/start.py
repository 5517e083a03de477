"""`tidegate run`: a flow in one process or several, with its signals and its health, up to the summary."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flows.connectors.sink import OnRecords
from flows.registry import load_flow
from flows.run import Control, RunOptions, run_counted
from flows.stopping import Drain
from flows.summary import summary
from schemas.errors import UsageError
from schemas.settings import Settings

log = logging.getLogger(__name__)
PORT_MAX = 65_535


def served(settings: Settings, control: Control, index: int = 0) -> AbstractContextManager[object]:
    """`/healthz` and its like while this is open, where a port is set: that of process `index`. Errors: UsageError."""
    if not settings.health_port:
        return nullcontext()
    from flows.health import Health  # a run that serves nothing needs none of it: 3 MB

    port = settings.health_port + index
    if port > PORT_MAX:
        raise UsageError(f"health_port + {index} is {port}, and ports end at {PORT_MAX}: set a lower health_port")
    return Health(settings, control.status, control.tally, lambda: control.texts, port=port)


def start(options: RunOptions, processes: int = 1, on_records: OnRecords | None = None) -> dict[str, Any]:
    """Run a flow until its source ends or a signal comes; gives the summary. Errors: as `run_flow`."""
    control = Control(on_records=on_records)
    with Drain(control.stop, options.settings.drain_limit_s) as drain, served(options.settings, control):
        control.drained = drain.done
        if processes > 1:
            from flows.cluster import run_together

            counts = run_together(options, processes, control)
        else:
            if options.member.addresses:
                from flows.cluster import end_with

                control.on_fault = end_with
            counts = run_counted(options, control)
    if control.stop.asked:
        log.warning(
            "ended as it was asked to: with the same --recovery the next run goes on from here"
            if options.recovery
            else "ended as it was asked to; without --recovery the rows of windows that had not closed are lost"
        )
    actions = load_flow(options.flow, options.settings).actions
    return summary(counts, actions, control.status.snapshot().outlets)
