"""Quix Streams over the same messages, where it is installed: tumbling windows of 10 s, five aggregates.

Its best case: no changelog topics, no lateness. It runs in a process of its own: SERVERS TOPIC MESSAGES FOLDER. The
seconds are from the first message to the last one, so that its start does not count.
"""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.bench.windows import WINDOW_US

AGGREGATES = ("count", "sum", "mean", "min", "max")


def run(servers: str, topic: str, messages: int, folder: Path) -> None:
    """Read so many messages; what it took goes to `quix.json`, answers as JSON lines to `quix.jsonl`."""
    from quixstreams import Application  # only in this process
    from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

    app = Application(
        broker_address=servers,
        consumer_group="quix",
        auto_offset_reset="earliest",
        state_dir=str(folder / "quix-state"),
        use_changelog_topics=False,
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        loglevel="ERROR",
    )
    source = app.topic(
        topic,
        key_deserializer="str",
        value_deserializer="json",
        timestamp_extractor=lambda value, headers, timestamp, kind: value["ts"] // 1000,
    )
    seen: list[tuple[float, float]] = []
    answers: list[dict[str, Any]] = []

    def count(value: Any) -> None:
        seen.append((time.perf_counter(), time.process_time()))
        if len(seen) == messages:
            app.stop()

    def keep(value: Any, key: Any, timestamp: Any, headers: Any) -> None:
        answers.append({"device": key, "start_us": value["start"] * 1000, **{name: value[name] for name in AGGREGATES}})

    table = app.dataframe(source).update(count)
    windows = table.tumbling_window(timedelta(microseconds=WINDOW_US)).agg(
        count=Count(), sum=Sum("value"), mean=Mean("value"), min=Min("value"), max=Max("value")
    )
    windows.final().update(keep, metadata=True)
    app.run()
    wall_s, cpu_s = (last - first for first, last in zip(seen[0], seen[-1], strict=True))
    took = {"wall_s": wall_s, "cpu_s": cpu_s, "messages": len(seen)}
    (folder / "quix.json").write_text(json.dumps(took))
    (folder / "quix.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))


if __name__ == "__main__":
    _, brokers, topic_name, wanted, place = sys.argv
    run(brokers, topic_name, int(wanted), Path(place))
