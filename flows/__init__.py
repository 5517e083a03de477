"""Flows, connectors and the command: the only place with a wall clock, files and processes."""

import os

# Before anything imports polars: shards share the cores, not each small frame.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
# Before bytewax: an error of a source or sink is told in one sentence, not with the engine's own stack.
os.environ["RUST_BACKTRACE"] = "0"
