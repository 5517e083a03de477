"""`python -m flows.member HANDLE`: another process than the first of a flow; `flows.cluster` starts it."""

import logging
import os
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from flows.cluster import Done, failure
from flows.run import Control, RunOptions, run_counted
from flows.start import served
from flows.stopping import Drain


def run_member(link: "Connection[Any, Any]") -> None:
    """Run what comes by the link, and give the counts back by it. When the first process is gone, this one ends."""
    options: RunOptions = link.recv()
    control = Control()

    def failed(error: Exception) -> None:
        said = failure(error)
        with suppress(OSError):  # the first one is gone: nobody is there to tell
            link.send(said)
        os._exit(said.exit_code)

    control.on_fault = failed
    try:
        with (
            Drain(control.stop, options.settings.drain_limit_s) as drain,
            served(options.settings, control, options.member.index),
        ):
            threading.Thread(target=_obey, args=[link, drain], name="link", daemon=True).start()
            counts = run_counted(options, control)
            drain.done()
            link.send(Done(counts, control.stop.changed))
    except Exception as error:
        failed(error)


def _obey(link: "Connection[Any, Any]", drain: Drain) -> None:
    try:
        link.recv()
    except (EOFError, OSError):
        os._exit(1)  # the first one is gone, and the store with it: there is nothing to drain into
    drain.begin()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    run_member(Connection(int(sys.argv[1])))
