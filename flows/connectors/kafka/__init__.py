"""Kafka as a source: `kafka_source` reads topics, a Bytewax partition for each of theirs."""

from flows.connectors.kafka.source import kafka_source

__all__ = ["kafka_source"]
