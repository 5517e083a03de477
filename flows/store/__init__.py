"""The decision store as its users see it: read it, prove it whole, act on it. The writer is a connector."""

from flows.store.actions import accept, accepted_settings, override
from flows.store.chains import Broken, Verified, verify
from flows.store.records import dead_letters, decisions, follow, mark_replayed

__all__ = [
    "Broken",
    "Verified",
    "accept",
    "accepted_settings",
    "dead_letters",
    "decisions",
    "follow",
    "mark_replayed",
    "override",
    "verify",
]
