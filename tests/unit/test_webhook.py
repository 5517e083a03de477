import hashlib
import hmac
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.connectors.outlets import Item, OutletDown, outlet
from flows.connectors.outlets.webhook import WebhookOutlet, signature
from flows.store.outbox import outlets
from schemas.settings import Settings
from tests.unit.outlet_fakes import WebServer, filled, follow, web_server

KEY = b"a key of twenty bytes"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as made:
        yield made


@pytest.fixture
def signing(tmp_path: Path) -> Settings:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    return Settings(
        outlet_webhook_key_file=str(tmp_path / "key"), outlet_timeout_s=1, outlet_retry_s=0.01, outlet_retry_max_s=0.02
    )


@pytest.fixture
def hook(server: WebServer, signing: Settings) -> Iterator[WebhookOutlet]:
    made = outlet(f"{server.address}/hook?site=1", signing, "token")
    assert isinstance(made, WebhookOutlet)
    yield made
    made.close()


def items(count: int) -> list[Item]:
    return [Item(n, "decision", f"id{n}", 0, b'{"n":%d}' % n, "00-aa-bb-01" if n == 1 else None) for n in range(count)]


def test_each_decision_is_posted_signed_under_a_key_of_its_own_over_one_connection(
    server: WebServer, hook: WebhookOutlet
) -> None:
    assert hook.send(items(3)) == []
    assert [request.body for request in server.requests] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
    assert {request.path for request in server.requests} == {"/hook?site=1"}
    assert len({request.connection for request in server.requests}) == 1
    assert [request.headers.get("traceparent") for request in server.requests] == [None, "00-aa-bb-01", None]
    for item, request in zip(items(3), server.requests, strict=True):
        assert request.headers["Content-Type"] == "application/json"
        assert request.headers["Idempotency-Key"] == f"{item.id}:0:{item.mark}"
        stamp, digest = (part[part.index("=") + 1 :] for part in request.headers["X-Tidegate-Signature"].split(","))
        assert abs(time.time() - int(stamp)) < 60
        assert digest == hmac.new(KEY, stamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()


def test_a_signature_is_the_same_in_every_release() -> None:
    assert signature(b"key", 1_700_000_000, b"{}") == (
        "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    )


@pytest.mark.parametrize("status", [500, 503, 429, 408, 401, 404])
def test_what_says_nothing_about_the_decision_is_tried_again_from_there(
    server: WebServer, hook: WebhookOutlet, status: int
) -> None:
    server.answers = [(200, {}), (status, {})]
    with pytest.raises(OutletDown, match=f"answers {status}") as caught:
        hook.send(items(3))
    assert (caught.value.done, caught.value.refusals) == (1, [])
    assert hook.send(items(3)[1:]) == []
    assert [request.body for request in server.requests[1:]] == [b'{"n":1}', b'{"n":1}', b'{"n":2}']


@pytest.mark.parametrize("status", [400, 409, 413, 422])
def test_a_refused_decision_is_given_back_and_the_next_is_sent(
    server: WebServer, hook: WebhookOutlet, status: int
) -> None:
    server.answers = [(200, {}), (status, {})]
    refusals = hook.send(items(3))
    assert [(refusal.item.n, refusal.why) for refusal in refusals] == [(1, f"{server.address} answers {status}")]
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7), ("0", 0), ("999999999999", 3600), ("soon", None), ("", None), ("Fri, 02 Jan 2026 00:00:30 GMT", 30)],
)
def test_retry_after_is_heeded_in_both_of_its_forms_and_within_reason(
    server: WebServer, hook: WebhookOutlet, said: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [(429, {"Retry-After": said})]
    monkeypatch.setattr(hook, "_now_s", lambda: 1_767_312_000.0)
    with pytest.raises(OutletDown) as caught:
        hook.send(items(1))
    assert caught.value.retry_after_s == seconds


def test_a_redirect_is_not_followed(server: WebServer, hook: WebhookOutlet) -> None:
    with web_server() as elsewhere:
        server.answers = [(307, {"Location": f"{elsewhere.address}/steal"})]
        with pytest.raises(OutletDown, match=r"a redirect to http.*/steal"):
            hook.send(items(1))
        assert elsewhere.requests == []


def test_a_server_that_does_not_answer_in_time_is_tried_again(server: WebServer, hook: WebhookOutlet) -> None:
    server.delay_s = 0.4
    hook._timeout_s = 0.1
    with pytest.raises(OutletDown, match="cannot be reached") as caught:
        hook.send(items(1))
    assert caught.value.done == 0


def test_nobody_there_is_a_reason_to_wait(signing: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with pytest.raises(OutletDown, match="refused"):
        outlet(address, signing, "t").send(items(1))


def test_a_connection_that_was_closed_while_idle_costs_nothing(server: WebServer, hook: WebhookOutlet) -> None:
    server.hang_up = True
    for item in items(3):
        hook.send([item])
        time.sleep(0.05)
    assert [request.body for request in server.requests] == [b'{"n":0}', b'{"n":1}', b'{"n":2}']


def test_a_server_that_speaks_something_else_is_tried_again(signing: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hook = outlet(f"https://127.0.0.1:{listener.getsockname()[1]}/x", signing, "t")
        assert isinstance(hook, WebhookOutlet)
        hook._timeout_s = 0.1
        with pytest.raises(OutletDown, match="cannot be reached"):  # TLS that nobody answers
            hook.send(items(1))


def test_a_store_reaches_a_server_that_is_ill_for_a_while(
    server: WebServer, hook: WebhookOutlet, signing: Settings, tmp_path: Path
) -> None:
    filled(tmp_path / "t.db", 6)
    server.answers = [(200, {}), (503, {}), (200, {}), (422, {}), (200, {}), (500, {})]
    follow(hook, tmp_path / "t.db", signing)
    keys = [request.headers["Idempotency-Key"] for request in server.requests]
    assert len(keys) == 8
    assert len(set(keys)) == 6
    state = outlets(tmp_path / "t.db")[0]
    assert (state.sent, state.refused, state.behind, state.failed) == (5, 1, 0, 2)
