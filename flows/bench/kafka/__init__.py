"""`tidegate bench kafka`: a real broker on one core, what reads from it on another, as ratios in one run.

Every way to read is a process of its own. Ratios are of wall time; those of CPU time stand beside them, for a machine
that does other things meanwhile. Where there is one core only, both share it, and the result says so.
"""

from flows.bench.kafka.runs import LIMITS, measure

__all__ = ["LIMITS", "measure"]
