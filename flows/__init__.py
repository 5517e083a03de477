"""Flows, connectors and the command: the only place with a wall clock, files and processes."""

import os
import sys

# Before anything imports polars: shards share the cores, not each small frame.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
if any(argument.startswith(("--speed", "--follow")) for argument in sys.argv[1:]):
    # At a pace there is time: what Polars frees goes back at once instead of within ten seconds, 10 MB most of the
    # time. At full speed it would cost a tenth of the throughput, and Polars reads this only while it is loaded.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
# Before bytewax: an error of a source or sink is told in one sentence, not with the engine's own stack.
os.environ["RUST_BACKTRACE"] = "0"
