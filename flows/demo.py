"""`tidegate demo`: simulate, replay, show."""

import shutil
from pathlib import Path

from flows.live import Table, summary_table
from flows.run import RunOptions, run_flow
from flows.simulators.ward import describe, simulate_ward
from schemas.errors import UsageError

MARK = "planted.json"


def run_demo(flow: str, out: Path, db: Path, *, seed: int, speed: float, minutes: float) -> str:
    """Twelve simulated beds through the real flow; gives what was planted and what came of it. Errors: UsageError."""
    if flow != "ward":
        raise UsageError(f"there is no demo of {flow}: try `tidegate demo ward`")
    clear(out, db)
    planted = describe(simulate_ward(out, seed=seed, beds=12, minutes=minutes))
    with Table(wanted=True) as table:
        result = run_flow(RunOptions(flow=flow, source=str(out), sink=str(db), speed=speed), table.show)
    return f"{planted}\n\n{summary_table(result)}\n\nAll decisions: tidegate decisions --db {db}"


def clear(out: Path, db: Path) -> None:
    """Remove an earlier demo's folder and store. Errors: UsageError where the folder is of something else."""
    if out.exists() and not (out / MARK).exists():
        raise UsageError(f"the folder {out} is not a simulated ward: give another one with --out")
    shutil.rmtree(out, ignore_errors=True)
    for file in (db, db.with_name(db.name + "-wal"), db.with_name(db.name + "-shm")):
        file.unlink(missing_ok=True)
