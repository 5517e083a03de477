"""What a person sees while a flow runs, and at its end. A run without a table has no use for rich: 2 MB."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import orjson

from schemas.decisions import Record, Sealed

ROWS_MAX = 40


class Table:
    """The last decision of each key, most urgent last to change on top. Does nothing where it is not wanted."""

    def __init__(self, wanted: bool) -> None:
        self._last: dict[str, Record] = {}
        self._live = _screen() if wanted else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def show(self, records: Sequence[Sealed]) -> None:
        """Take note of new records."""
        if self._live is None:
            return
        from rich.table import Table as RichTable

        self._last.update({record.key: orjson.loads(record.text) for record in records})
        table = RichTable("window end", "key", "action", "score", "why", expand=True)
        for key in sorted(self._last)[:ROWS_MAX]:
            record = self._last[key]
            rule = record["rule"]
            raised = f"{rule['action']} -> {record['action']}" if record["raised_by"] else record["action"]
            score = "-" if rule.get("score") is None else str(rule["score"])
            table.add_row(record["window"][1], key, raised, score, record["rationale"])
        self._live.update(table)


def _screen() -> Any:
    from rich.console import Console
    from rich.live import Live

    return Live(console=Console(), refresh_per_second=4, transient=True)


def summary_table(summary: Mapping[str, Any]) -> str:
    """The summary in plain words."""
    rows, latency, model = summary["rows"], summary["latency_ms"], summary["model"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(summary["rejected"].items())) or "none"
    actions = ", ".join(f"{action} {count}" for action, count in summary["decisions"].items()) or "none"
    outlets = [
        f"sent        {name}: {state['sent']}, {state['behind']} still to send"
        for name, state in summary.get("outlets", {}).items()
    ]
    return "\n".join(
        (
            f"rows        {rows['in']} in: {rows['used']} used, {rows['late']} late, {rows['rejected']} rejected, "
            f"{rows['duplicate']} duplicate",
            f"rejected    {reasons}",
            f"windows     {summary['windows']}",
            f"decisions   {actions}",
            f"model       {model['calls']} calls, {model['cached']} from memory, {model['abstained']} not acted on",
            *outlets,
            f"latency     p50 {latency['p50']} ms, p99 {latency['p99']} ms from window close to rule decision",
            f"took        {summary['wall_s']} s, {summary['cpu_s']} s of CPU, {summary['max_rss_mb']} MB at most",
        )
    )
