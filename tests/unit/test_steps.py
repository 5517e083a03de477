"""Names that a recovery store keeps: a golden list, so that none changes unnoticed."""

from operators.adapters import steps


def test_persisted_step_names_are_those_of_the_first_release() -> None:
    assert steps.FLOW == "tidegate"
    assert (
        *("source", "dead_letters", "shard", "window", "late", "rule", "gate", "unkey", "merge", "to_sink", "sink"),
    ) == steps.STEPS
    assert steps.SINK_KEY == "decisions"
    assert steps.shard_key(7) == "s0007"
