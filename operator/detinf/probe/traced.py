"""What the step trace (W0) proves beside decode widths: the tokens of one launch, and a prefill among decodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from detinf.documents import Witness
from detinf.guard.trace import Own
from detinf.probe.engine import StepTrace
from detinf.probe.reasons import Reason
from detinf.probe.trace import Window

EDGES = (128, 256, 512, 1024, 2048, 4096, 8192)
"""Tokens in a launch at which kernels are known, or likely, to change their way."""


@dataclass(frozen=True)
class Proof:
    """Whether the disturbance took place, what it really was, and why not where it did not."""

    proven: bool
    condition: str | None
    """The condition that really ran, where something is proven."""
    witness: Witness
    missing: Reason = Reason.NOT_BATCHED
    as_wanted: bool = True
    """Whether the disturbance was the one that was asked for; of a width, at least that."""


def _nothing(detail: str, missing: Reason = Reason.NOT_BATCHED) -> Proof:
    return Proof(False, None, Witness(kind="W0", width=1, detail=detail), missing)


def launched(window: Window, cohort: bytes, *, prompts: Sequence[int]) -> Proof:
    """Return the proof that one step held all prompts of a cohort, each of them whole.

    The condition is the number of tokens in that step where nobody else had any: ``tokens=257``. In company it is the
    edge that they crossed together: ``tokens>256``, which every larger launch up to the next edge is, too, and not what
    was wanted: kernels may go another way there.

    Args:
        window: the steps from before the cohort was sent to after its last answer.
        cohort: whose steps.
        prompts: the prompts' lengths by number.
    """
    whole = {(number, length) for number, length in enumerate(prompts)}
    for step in window.steps:
        held = {
            (own.number, own.tokens) for own in step.own if own.cohort == cohort and own.prefill and own.computed == 0
        }
        if held != whole:
            continue
        alone = step.tokens == sum(prompts)
        crossed = max((edge for edge in EDGES if edge < step.tokens), default=0)
        condition = f"tokens={step.tokens}" if alone else f"tokens>{crossed}"
        detail = f"one step of {step.tokens} tokens held {len(prompts)} prompts of {sum(prompts)}"
        return Proof(True, condition, Witness(kind="W0", width=step.width, detail=detail), as_wanted=alone)
    if not window.complete:
        return _nothing("the step trace has a gap: it was overwritten or torn")
    return _nothing(f"no step held all {len(prompts)} prompts whole")


def mixed(window: Window, cohort: bytes, *, joining: int) -> Proof:
    """Return the proof that a prefill shared a step with decodes of the same cohort.

    NotMixed is a finding, too: the prefill ran with nobody's decodes although others of the cohort decoded before and
    after it, as a scheduler does that never mixes them; with preemptions it may have been an accident.

    Args:
        window: the steps from before the cohort was sent to after its last answer.
        cohort: whose steps.
        joining: number of the request that joined; those below it decode.
    """
    alone = decoded = between = False
    for step in window.steps:
        mine = [own for own in step.own if own.cohort == cohort]
        joins = next((own for own in mine if own.number == joining and own.prefill), None)
        decodes = sum(1 for own in mine if own.number < joining and not own.prefill)
        if joins is not None and decodes:
            detail = f"a prefill of {joins.tokens} tokens ran with {step.decodes} decodes, {decodes} of them our own"
            return Proof(True, f"prefill={joins.tokens}", Witness(kind="W0", width=max(step.decodes, 1), detail=detail))
        alone |= joins is not None and decoded and not step.decodes
        between |= alone and decodes > 0
        decoded |= decodes > 0
    if not window.complete:
        return _nothing("the step trace has a gap: it was overwritten or torn")
    if between and not any(step.preemptions for step in window.steps):
        return _nothing("the prefill had a step of its own while others decoded", Reason.NOT_MIXED)
    return _nothing("the prefill came before or after all decodes of the cohort")


def decoding(trace: StepTrace, position: int, cohort: bytes) -> Callable[[], bool]:
    """Return a question: whether the trace holds a decode of the cohort since a position. It reads no step twice."""
    seen = position

    def is_decode(own: Own) -> bool:
        return own.cohort == cohort and not own.prefill

    def look() -> bool:
        nonlocal seen
        now = trace.position()
        window = trace.since(seen)
        if now is None or window is None:
            return False
        seen = now
        return any(is_decode(own) for step in window.steps for own in step.own)

    return look
