"""Names that a recovery store keeps: step ids, state keys, partition names. Renaming one loses its state: never do."""

FLOW = "tidegate"
SOURCE = "source"
DEAD_LETTERS = "dead_letters"
SHARD = "shard"
WINDOW = "window"
LATE = "late"
RULE = "rule"
GATE = "gate"
UNKEY = "unkey"
MERGE = "merge"
TO_SINK = "to_sink"
SINK = "sink"

STEPS = (SOURCE, DEAD_LETTERS, SHARD, WINDOW, LATE, RULE, GATE, UNKEY, MERGE, TO_SINK, SINK)

SINK_KEY = "decisions"


def shard_key(shard: int) -> str:
    """State key of a shard."""
    return f"s{shard:04d}"
