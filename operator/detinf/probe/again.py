"""What the controller asks a peer of a diverging replica again: what is asked for it, and what came of that.

A PASS from before a divergence proves nothing about it, and neither does one of something else. So a reply of PASS is
about the same relation, the same condition and the same reference; where this probe cannot form that again it asks what
comes nearest and says so. A difference is a difference whatever was asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detinf.api.names import ANNOTATION_AGAIN
from detinf.documents import Again, AskedAgain, Reference, Reply, Verdict
from detinf.probe.disturbances import DECODING, Disturbance, companions, join, launch, shorter, together
from detinf.probe.observation import Observation
from detinf.probe.podinfo import annotation
from detinf.probe.reasons import BACK_OFF_SECONDS, Reason
from detinf.probe.relations import SOLO
from detinf.probe.verdict import Round

_CONDITION = re.compile(r"(width|tokens|prefill)(>?=|>)([1-9][0-9]{0,5})")


def read_asked(podinfo: Path) -> list[Again]:
    """Return what is asked now, each piece of evidence once.

    Raises:
        ValueError: where the annotation is none that a controller writes.
    """
    text = annotation(podinfo, ANNOTATION_AGAIN)
    if text is None:
        return []
    first: dict[str, Again] = {}
    for item in AskedAgain.parse(text).items:
        first.setdefault(item.evidence, item)
    return list(first.values())


# What is asked --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What is asked for an item."""

    reference: Reference
    cell: Disturbance | None = None
    """Who is asked together; None: the reference alone."""
    twice: bool = False
    """Alone, and twice: S01 beside S02."""
    instead: str | None = None
    """Why it is not what the item names; None where it is."""


def question(
    item: Again,
    items: Sequence[Reference],
    expected: Mapping[str, Observation],
    *,
    widest: int,
    traced: bool,
    turn: int = 0,
) -> Question | None:
    """Return what to ask for an item; None where this engine cannot be asked its reference.

    Args:
        item: what a peer diverged on.
        items: references that this engine can be asked.
        expected: their answers.
        widest: of the cohorts that are formed while users are served.
        traced: whether there is a step trace.
        turn: another one gives other companions.
    """
    reference = next((other for other in items if other.name == item.reference), None)
    if reference is None:
        return None
    if item.relation in {"S01", "S02"} and item.condition == SOLO:
        return Question(reference, twice=item.relation == "S01")
    known = _CONDITION.fullmatch(item.condition)
    others = [other for other in shorter(items) if other != reference]
    found: Question | None = None
    if known and others:
        kind, sign, number = known[1], known[2], int(known[3])
        if (item.relation, kind) == ("S03", "width") and sign != ">" and min(number, widest) > 1:
            found = _width(reference, others, expected, number, widest, turn)
        elif (item.relation, kind) == ("S04", "tokens") and sign != ">=":
            found = _launch(reference, others, expected, number, crossed=sign == ">")
        elif (item.relation, kind, sign) == ("S05", "prefill", "=") and traced:
            found = _join(reference, items, others, expected, number, turn)
    return found or Question(reference, instead="this probe cannot form that while users are served")


def _width(
    reference: Reference,
    others: Sequence[Reference],
    expected: Mapping[str, Observation],
    width: int,
    widest: int,
    turn: int,
) -> Question:
    cohort = companions([reference, *others], reference, min(width, widest), turn)
    instead = None if width <= widest else f"no cohort above {widest} is formed while users are served"
    return Question(reference, together(cohort, expected), instead=instead)


def _launch(
    reference: Reference,
    others: Sequence[Reference],
    expected: Mapping[str, Observation],
    tokens: int,
    *,
    crossed: bool,
) -> Question:
    """Return a launch of two, of so many tokens or the nearest number; above an edge the smallest that is above it."""

    def far(other: Reference) -> tuple[bool, int]:
        above = len(reference.prompt_ids) + len(other.prompt_ids) - tokens
        return crossed and above <= 0, abs(above)

    cell = launch([reference, min(others, key=far)], expected)
    instead = None if cell.condition == f"tokens={tokens}" else "no two references make that launch alone"
    return Question(reference, cell, instead=None if crossed else instead)


def _join(
    reference: Reference,
    items: Sequence[Reference],
    others: Sequence[Reference],
    expected: Mapping[str, Observation],
    tokens: int,
    turn: int,
) -> Question | None:
    """Return a prefill among decodes: of the reference where it has that length, else of another while it decodes."""
    if len(reference.prompt_ids) == tokens:
        return Question(reference, join(companions(others, None, DECODING, turn), reference, expected))
    joins = min((item for item in items if item != reference), key=lambda item: abs(len(item.prompt_ids) - tokens))
    decoding = [item for item in others if item != joins]
    cell = join(companions([reference, *decoding], reference, DECODING, turn), joins, expected)
    instead = None if len(joins.prompt_ids) == tokens else f"no reference has {tokens} tokens"
    return Question(reference, cell, instead=instead)


# What came of it ------------------------------------------------------------------------------------------------------


def unknown(item: Again) -> Reply:
    """Return the reply where this engine cannot be asked a reference."""
    reason = f"{Reason.NOT_COMPARABLE}: there is no reference {item.reference} that this engine can be asked"
    return Reply(evidence=item.evidence, verdict=Verdict.INCONCLUSIVE, reason=reason)


def reply(item: Again, asked: Question, rounds: Sequence[Round]) -> Reply:
    """Return what came of an item."""
    failed = next((outcome for outcome in rounds if outcome.verdict is Verdict.FAIL), None)
    of_relation = [outcome for outcome in rounds if outcome.relation == item.relation]
    outcome = failed or (of_relation or rounds)[0]
    said = f"{outcome.reason}: {outcome.detail}" if outcome.detail else str(outcome.reason)
    same = outcome.relation == item.relation and meets(outcome.condition, item.condition) and asked.instead is None
    if not same:
        why = f" ({asked.instead})" if asked.instead else ""
        wanted = f"{item.relation} {item.condition}"
        said = f"it was {outcome.relation} {outcome.condition}, wanted was {wanted}{why}: {outcome.verdict}: {said}"
    verdict = outcome.verdict
    if verdict is Verdict.PASS and not (same and item.reference in outcome.references):
        verdict = Verdict.INCONCLUSIVE
    return Reply(evidence=item.evidence, verdict=verdict, reason=said)


def meets(ran: str, wanted: str) -> bool:
    """Return whether a condition that ran is the one that was wanted: of ``width>=8`` any width from 8 on."""
    if ran == wanted:
        return True
    here, there = _CONDITION.fullmatch(ran), _CONDITION.fullmatch(wanted)
    if here is None or there is None or (here[1], there[1], there[2]) != ("width", "width", ">="):
        return False
    return here[2] in {"=", ">="} and int(here[3]) >= int(there[3])


@dataclass
class Pending:
    """Which items are to be asked, and when: INCONCLUSIVE ones once more, later and later."""

    attempts: dict[str, int] = field(default_factory=dict)
    due: dict[str, float] = field(default_factory=dict)

    def next(self, items: Sequence[Again], replies: Mapping[str, Reply], now: float) -> Again | None:
        """Return the item to ask now, those that were never asked first; None where there is none."""
        open_items = [
            item
            for item in items
            if item.evidence not in replies or replies[item.evidence].verdict is Verdict.INCONCLUSIVE
        ]
        due = [item for item in open_items if self.due.get(item.evidence, now) <= now]
        return min(due, key=lambda item: self.attempts.get(item.evidence, 0), default=None)

    def is_new(self, item: Again) -> bool:
        """Return whether an item was never asked."""
        return item.evidence not in self.attempts

    def put_off(self, item: Again, now: float) -> None:
        """Take note that an item was asked; where that did not conclude it is asked again after a while."""
        attempt = self.attempts.get(item.evidence, 0)
        self.attempts[item.evidence] = attempt + 1
        self.due[item.evidence] = now + BACK_OFF_SECONDS[min(attempt, len(BACK_OFF_SECONDS) - 1)]
