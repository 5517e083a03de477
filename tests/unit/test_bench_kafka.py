import json
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest

import flows.bench
from flows.bench.kafka import LIMITS, latency, load, took
from flows.bench.kafka.took import Took, rates, ratios, slope_kb_per_m, together
from flows.bench.windows import events
from flows.demo_kafka import SimulatedClock, messages
from flows.simulators.ward import START, simulate_ward
from schemas.errors import UsageError

START_US = int(START.timestamp() * 1e6)


def ran(per_s: float, per_cpu_s: float, broker_s: float = 0.0) -> Took:
    return Took(rows=1000, wall_s=1000 / per_s, cpu_s=1000 / per_cpu_s, broker_s=broker_s)


RUNS = {
    "bare": [ran(1000, 2000), ran(500, 2000)],
    "decoded": [ran(800, 1000), ran(800, 1000)],
    "bytewax": [ran(100, 125), ran(100, 125)],
    "windows": [ran(500, 500, 0.5), ran(500, 500, 0.5)],
    "arrow": [ran(2500, 3000), ran(5000, 3000)],
    "checked": [ran(250, 250), ran(250, 250)],
}


def test_ratios_are_of_throughput_repeat_by_repeat_by_wall_and_by_cpu() -> None:
    found = ratios(RUNS)
    assert found["bare_loop_ratio"] == pytest.approx([0.5, 1.0])
    assert found["bare_loop_ratio_cpu"] == pytest.approx([0.25, 0.25])
    assert found["bytewax_source_ratio"] == pytest.approx([5.0, 5.0])
    assert found["arrow_ratio"] == pytest.approx([5.0, 10.0])
    assert found["checked_ratio_cpu"] == pytest.approx([0.5, 0.5])


def test_every_limit_has_a_figure_of_its_name() -> None:
    named = {*ratios(RUNS), "quix_ratio", "two_process_ratio"}
    assert set(LIMITS) <= named


def test_rates_say_how_much_of_a_core_the_broker_used() -> None:
    found = rates({"windows": RUNS["windows"]})
    assert found["windows_per_s"] == pytest.approx([500, 500])
    assert found["windows_broker_cores"] == pytest.approx([0.25, 0.25])


def test_two_processes_take_as_long_as_the_slower_one_and_use_what_both_use() -> None:
    both = together([Took(600, 3.0, 1.0, 2.0), Took(400, 2.5, 2.0, 2.2)])
    assert both == Took(1000, 3.0, 3.0, 2.2)


def test_a_slope_of_memory_leaves_out_how_it_came_to_its_level() -> None:
    million = 1_000_000
    rising = [(0, 0), (million, 90_000), *((at * million, 100_000 + 50 * at) for at in range(2, 11))]
    assert slope_kb_per_m(rising) == pytest.approx(50)
    assert slope_kb_per_m([(million, 1), (2 * million, 2)]) is None


def test_a_latency_counts_from_when_the_window_might_close_and_not_while_it_all_starts() -> None:
    second = 1_000_000
    decided = latency.Decided([(12_250_000, [10 * second, 11 * second]), (14_020_000, [13 * second])])
    found = latency.latencies_ms(decided, began_us=2_500_000)
    assert found == [250.0, 20.0]  # the window that ended within 8 s is not counted
    assert latency.quantiles([10.0, 20.0, 30.0])["latency_p50_ms"] == 20.0
    with pytest.raises(ValueError, match="no window closed"):
        latency.quantiles([])


def test_the_events_go_on_from_chunk_to_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "CHUNK", 1500)
    rows = [orjson.loads(line) for _, lines in load.chunks(4000) for line in lines]
    assert [row["ts"] for row in rows] == [orjson.loads(line)["ts"] for line in events(4000)]
    assert [row["device"].encode() for row in rows] == [load.key_of(row) for row in range(4000)]


def test_a_result_of_a_process_comes_back_as_it_was() -> None:
    spec = took.Spec(servers="s", topic="t", messages=1, folder="f", addresses=["a"], cores=[1])
    assert took.Spec(**json.loads(json.dumps(asdict(spec)))) == spec


@pytest.mark.parametrize(("name", "option"), [("windows", "messages"), ("ward", "long"), ("kafka", "work")])
def test_an_option_of_another_benchmark_is_refused(name: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option} belongs to `bench"):
        flows.bench.run_bench(name, repeats=1, peers=False, **{option: 20_000})


def test_a_ward_is_sent_in_the_order_of_its_time_and_nothing_before_it(tmp_path: Path) -> None:
    manifest = simulate_ward(tmp_path, seed=2, beds=8, minutes=5)
    due = messages(tmp_path)
    assert [one.at_us for one in due] == sorted(one.at_us for one in due)
    for stream, count in (("vitals", manifest.rows["vitals.jsonl"]), ("notes", manifest.rows["notes.jsonl"])):
        sent = [one.line for one in due if one.stream == stream]
        assert sent == (tmp_path / f"{stream}.jsonl").read_bytes().splitlines()
        assert len(sent) == count
    assert due[0].at_us >= START_US
    assert due[-1].at_us < START_US + 302 * 1_000_000  # the clock that is a day ahead does not set the pace


def test_simulated_time_goes_on_only_when_it_is_told_to() -> None:
    clock = SimulatedClock(5)
    assert [clock(), clock()] == [5, 5]
    clock.advance(10)
    assert clock() == 15
