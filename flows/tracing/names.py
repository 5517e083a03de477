"""Every span that we emit: its name, its kind, its attributes. The one place that knows them.

Messaging names are those of OpenTelemetry's semantic conventions 1.44.0, names of the reader those of the generative-AI
conventions; what they have no word for stands under `tidegate.`. Both are still marked as in development, so that a
change of theirs is a change of this file, and of the table in its test.

A name is OPERATION TARGET: `poll ward.vitals`, `gate ward`, `classify MODEL`. Batches link the sampled messages among
theirs; a window, its gate and what follows are children of its first sampled message, and link the others.
"""

from dataclasses import dataclass

MESSAGING_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
GENAI_SCHEMA = "https://opentelemetry.io/schemas/gen-ai/1.42.0"
SCHEMAS = (MESSAGING_SCHEMA, GENAI_SCHEMA)
SCOPE = "tidegate"

SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
TEMPLATE = "messaging.destination.template"
PARTITION = "messaging.destination.partition.id"
MESSAGES = "messaging.batch.message_count"
SERVER, PORT = "server.address", "server.port"
ERROR = "error.type"

GENAI_OPERATION = "gen_ai.operation.name"
GENAI_PROVIDER = "gen_ai.provider.name"
GENAI_MODEL = "gen_ai.request.model"
GENAI_INPUT = "gen_ai.input.messages"
"""The text itself: only where `trace_texts` is on."""

STEP = "tidegate.step"
FLOW = "tidegate.flow"
KEY = "tidegate.key"
"""Whom a window is about, as a keyed hash."""
DECISION = "tidegate.decision.id"
"""As a keyed hash: the id itself could be worked out again for every key that one can think of."""
REVISION = "tidegate.decision.revision"
ACTION = "tidegate.gate.action"
ROWS = "tidegate.window.rows"
WINDOW_START, WINDOW_END = "tidegate.window.start", "tidegate.window.end"
USED, REFUSED, LATE = "tidegate.rows.used", "tidegate.rows.refused", "tidegate.rows.late"
LAG = "tidegate.watermark.lag_ms"
MODEL_SHA256 = "tidegate.model.sha256"
LABELS, ABSTAIN = "tidegate.reading.labels", "tidegate.reading.abstain"

CLASSIFY, COMPLETE = "classify", "text_completion"
"""What a reader does: the conventions have no word for a classifier, and ask for one of one's own then."""
PROVIDER = "onnxruntime"
STORE, STORED = "sqlite", "decisions"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of span. kinds: OpenTelemetry's own, one of them. of_type: of a messaging operation, its type."""

    step: str
    kinds: frozenset[str]
    schema: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()
    of_type: str | None = None


def _messaging(step: str, kinds: set[str], of_type: str, required: set[str], optional: set[str]) -> Kind:
    always = {STEP, SYSTEM, OPERATION, OPERATION_TYPE, DESTINATION}
    return Kind(
        step, frozenset(kinds), MESSAGING_SCHEMA, frozenset(always | required), frozenset(optional | {ERROR}), of_type
    )


_PLACE = {TEMPLATE, PARTITION, SERVER, PORT}
_WINDOW = frozenset({STEP, FLOW, KEY, WINDOW_START, WINDOW_END})

POLL = _messaging("poll", {"CLIENT"}, "receive", {MESSAGES}, _PLACE)
PROCESS = _messaging("process", {"CONSUMER"}, "process", {MESSAGES, USED, REFUSED, LATE}, _PLACE | {LAG})
WINDOW = Kind("window", frozenset({"INTERNAL"}), MESSAGING_SCHEMA, _WINDOW | {ROWS})
GATE = Kind("gate", frozenset({"INTERNAL"}), MESSAGING_SCHEMA, _WINDOW | {DECISION, REVISION, ACTION})
READ = Kind(
    "read",
    frozenset({"INTERNAL"}),
    GENAI_SCHEMA,
    frozenset({STEP, GENAI_OPERATION, GENAI_PROVIDER}),
    frozenset({GENAI_MODEL, GENAI_INPUT, MODEL_SHA256, LABELS, ABSTAIN, ERROR}),
)
COMMIT = _messaging("commit", {"CLIENT"}, "settle", {MESSAGES, FLOW}, set())
SEND = _messaging("send", {"PRODUCER", "CLIENT"}, "send", {REVISION}, _PLACE)

KINDS = {kind.step: kind for kind in (POLL, PROCESS, WINDOW, READ, GATE, COMMIT, SEND)}
