"""Topics as a source: a Bytewax partition for each of theirs, read in batches, resumed from Bytewax's recovery state.

A partition begins at its oldest message, or where its snapshot says. Offsets are committed to the broker every few
seconds, to be looked at; nothing is ever read from there. Live, it never ends; with `until_end` it stops at the end
offset that it had at the start.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path

from flows.connectors.judge import Opened, codec_of, intake_of, now_us
from flows.connectors.kafka.client import Address, Cluster, Found, consumer_properties, parse_address
from flows.connectors.kafka.formats import format_of
from flows.connectors.kafka.partition import KafkaPartition, Part, Surroundings
from flows.connectors.kafka.watch import Watch
from flows.connectors.partitions import Partitions
from flows.connectors.replay import MAPPINGS, ReplaySource, accepted_partitions
from flows.status import Status
from operators.adapters.tally import Tally
from operators.columnar.mapping import Mapping as ColumnMapping
from operators.domain import Domain
from schemas.settings import Settings


class _Halt(threading.Event):
    """Set when the run is stopped, and when the flow has to be started again."""

    def __init__(self, stop: threading.Event, watch: Watch) -> None:
        super().__init__()
        self._stop, self._watch = stop, watch

    def is_set(self) -> bool:
        return self._stop.is_set() or self._watch.changed is not None


def kafka_source(
    domain: Domain,
    address: str,
    settings: Settings,
    store: Path,
    tally: Tally,
    status: Status,
    stop: threading.Event,
    *,
    mapping: str | None = None,
    until_end: bool = False,
    resumable: bool = True,
    traced: bool = False,
    here: bool = True,
    clock_us: Callable[[], int] = now_us,
) -> Opened:
    """`kafka://HOST:PORT[,HOST:PORT]?STREAM=TOPIC&...[&format=json|arrow|avro][&STREAM.format=...]`.

    until_end: stop at the end offsets found now. resumable: there is a recovery store; only then the flow is started
    again for new partitions. traced: collect links to sampled messages. here: what people accepted is read by this
    process. clock_us: when rows arrive, live.

    Errors: SourceLost where nobody answers; UsageError where a topic is not there, or a setting is wrong.
    """
    parsed = parse_address(address, [stream.name for stream in domain.streams])
    columns = ColumnMapping.load(mapping, MAPPINGS) if mapping else None
    cluster = Cluster(parsed.servers, settings)
    try:
        found = cluster.wait([topic.name for topic in parsed.topics], settings.kafka_start_s)
        parts = list(_parts(domain, parsed, cluster, found, settings, columns, until_end))
    except BaseException:
        cluster.close()
        raise
    streams, live = {topic.name: topic.stream for topic in parsed.topics}, not until_end
    on_new = resumable and live
    watch = Watch(cluster, found, streams, status, every_s=settings.kafka_watch_s, on_new=on_new, clock_us=clock_us)
    halt = _Halt(stop, watch)
    around = Surroundings(
        properties=consumer_properties(parsed.servers, settings),
        servers=parsed.servers,
        tally=tally,
        status=status,
        watch=watch,
        stop=halt,
        rows_max=settings.batch_rows_max,
        poll=timedelta(milliseconds=settings.kafka_poll_ms),
        resumable=resumable,
        traced=traced,
        clock_us=clock_us,
    )
    accepted = accepted_partitions(domain, store, settings, live=live)
    replay = partial(ReplaySource, accepted, settings, tally, speed=0, live=live, resumable=resumable)
    others = replay(stop=halt, status=status, here=here, clock_us=clock_us)
    names = [(part.name, part.stream.name) for part in parts]
    names += [(partition.name, partition.stream.name) for partition in accepted]
    watch.start()
    source = Partitions({part.name: partial(KafkaPartition, part, around) for part in parts}) | others
    return Opened(source, names, changed=lambda: watch.changed, close=watch.close)


def _parts(
    domain: Domain,
    address: Address,
    cluster: Cluster,
    found: Mapping[str, Found],
    settings: Settings,
    mapping: ColumnMapping | None,
    until_end: bool,
) -> Iterator[Part]:
    ends = cluster.ends({name: topic.partitions for name, topic in found.items()}, settings.kafka_start_s)
    for topic in address.topics:
        stream = domain.stream(topic.stream)
        codec = codec_of(stream, settings, mapping)
        intake = intake_of(domain, stream, settings, mapping, live=not until_end)
        format_of(topic, settings)  # said now, what is wrong with it
        for number in range(found[topic.name].partitions):
            first, last = ends[topic.name, number]
            yield Part(
                name=f"{topic.stream}/{number}",
                topic=topic.name,
                number=number,
                topic_id=found[topic.name].id,
                stream=stream,
                codec=codec,
                intake=intake,
                form=partial(format_of, topic, settings),
                first=first,
                last=last,
                end=last if until_end else None,
            )
