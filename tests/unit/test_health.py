import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.health import Health
from flows.run import Control
from flows.start import served
from flows.status import Status
from operators.adapters.tally import Tally
from schemas.errors import UsageError
from schemas.settings import Settings

NAMES = {
    "tidegate_rows": {"outcome"},
    "tidegate_rows_overtaken": set(),
    "tidegate_rejects": {"reason"},
    "tidegate_windows": set(),
    "tidegate_decisions": {"action", "revision"},
    "tidegate_model_calls": set(),
    "tidegate_model_abstained": set(),
    "tidegate_ready": set(),
    "tidegate_watermark_lag_seconds": {"partition"},
    "tidegate_source_connected": {"source"},
    "tidegate_outlet_behind": {"outlet"},
    "tidegate_outlet_sent": {"outlet"},
    "tidegate_outlet_failed": {"outlet"},
}
"""Every metric and its labels: dashboards rely on them, and none of them can hold a patient."""


@pytest.fixture
def health() -> Iterator[Health]:
    with Health(Settings(), Status(), Tally(), port=0) as opened:
        yield opened


def get(health: Health, path: str, method: str = "GET") -> tuple[int, str, str]:
    """Status, content type and body of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{health.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_a_process_that_answers_is_healthy_ready_or_not(health: Health) -> None:
    assert get(health, "/healthz")[::2] == (200, "ok\n")
    assert get(health, "/readyz")[::2] == (503, "the flow is starting\n")


def test_ready_says_yes_or_why_not_a_line_each() -> None:
    status = Status()
    with Health(Settings(outlet_behind_max=10), status, Tally(), port=0) as health:
        status.phase("running", live=True)
        assert get(health, "/readyz?verbose")[::2] == (200, "ready\n")
        assert get(health, "/readyz", "HEAD")[::2] == (200, "")
        status.source("kafka", False, "connection refused")
        status.outlet("webhook", 11, 0, 3)
        code, kind, body = get(health, "/readyz")
        assert (code, kind) == (503, "text/plain; charset=utf-8")
        assert body == (
            "the source kafka cannot be reached for 0 s: connection refused\n"
            "the outlet webhook is 11 items behind, more than outlet_behind_max = 10\n"
        )


def test_an_unknown_path_is_not_found_and_says_what_there_is(health: Health) -> None:
    assert get(health, "/")[::2] == (404, "there are /healthz, /readyz and /metrics\n")


def test_metrics_are_those_of_the_table_with_what_was_counted() -> None:
    status, tally = Status(), Tally()
    tally.admitted(used=90, duplicate=4, rejected={"late": 3, "future": 2, "not_json": 1})
    tally.late_after_all(5)
    tally.closed(7)
    tally.stored({("none", 0): 5, ("urgent", 1): 2})
    status.phase("running", live=True)
    status.source("kafka", True)
    status.watermark("vitals/0", int((time.time() - 12) * 1e6))
    status.outlet("parquet", behind=3, sent=4, failed=1)
    with Health(Settings(), status, tally, port=0) as health:
        code, kind, body = get(health, "/metrics")
        assert code == 200
        assert kind.startswith("text/plain; version=")
        found = {
            family.name: {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}
            for family in text_string_to_metric_families(body)
            if family.name.startswith("tidegate")
        }
        assert {name: {label for labels in rows for label, _ in labels} for name, rows in found.items()} == NAMES
        # As they were judged on arrival: the five that were overtaken were used.
        assert found["tidegate_rows"] == {
            (("outcome", "used"),): 90,
            (("outcome", "late"),): 3,
            (("outcome", "rejected"),): 3,
            (("outcome", "duplicate"),): 4,
        }
        assert found["tidegate_rows_overtaken"] == {(): 5}
        assert found["tidegate_rejects"] == {(("reason", "future"),): 2, (("reason", "not_json"),): 1}
        assert found["tidegate_decisions"] == {
            (("action", "none"), ("revision", "0")): 5,
            (("action", "urgent"), ("revision", "1")): 2,
        }
        assert found["tidegate_windows"] == {(): 7}
        assert 11 < found["tidegate_watermark_lag_seconds"][("partition", "vitals/0"),] < 60
        assert found["tidegate_source_connected"] == {(("source", "kafka"),): 1}
        assert found["tidegate_outlet_behind"] == {(("outlet", "parquet"),): 3}
        assert found["tidegate_outlet_sent"] == {(("outlet", "parquet"),): 4}
        assert found["tidegate_ready"] == {(): 1}
        assert re.search(r"^process_resident_memory_bytes [1-9]", body, re.MULTILINE)
        tally.closed(1)
        assert "tidegate_windows_total 8.0" in get(health, "/metrics")[2], "they are read when they are asked for"


def test_only_this_machine_is_answered_unless_told_otherwise(health: Health) -> None:
    assert health.host == "127.0.0.1"
    with Health(Settings(health_host="::1"), Status(), Tally(), port=0) as other:
        assert other.host == "::1"


def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} cannot be used .* set health_port or health_host"):
            served(Settings(health_port=port), Control())
    with pytest.raises(UsageError, match=r"health_port \+ 1 is 65536, and ports end at 65535"):
        served(Settings(health_port=65_535), Control(), 1)


def test_nothing_is_served_unless_a_port_is_set() -> None:
    with served(Settings(), Control()) as nothing:
        assert nothing is None
