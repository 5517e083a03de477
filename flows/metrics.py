"""What a run counts as OpenTelemetry metrics, in the text form of Prometheus. The names are a promise to dashboards.

They are read when they are asked for: a run that nobody asks pays nothing. No label holds anything about a patient.
"""

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from flows.status import Snapshot, Status
from operators.adapters.tally import Tally

if TYPE_CHECKING:
    from flows.texts import ModelTexts

CONTENT_TYPE = CONTENT_TYPE_LATEST
Read = Callable[[], Iterable[Observation]]


class Metrics:
    """The metrics of one run. texts: its model, once there is one; ready: whether the run is."""

    def __init__(
        self, tally: Tally, status: Status, texts: "Callable[[], ModelTexts | None]", ready: Callable[[], bool]
    ) -> None:
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        reader = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=self._registry)
        self._provider = MeterProvider([reader], Resource.create({"service.name": "tidegate"}), shutdown_on_exit=False)
        meter = self._provider.get_meter("tidegate")
        _counted(meter, tally, texts)
        _seen(meter, status, ready)

    def text(self) -> bytes:
        """All metrics as they are now."""
        with self._lock:  # the reader hands its metrics over by a queue of its own
            return generate_latest(self._registry)

    def close(self) -> None:
        """No more is read."""
        self._provider.shutdown()


def _callback(read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda options: read()


def _counted(meter: Meter, tally: Tally, texts: "Callable[[], ModelTexts | None]") -> None:
    def counter(name: str, unit: str, help: str, read: Read) -> None:
        meter.create_observable_counter(f"tidegate.{name}", [_callback(read)], unit, help)

    def rows() -> Iterable[Observation]:
        # As they were judged on arrival: a counter never falls.
        found = dict(tally.rows)
        found["used"], found["late"] = found["used"] + tally.overtaken, found["late"] - tally.overtaken
        return [Observation(count, {"outcome": outcome}) for outcome, count in found.items()]

    def decisions() -> Iterable[Observation]:
        return [
            Observation(count, {"action": action, "revision": str(revision)})
            for (action, revision), count in dict(tally.committed).items()
        ]

    def calls() -> int:
        opened = texts()
        return opened.pool.calls if opened is not None and opened.pool is not None else 0

    counter("rows", "{row}", "Rows read, by what became of them on arrival.", rows)
    counter(
        "rows.overtaken",
        "{row}",
        "Rows used on arrival whose window an idle timeout had closed: late after all.",
        lambda: [Observation(tally.overtaken)],
    )
    counter(
        "rejects",
        "{row}",
        "Rows set aside as dead letters, by reason; late ones aside.",
        lambda: [Observation(count, {"reason": reason}) for reason, count in dict(tally.rejected).items()],
    )
    counter("windows", "{window}", "Windows closed.", lambda: [Observation(tally.windows)])
    counter("decisions", "{decision}", "Decisions committed to the store, revisions too.", decisions)
    counter("model.calls", "{call}", "Texts read by the model.", lambda: [Observation(calls())])
    counter("model.abstained", "{text}", "Texts that were not acted on.", lambda: [Observation(tally.abstained)])


def _seen(meter: Meter, status: Status, ready: Callable[[], bool]) -> None:
    def gauge(name: str, unit: str, help: str, read: Callable[[Snapshot], Iterable[Observation]]) -> None:
        meter.create_observable_gauge(f"tidegate.{name}", [_callback(lambda: read(status.snapshot()))], unit, help)

    def lags(seen: Snapshot) -> Iterable[Observation]:
        if not seen.live:
            return []
        found = ((partition, seen.lag_s(partition)) for partition in seen.marks)
        return [Observation(lag_s, {"partition": partition}) for partition, lag_s in found if lag_s is not None]

    def connected(seen: Snapshot) -> Iterable[Observation]:
        return [Observation(int(source.connected), {"source": name}) for name, source in seen.sources.items()]

    def behind(seen: Snapshot) -> Iterable[Observation]:
        return [Observation(outlet.behind, {"outlet": name}) for name, outlet in seen.outlets.items()]

    gauge("ready", "", "1 where /readyz says so.", lambda seen: [Observation(int(ready()))])
    gauge("watermark.lag", "s", "How far event time is behind the clock; live only.", lags)
    gauge("source.connected", "", "1 while the source can be reached.", connected)
    gauge("outlet.behind", "{item}", "Items that an outlet has still to send.", behind)
    meter.create_observable_counter(
        "tidegate.outlet.sent",
        [_callback(lambda: [Observation(o.sent, {"outlet": n}) for n, o in status.snapshot().outlets.items()])],
        "{item}",
        "Items that an outlet has sent.",
    )
    meter.create_observable_counter(
        "tidegate.outlet.failed",
        [_callback(lambda: [Observation(o.failed, {"outlet": n}) for n, o in status.snapshot().outlets.items()])],
        "{attempt}",
        "Attempts of an outlet that failed.",
    )
