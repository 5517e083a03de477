"""Real brokers, started once for all tests of this folder, and skipped with the reason where they cannot be."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.brokers.certificates import Certificates, make_certificates
from tests.brokers.kafka import Cluster, missing
from tests.brokers.mosquitto import PASSWORD, USER, Mosquitto
from tests.brokers.mosquitto import missing as missing_mosquitto

_number = count()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A throw-away certificate authority."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def _needs_kafka() -> None:
    lacking = missing()
    if lacking:
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Cluster]:
    """One broker with every listener, shared by all tests: make topics of your own, do not stop it."""
    _needs_kafka()
    with Cluster(tmp_path_factory.mktemp("kafka"), certificates=certificates) as cluster:
        yield cluster


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Cluster]:
    """One broker for one test that stops, kills or wipes it."""
    _needs_kafka()
    with Cluster(tmp_path / "kafka") as cluster:
        yield cluster


@pytest.fixture
def three_kafkas(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of three brokers for one test."""
    _needs_kafka()
    with Cluster(tmp_path / "kafka", nodes=3) as cluster:
        yield cluster


@pytest.fixture
def topic() -> str:
    """A topic name that no other test uses."""
    return f"ward.vitals.{next(_number)}"


def _needs_mosquitto() -> None:
    lacking = missing_mosquitto()
    if lacking:
        pytest.skip(lacking)


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """An MQTT broker shared by all tests: use topics and client ids of your own, do not stop it."""
    _needs_mosquitto()
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture(scope="session")
def guarded_mosquitto(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Mosquitto]:
    """An MQTT broker with TLS on a port of its own, which lets in USER only."""
    _needs_mosquitto()
    with Mosquitto(tmp_path_factory.mktemp("guarded"), certificates, {USER: PASSWORD}) as broker:
        yield broker


@pytest.fixture
def own_mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """An MQTT broker for one test that stops it."""
    _needs_mosquitto()
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker
