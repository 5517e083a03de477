"""Where a run reads from, by its address: a folder, Kafka or MQTT."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.connectors.judge import Opened
from flows.connectors.replay import Partition, ReplaySource, replay_partitions
from operators.domain import Domain
from schemas.errors import UsageError

if TYPE_CHECKING:
    from flows.run import Control, RunOptions

KAFKA, MQTT, MQTTS = "kafka", "mqtt", "mqtts"


def is_live(options: "RunOptions") -> bool:
    """Whether rows come as they happen."""
    scheme = options.source.partition("://")[0]
    return scheme in (MQTT, MQTTS) or (scheme == KAFKA and not options.until_end) or options.follow


def open_source(domain: Domain, options: "RunOptions", store: Path, control: "Control") -> Opened:
    """The source that the run was told. Errors: UsageError where it cannot be read; SourceLost."""
    scheme, is_address, _ = options.source.partition("://")
    if not is_address:
        partitions = replay_partitions(
            domain, options.source, options.mapping, store, options.settings, live=options.follow
        )
        return open_files(partitions, options, control)
    if scheme not in (KAFKA, MQTT, MQTTS):
        raise UsageError(
            f"the source {options.source} is of no known kind: give a folder, or an address that begins with "
            f"{KAFKA}://, {MQTT}:// or {MQTTS}://"
        )
    if options.speed or options.follow:
        raise UsageError(f"--speed and --follow are for folders: leave them out for {options.source}")
    return (_open_kafka if scheme == KAFKA else _open_mqtt)(domain, options, store, control)


def open_files(partitions: Sequence[Partition], options: "RunOptions", control: "Control") -> Opened:
    """Recorded or followed files. Errors: UsageError where one cannot be read."""
    member = options.member
    # One clock paces all files; and other machines do not have them.
    here = not member.index or (member.one_machine and not options.speed)
    for partition in partitions if here else ():
        partition.open(0).close()
    source = ReplaySource(
        partitions,
        options.settings,
        control.tally,
        speed=options.speed,
        live=options.follow,
        resumable=options.recovery is not None,
        stop=control.stop.event,
        status=control.status,
        here=here,
    )
    return Opened(source, [(partition.name, partition.stream.name) for partition in partitions])


def _open_kafka(domain: Domain, options: "RunOptions", store: Path, control: "Control") -> Opened:
    from flows.connectors.kafka import kafka_source  # a client that a run from files has no use for

    member = options.member
    return kafka_source(
        domain,
        options.source,
        options.settings,
        store,
        control.tally,
        control.status,
        control.stop.event,
        mapping=options.mapping,
        until_end=options.until_end,
        resumable=options.recovery is not None,
        traced=bool(options.settings.trace_ratio),
        here=member.one_machine or not member.index,
        clock_us=control.clock_us,
    )


def _open_mqtt(domain: Domain, options: "RunOptions", store: Path, control: "Control") -> Opened:
    from flows.connectors.mqtt.source import mqtt_source

    if options.until_end:
        raise UsageError(f"MQTT has no end that could be reached: leave out --until-end for {options.source}")
    if options.mapping:
        raise UsageError(f"--mapping is for folders and Kafka: here the address maps topics, {options.source}")
    member = options.member
    return mqtt_source(
        domain,
        options.source,
        options.settings,
        store,
        control.tally,
        control.status,
        control.stop.event,
        recovery=options.recovery,
        machine=(0, 1) if member.one_machine else (member.index, len(member.addresses)),
    )
