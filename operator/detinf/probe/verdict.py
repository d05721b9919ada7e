"""The verdict on a round of answers: PASS, FAIL or INCONCLUSIVE (probing.md 2.3).

*Inequality needs no witness; equality does.* Two different answers of one engine to one request break the promise
whether or not the batch formed as intended. Equal answers prove nothing unless the disturbance took place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detinf.api.types import Promise
from detinf.documents import Reference, Verdict, Witness
from detinf.probe.comparison import Difference, compare
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError, Reason

NO_WITNESS = Witness(kind="None", width=1, detail="nothing has to be proven")


@dataclass(frozen=True)
class Asked:
    """One request of a round: what came back, and what it is held against."""

    reference: Reference
    expected: Observation
    observed: Observation | InconclusiveError


@dataclass(frozen=True)
class Finding:
    """The first difference of a round."""

    asked: Asked
    difference: Difference

    @property
    def observed(self) -> Observation:
        """Return the answer that differs."""
        assert isinstance(self.asked.observed, Observation)  # noqa: S101 - only compared answers are findings
        return self.asked.observed


@dataclass(frozen=True)
class Round:
    """The verdict on one relation under one condition, once."""

    relation: str
    condition: str
    verdict: Verdict
    reason: Reason
    detail: str
    comparisons: int
    witness: Witness
    finding: Finding | None = None
    as_wanted: bool = True
    """Whether it ran as it was asked for (of a width: at least so wide); else a PASS is one of what ran."""
    references: tuple[str, ...] = ()
    """Names of those whose answers were compared."""
    served: tuple[int | None, int | None] = (None, None)
    """Requests of others that the engine had answered before it and after it; None where that is not known."""


def untraced(relation: str, condition: str) -> Round:
    """Return the round that could not be, because this boot has no step trace to prove it."""
    detail = "there is no step trace of this boot"
    return Round(relation, condition, Verdict.INCONCLUSIVE, Reason.TRACE_MISSING, detail, 0, NO_WITNESS)


def judge(
    relation: str,
    condition: str,
    asked: Sequence[Asked],
    *,
    promise: Promise,
    witness: Witness = NO_WITNESS,
    proven: bool = True,
    missing: Reason = Reason.NOT_BATCHED,
    engine_changed: str | None = None,
) -> Round:
    """Return the verdict on a round.

    Args:
        relation: S01 to S05.
        condition: such as ``width=8``.
        asked: its requests.
        promise: what has to be equal.
        witness: what was proven about the disturbance.
        proven: whether that is enough for equality to count.
        missing: the reason where it is not.
        engine_changed: how the engine's identity changed during the round; None where it did not.
    """

    def conclude(verdict: Verdict, reason: Reason, detail: str, finding: Finding | None = None) -> Round:
        compared = tuple(item.reference.name for item in asked if isinstance(item.observed, Observation))
        return Round(relation, condition, verdict, reason, detail, len(compared), witness, finding, references=compared)

    if engine_changed is not None:
        return conclude(Verdict.INCONCLUSIVE, Reason.ENGINE_CHANGED, engine_changed)
    for item in asked:
        if isinstance(item.observed, Observation) and (found := compare(item.expected, item.observed, promise)):
            where = f"{item.reference.name}: {found.observable} differs at position {found.position}"
            return conclude(Verdict.FAIL, Reason.DIFFERENT, where, Finding(item, found))
    for item in asked:
        if isinstance(item.observed, InconclusiveError):
            return conclude(
                Verdict.INCONCLUSIVE, item.observed.reason, f"{item.reference.name}: {item.observed.detail}"
            )
    for item in asked:
        if isinstance(item.observed, Observation) and item.observed.has_floors:
            detail = f"{item.reference.name}: logprobs are at vLLM's floor in both answers"
            return conclude(Verdict.INCONCLUSIVE, Reason.FLOOR_VALUE, detail)
    if not proven:
        return conclude(Verdict.INCONCLUSIVE, missing, witness.detail)
    return conclude(Verdict.PASS, Reason.EQUAL, witness.detail)
