"""The ways to read a topic that `tidegate bench kafka` times, each in a process of its own.

As a program: WAY SPEC, the fields of `Spec` as JSON. It writes what it took to `took-INDEX.json` in the spec's folder.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bytewax.operators as op
import polars as pl
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from flows.bench.kafka.load import PARTITIONS
from flows.bench.kafka.took import Spec, Took
from flows.bench.kafka.windows import run_windows
from flows.connectors.kafka.client import consumer_properties
from schemas.settings import Settings

BATCH = 10_000
WAIT_S = 1.0
SCHEMA = {"ts": pl.Int64, "device": pl.String, "value": pl.Float64}


def _properties(servers: str) -> dict[str, Any]:
    """As our own source has them; what it needs beside the messages is off."""
    return {**consumer_properties(servers, Settings()), "enable.partition.eof": False}


def _loop(spec: Spec, use: Callable[[list[Message]], object]) -> int:
    consumer = Consumer(_properties(spec.servers))
    consumer.assign([TopicPartition(spec.topic, number, 0) for number in range(PARTITIONS)])
    got = 0
    while got < spec.messages:
        messages = consumer.consume(BATCH, WAIT_S)
        got += len(messages)
        use(messages)
    consumer.close()
    return got


def bare(spec: Spec) -> int:
    """`consume(10000)`, and drop what it gives."""
    return _loop(spec, len)


def decoded(spec: Spec) -> int:
    """The same, and Polars' JSON decoder."""

    def decode(messages: list[Message]) -> None:
        if messages:
            pl.read_ndjson(b"\n".join(message.value() or b"" for message in messages), schema=SCHEMA)

    return _loop(spec, decode)


class _Count(StatelessSinkPartition[Any]):
    def __init__(self, sink: "_Null") -> None:
        self._sink = sink

    def write_batch(self, items: list[Any]) -> None:
        self._sink.got += len(items)


class _Null(DynamicSink[Any]):
    def __init__(self) -> None:
        self.got = 0

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Count:
        return _Count(self)


def bytewax(spec: Spec) -> int:
    """Bytewax's own source into a sink that drops all; it stops at the end of the topic."""
    tuned = {name: str(_properties(spec.servers)[name]) for name in ("fetch.queue.backoff.ms", "queued.min.messages")}
    source = KafkaSource(
        [spec.servers],
        [spec.topic],
        tail=False,
        starting_offset=OFFSET_BEGINNING,
        add_config=tuned,
        batch_size=BATCH,
    )
    sink = _Null()
    flow = Dataflow("bytewax")
    op.output("sink", op.input("source", flow, source), sink)
    run_main(flow)
    return sink.got


WAYS: dict[str, Callable[[Spec], int]] = {"bare": bare, "decoded": decoded, "bytewax": bytewax}


def main(way: str, spec: Spec) -> None:
    """Run one way, and write what it took."""
    if spec.cores:
        os.sched_setaffinity(0, set(spec.cores))
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    if way == "windows":
        ran = run_windows(spec)
        flow_s, rss = ran.flow_s, ran.rss
        got = ran.rows
    else:
        got, flow_s, rss = WAYS[way](spec), 0.0, []
    took = Took(got, time.perf_counter() - wall_s, time.process_time() - cpu_s, flow_s, rss)
    (Path(spec.folder) / f"took-{spec.index}.json").write_text(json.dumps(asdict(took)))


if __name__ == "__main__":
    main(sys.argv[1], Spec(**json.loads(sys.argv[2])))
