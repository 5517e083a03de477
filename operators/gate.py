"""The gate: what a rule decided, and what a reader's labels may add to it. Knows no domain; a domain is its tables.

Three rules hold whatever the tables say:
1. The action is the maximum of the rule's and of every raise that applies, so no label can lower it. Raises are all
   measured from the rule's action, not from each other: two raises of one level make one level, and the order of the
   table does not change the action. What a label would lower is a proposal, which a person may accept.
2. Without labels that are acted on (the reader abstains) nothing is raised, proposed or flagged.
3. Sentences carry values by slot (`render`); a number is filled in by code, never written by a model.
"""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

Facts = Mapping[str, Any]
Condition = Callable[[Set[str], Facts], bool]
"""(labels acted on, facts of the decision) -> whether it applies. A fact that is not known is None."""

ONE_LEVEL = "+1"


def always(labels: Set[str], facts: Facts) -> bool:
    """The label alone is enough."""
    return True


@dataclass(frozen=True, slots=True)
class Raise:
    """Given `label`, and `when`: lift the action `to` a named level, or by ONE_LEVEL.

    because: the reason in words, clauses for `render`.
    """

    label: str
    to: str
    because: str
    when: Condition = always


@dataclass(frozen=True, slots=True)
class Propose:
    """Given any of `labels`, and `when`: something that a person may accept. Never applied alone."""

    name: str
    labels: tuple[str, ...]
    text: str
    when: Condition = always


@dataclass(frozen=True, slots=True)
class Flag:
    """Given `label`: something that is neither an action nor a choice, such as a rule that does not apply."""

    name: str
    label: str


class Outcome(NamedTuple):
    """action: never below the rule's. raised_by: the labels that lift above the rule, in table order, each once.

    because: the reasons of those that lift it to `action`. proposals: {"id", "text"} each. flags: names.
    """

    action: str
    raised_by: list[str]
    because: list[str]
    proposals: list[dict[str, str]]
    flags: list[str]


class Gate:
    """The tables of one domain. Errors: ValueError on a raise to an action that does not exist."""

    def __init__(
        self,
        actions: Sequence[str],
        raises: Sequence[Raise],
        proposals: Sequence[Propose] = (),
        flags: Sequence[Flag] = (),
    ) -> None:
        self.actions = tuple(actions)
        self.rank = {action: rank for rank, action in enumerate(self.actions)}
        for row in raises:
            if row.to != ONE_LEVEL and row.to not in self.rank:
                raise ValueError(f"raise on {row.label}: no action {row.to!r} among {', '.join(self.actions)}")
        self.raises = tuple((row.label, self.rank.get(row.to), row.when, row.because) for row in raises)
        self.proposals = tuple((frozenset(row.labels), row.when, row.name, row.text) for row in proposals)
        self.flags = tuple(flags)

    def decide(self, rule_action: str, labels: Sequence[str], facts: Facts) -> Outcome:
        """Decide. labels: those acted on, none where the reader abstains. Errors: KeyError on an unknown action."""
        if not labels:
            return Outcome(self.actions[self.rank[rule_action]], [], [], [], [])
        rule = top = self.rank[rule_action]
        one_up = min(rule + 1, len(self.actions) - 1)
        given = frozenset(labels)
        raised_by: list[str] = []
        reasons: list[tuple[int, str]] = []
        for label, to, when, because in self.raises:
            rank = one_up if to is None else to
            if label in given and rank > rule and when(given, facts):
                top = max(top, rank)
                reasons.append((rank, because))
                if label not in raised_by:
                    raised_by.append(label)
        proposals = [
            {"id": name, "text": text}
            for any_of, when, name, text in self.proposals
            if not any_of.isdisjoint(given) and when(given, facts)
        ]
        flags = [flag.name for flag in self.flags if flag.label in given]
        because_top = [because for rank, because in reasons if rank == top]
        return Outcome(self.actions[top], raised_by, because_top, proposals, flags)


_SLOT = re.compile(r"\{([^{}]*)\}")


@lru_cache(maxsize=1024)
def _clauses(template: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each clause as a %-format and the slots that fill it."""
    return tuple(
        (_SLOT.sub("%s", clause.replace("%", "%%")), tuple(_SLOT.findall(clause))) for clause in template.split("|")
    )


def render(template: str, slots: Mapping[str, object], joiner: str = " ") -> str:
    """Fill `{name}` slots. Clauses are separated by `|`; one with a slot that is None is dropped, the rest are joined.

    A float is written in the fewest digits that name it to ten places, 92.0 as 92. Errors: ValueError on a slot that
    is not among `slots`: a sentence can only ask for values that code put there.
    """
    said = []
    for form, names in _clauses(template):
        try:
            values = [slots[name] for name in names]
        except KeyError as unknown:
            raise ValueError(f"no slot {unknown} in {template!r}: known are {', '.join(sorted(slots))}") from None
        if None not in values:
            said.append(form % tuple([f"{value:.10g}" if type(value) is float else value for value in values]))
    return joiner.join(said)
