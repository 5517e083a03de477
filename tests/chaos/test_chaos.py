"""A few seeds of the chaos harness; `make chaos SEEDS=200` runs as many as one likes."""

from collections.abc import Iterator

import pytest

from tests.brokers import mosquitto
from tests.brokers.kafka import missing
from tests.chaos.checks import differences, letters_differ, missing_ids
from tests.chaos.harness import Plan, run_seed
from tests.chaos.published import held
from tests.chaos.site import Site, site

SEEDS = (1, 7, 20)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    lacking = missing() or mosquitto.missing()
    if lacking:
        pytest.skip(lacking)
    with site(tmp_path_factory.mktemp("site")) as found:
        yield found


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed}-{Plan.of(seed).fault.name}")
def test_a_run_that_is_disturbed_comes_to_the_same_decisions(seed: int, place: Site) -> None:
    outcome = run_seed(seed, place)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert not outcome.complaints, str(outcome)


def record(seq: int, action: str = "none", key: str = "p") -> dict[str, object]:
    return {"flow": "ward", "key": key, "seq": seq, "id": f"{key}{seq}", "revision": 0, "action": action}


def test_the_harness_sees_a_decision_that_is_lost_changed_or_invented() -> None:
    want = [record(0), record(1), record(2)]
    assert differences(want, want) == []
    assert "1 of 3 decisions are missing" in differences(want, want[:2])[0]
    assert "1 are more" in differences(want[:2], want)[0]
    assert "differs in ['action']" in differences(want, [record(0), record(1, "urgent"), record(2)])[0]
    assert differences(want, [record(0), record(1, "urgent"), record(2)], ("action",)) == []
    assert missing_ids(want, want[1:], [want[1]]) == []
    assert "1 of 1 decisions from before are lost" in missing_ids(want, want[1:], [want[0]])[0]
    assert "never made undisturbed" in missing_ids(want[1:], want, [])[0]
    assert "more [('b',)]" in letters_differ([("a",)], [("a",), ("b",)])[0]


def test_what_was_published_replaces_what_comes_after_it_in_the_chain() -> None:
    old, new = [record(0), record(1), record(2), record(0, key="q")], [record(1, "urgent")]
    chains = held([*old, *new])
    assert chains["ward", "p"] == {0: record(0), 1: record(1, "urgent")}
    assert chains["ward", "q"] == {0: record(0, key="q")}


def test_the_same_seed_draws_the_same_plan() -> None:
    assert [str(Plan.of(seed)) for seed in range(20)] == [str(Plan.of(seed)) for seed in range(20)]
    assert len({Plan.of(seed).fault.name for seed in range(200)}) == 13
