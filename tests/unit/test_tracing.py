"""Tracing, over a whole small flow: one trace from a message to its published decision, and nothing it must not say."""

import hmac
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from flows.connectors.outlets import Item, OutletDown
from flows.connectors.outlets.follower import Follower
from flows.store import decisions
from flows.tracing import names, sampled, traced
from flows.tracing.addresses import place
from flows.tracing.spans import context_of, key_of, traceparent_of
from operators.adapters.messages import SourceBatch, Timing
from operators.columnar.checks import NO_REJECTS, REJECTS
from schemas.errors import UsageError
from schemas.settings import Settings
from tests.unit.outlet_fakes import QUICK, FakeOutlet, Heard, filled
from tests.unit.traced_flow import KEY, KEYS, NOTE, Memory, input_folder, memory, run, traceparent

OURS = {"tidegate.step"}
MESSAGING = {
    "messaging.system",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.destination.name",
}
PLACE = {
    "messaging.destination.template",
    "messaging.destination.partition.id",
    "server.address",
    "server.port",
    "error.type",
}
WINDOW = {"tidegate.flow", "tidegate.key", "tidegate.window.start", "tidegate.window.end"}
ROWS = {"tidegate.rows.used", "tidegate.rows.refused", "tidegate.rows.late"}
COUNT = "messaging.batch.message_count"
# step: OpenTelemetry's kinds, schema, required, optional, name
FROZEN: dict[str, tuple[set[str], str, set[str], set[str]]] = {
    "poll": ({"CLIENT"}, "1.44.0", OURS | MESSAGING | {COUNT}, PLACE),
    "process": ({"CONSUMER"}, "1.44.0", OURS | MESSAGING | {COUNT} | ROWS, PLACE | {"tidegate.watermark.lag_ms"}),
    "window": ({"INTERNAL"}, "1.44.0", OURS | WINDOW | {"tidegate.window.rows"}, set()),
    "gate": (
        {"INTERNAL"},
        "1.44.0",
        OURS | WINDOW | {"tidegate.decision.id", "tidegate.decision.revision", "tidegate.gate.action"},
        set(),
    ),
    "read": (
        {"INTERNAL"},
        "gen-ai/1.42.0",
        OURS | {"gen_ai.operation.name", "gen_ai.provider.name"},
        {
            "gen_ai.request.model",
            "gen_ai.input.messages",
            "tidegate.model.sha256",
            "tidegate.reading.labels",
            "tidegate.reading.abstain",
            "error.type",
        },
    ),
    "commit": ({"CLIENT"}, "1.44.0", OURS | MESSAGING | {COUNT, "tidegate.flow"}, {"error.type"}),
    "send": ({"PRODUCER", "CLIENT"}, "1.44.0", OURS | MESSAGING | {"tidegate.decision.revision"}, PLACE),
}
OPERATIONS = {"poll": "receive", "process": "process", "commit": "settle", "send": "send"}


def held_to_the_table(spans: list[dict[str, Any]]) -> set[str]:
    """Every span is in the table, with all that it must have and nothing else; gives the steps that there were."""
    for span in spans:
        about = span["attributes"]
        step = about["tidegate.step"]
        kinds, schema, required, optional = FROZEN[step]
        assert span["kind"] in kinds, span["name"]
        assert span["schema_url"] == f"https://opentelemetry.io/schemas/{schema}"
        assert required <= set(about) <= required | optional, span["name"]
        if step in OPERATIONS:
            assert about["messaging.operation.type"] == OPERATIONS[step]
            assert span["name"] == f"{about['messaging.operation.name']} {about['messaging.destination.name']}"
    return {span["attributes"]["tidegate.step"] for span in spans}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return input_folder(tmp_path / "in")


def publish(store: Path, traced_by: Memory, address: str, outlet: FakeOutlet) -> list[Item]:
    follower = Follower(outlet, store, QUICK, Heard(), tracing=traced_by.tracing.sender(address))
    follower.start()
    follower.finish()
    follower.join(5)
    return outlet.items


def test_the_table_of_spans_is_the_one_that_was_agreed() -> None:
    table = {
        step: (
            set(kind.kinds),
            kind.schema.removeprefix("https://opentelemetry.io/schemas/"),
            kind.required,
            kind.optional,
        )
        for step, kind in names.KINDS.items()
    }
    assert table == FROZEN


def test_no_other_module_knows_a_name() -> None:
    root = Path(names.__file__).parents[2]
    known = [path for package in ("flows", "operators", "schemas", "models") for path in (root / package).rglob("*.py")]
    for prefix in ("messaging.", "gen_ai.", "tidegate.step", "tidegate.decision"):
        knowing = {path.name for path in known if f'"{prefix}' in path.read_text("utf-8")}
        assert knowing == {"names.py"}, prefix


def test_one_trace_leads_from_a_message_to_the_published_decision(folder: Path, tmp_path: Path) -> None:
    found = memory(1e-9)
    run(folder, tmp_path / "t.db", found.tracing, {20: traceparent(7), 24: traceparent(8), 1: traceparent(9)})
    items = publish(tmp_path / "t.db", found, "kafka://broker:9092?decisions=out", FakeOutlet())
    spans = found.spans()
    assert held_to_the_table(spans) == set(FROZEN) - {"read"}
    hers = [span for span in spans if int(span["trace_id"], 16) == 7]
    by_id = {span["span_id"]: span for span in hers}
    steps = [
        (span["attributes"]["tidegate.step"], span["attributes"].get("tidegate.decision.revision")) for span in hers
    ]
    assert sorted(steps, key=str) == sorted([("window", None), ("gate", 0), ("commit", None), ("send", 0)], key=str)
    for span in hers:
        while span["parent_id"] in by_id:
            span = by_id[span["parent_id"]]
        assert int(span["parent_id"], 16) == 7, "the produced message is the root of all of it"
    gate = next(span for span in hers if span["name"] == "gate test")
    assert [int(link["trace_id"], 16) for link in gate["links"]] == [8], "the other message of her window is linked"
    batches = [span for span in spans if span["attributes"]["tidegate.step"] in ("poll", "process") and span["links"]]
    linked = {int(link["trace_id"], 16) for span in batches for link in span["links"]}
    assert linked == {7, 8, 9}
    assert not {int(span["trace_id"], 16) for span in batches} & linked, "a batch parents no message"
    (sent,) = (item for item in items if item.traceparent and context_of(item.traceparent).trace_id == 7)
    send = by_id[f"{context_of(sent.traceparent or '').span_id:016x}"]
    assert (send["name"], send["kind"]) == ("send out", "PRODUCER")
    assert by_id[send["parent_id"]]["name"] == "gate test"
    assert sum(item.traceparent is not None for item in items) == 2
    assert all(span["start_ns"] <= span["end_ns"] for span in spans)


def test_a_text_that_is_read_is_a_span_under_the_gate_of_its_revision(folder: Path, tmp_path: Path) -> None:
    found = memory(1e-9)
    run(folder, tmp_path / "t.db", found.tracing, {0: traceparent(7)})
    hers = [span for span in found.spans() if int(span["trace_id"], 16) == 7]
    assert held_to_the_table(hers) == {"window", "gate", "read", "commit"}
    (read,) = (span for span in hers if span["name"] == "classify tiny")
    (gate,) = (span for span in hers if span["span_id"] == read["parent_id"])
    assert gate["attributes"]["tidegate.decision.revision"] == 1
    assert gate["start_ns"] == read["start_ns"]
    assert read["attributes"]["gen_ai.provider.name"] == "onnxruntime"
    assert "gen_ai.input.messages" not in read["attributes"]
    assert [span["name"] for span in hers].count("window test") == 1


def test_without_a_sampled_message_a_share_of_the_decisions_begin_a_trace(folder: Path, tmp_path: Path) -> None:
    found = memory(1.0)
    records = run(folder, tmp_path / "t.db", found.tracing)
    spans = found.spans()
    gates = [span for span in spans if span["name"] == "gate test"]
    assert len(gates) == len(records)
    roots = [gate for gate in gates if gate["parent_id"] is None]
    assert (
        len({root["trace_id"] for root in roots}) == len(roots) == len({orjson.loads(each)["id"] for each in records})
    )
    revised = [gate for gate in gates if gate["attributes"]["tidegate.decision.revision"]]
    assert all(gate["parent_id"] in {root["span_id"] for root in roots} for gate in revised)
    few = memory(0.01)
    row = {"key": "a", "start_us": 0, "end_us": 1, "rows": 1}
    chosen = sum(few.tracing.decision(row, None, 0, 0) is not None for _ in range(20_000))
    assert 100 < chosen < 320


def test_traced_and_untraced_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    links = {at: traceparent(at + 1) for at in range(60)}
    plain = run(folder, tmp_path / "plain.db", None)
    assert plain == run(folder, tmp_path / "all.db", memory(1.0).tracing, links)
    assert plain == run(folder, tmp_path / "some.db", memory(0.5).tracing, {3: traceparent(1, "00"), 4: "nonsense"})
    assert len(plain) > 6


def test_no_span_names_a_patient_a_decision_or_a_text(folder: Path, tmp_path: Path) -> None:
    found = memory(1.0)
    run(folder, tmp_path / "t.db", found.tracing)
    publish(tmp_path / "t.db", found, "stdout:", FakeOutlet())
    said = orjson.dumps(found.spans()).decode()
    for hidden in (*KEYS, *(record["id"] for record in decisions(tmp_path / "t.db"))):
        assert hidden not in said
    texts = memory(1.0, texts=True)
    run(folder, tmp_path / "u.db", texts.tracing)
    (read,) = (span for span in texts.spans() if span["name"] == "classify tiny")
    assert orjson.loads(read["attributes"]["gen_ai.input.messages"])[0]["parts"][0]["content"] == NOTE


def test_identifiers_are_hashed_with_a_key_from_a_file_or_one_of_the_process(tmp_path: Path) -> None:
    row = {"key": "p-1", "start_us": 0, "end_us": 1, "rows": 1}
    ours, same, other = (memory(1.0, key).tracing for key in (KEY, KEY, b"x" * 32))
    hashes = [each.hashed("p-1") for each in (ours, same, other)]  # type: ignore[attr-defined]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] == hmac.new(KEY, b"p-1", "sha256").hexdigest()[:32]
    assert ours.decision(row, None, 0, 0) is not None
    (tmp_path / "key").write_bytes(b"0123456789abcdef\n")
    assert key_of(str(tmp_path / "key")) == b"0123456789abcdef"
    assert key_of("") != key_of("")
    (tmp_path / "short").write_bytes(b"short")
    with pytest.raises(UsageError, match="trace_key_file"):
        key_of(str(tmp_path / "short"))


def test_a_batch_is_traced_where_it_has_sampled_messages_and_links_sixteen_at_most() -> None:
    found = memory(1e-9, source="kafka://broker:9092?vitals=ward.vitals")
    rows = pl.DataFrame({"offset": range(40), "key": ["a"] * 40})
    rejects = pl.DataFrame(
        {"offset": [40, 41], "reason": ["late", "not_json"], "detail": ["", ""], "raw": [b"", b""]}, schema=REJECTS
    )
    links = tuple(traceparent(number) for number in range(1, 21))
    now_us = 1_800_000_000_000_000
    batch = SourceBatch("vitals/3", "vitals", rows, rejects, now_us - 5_000, now_us, False, 30, {}, links)
    for each in (batch, SourceBatch("vitals/3", "vitals", rows, NO_REJECTS, 0, None, False, 30)):
        found.tracing.batch(each)
    assert found.spans() == [], "nobody noted when it came about, or nothing in it was sampled"
    found.tracing.batch(replace(batch, timing=Timing(10, 20, 30)))
    poll, process = sorted(found.spans(), key=lambda span: span["start_ns"])
    assert held_to_the_table([poll, process]) == {"poll", "process"}
    assert (poll["name"], process["name"]) == ("poll ward.vitals", "process ward.vitals")
    assert process["parent_id"] == poll["span_id"]
    assert len(poll["links"]) == len(process["links"]) == 16
    about = process["attributes"]
    assert about["messaging.system"] == "kafka"
    assert (about["server.address"], about["server.port"]) == ("broker", 9092)
    assert about["messaging.destination.partition.id"] == "3"
    assert [about[f"tidegate.rows.{name}"] for name in ("used", "refused", "late")] == [40, 1, 1]
    assert about["tidegate.watermark.lag_ms"] == 5
    assert process["end_ns"] - poll["start_ns"] == 20


def test_a_failed_sending_is_marked_and_the_next_attempt_is_a_span_of_its_own(tmp_path: Path) -> None:
    found, outlet = memory(1.0), FakeOutlet(failures=[OutletDown("no route", done=1)])
    items = [Item(n, "decision", f"d{n}", 0, b"{}", traceparent(5)) for n in range(2)]
    sender = found.tracing.sender("mqtt://h:1883?decisions=ward/out")
    with pytest.raises(OutletDown), sender.sending(items) as handed:
        outlet.send(handed)
    with sender.sending(items[1:]) as handed:
        outlet.send(handed)
    first, failed, again = found.spans()
    assert [span["status"] for span in (first, failed, again)] == ["UNSET", "ERROR", "UNSET"]
    assert failed["attributes"]["error.type"] == "OutletDown"
    assert held_to_the_table([first, failed, again]) == {"send"}
    untraced = [Item(1, "decision", "d", 0, b"{}")]
    with sender.sending(untraced) as handed:
        assert handed is untraced
    filled(tmp_path / "t.db", 2)
    assert [item.traceparent for item in publish(tmp_path / "t.db", found, "stdout:", FakeOutlet())] == [None, None]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (traceparent(1), True),
        (traceparent(1).encode(), True),
        (traceparent(1, "03"), True),
        (traceparent(1, "00"), False),
        (traceparent(0), False),
        (None, False),
        ("", False),
        (traceparent(1).upper().replace("1", "A"), False),
        (f"ff{traceparent(1)[2:]}", False),
        (b"\xff" * 55, False),
        ("00-0x" + traceparent(1)[5:], False),
    ],
)
def test_only_a_well_formed_traceparent_of_a_sampled_message_counts(given: str | bytes | None, taken: bool) -> None:
    assert (sampled(given) is not None) == taken
    if isinstance(given, str) and taken:
        assert traceparent_of(context_of(given)) == given[:-2] + "01"


def test_addresses_say_what_a_span_may_say_of_them() -> None:
    assert place("folder").system == "file"
    several = place("kafka://a:1,b:2?vitals=v")
    assert (several.system, several.topic("vitals"), several.topic("notes"), several.server) == (
        "kafka",
        "v",
        "notes",
        {},
    )
    hook = place("https://site.example/hook?token=secret#name=x")
    assert (hook.system, dict(hook.topics), hook.server) == ("webhook", {}, {"server.address": "site.example"})
    assert place("mqtt://user@h:1883?vitals=ward/+/hr").server == {"server.address": "h", "server.port": 1883}


def test_where_tracing_is_off_nothing_of_it_is_loaded_or_written(tmp_path: Path) -> None:
    off = Settings(trace_file=str(tmp_path / "spans"), trace_otlp_endpoint="http://127.0.0.1:9")
    with traced(off, "ward", "folder") as tracing:
        assert tracing is None
    assert list(tmp_path.iterdir()) == []
    code = "import sys, flows.run; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tracing_that_goes_nowhere_is_refused_in_plain_words(tmp_path: Path) -> None:
    for changes, why in (
        ({}, "spans go nowhere"),
        ({"trace_otlp_endpoint": "collector:4317"}, "no address of a collector"),
        ({"trace_file": str(tmp_path / "none" / "spans")}, "cannot be written"),
    ):
        with (
            pytest.raises(UsageError, match=why),
            traced(Settings(trace_ratio=1, **changes), "ward", "folder"),  # type: ignore[arg-type]
        ):
            pass
