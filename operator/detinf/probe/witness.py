"""Proof that requests really decoded together: W0 from the engine's step trace, W2 where there is none.

W0 is the truth, where the operator runs the engine. Every other engine is proven by arithmetic (``arithmetic.py``).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from detinf.documents import Witness
from detinf.probe.arithmetic import Sent, decoded_together, foreign_tokens, ours_alone, read_together
from detinf.probe.metrics import Snapshot
from detinf.probe.trace import Window

SHARE = 0.8
"""Share of the wanted width that has to be proven by arithmetic; the cell is booked at what was proven."""


def counted_width(before: Snapshot, after: Snapshot, sent: Sent) -> tuple[bool, Witness, str | None]:
    """Return (proven, witness, condition) for a cohort, from two looks at the metrics.

    The condition is None where exactly the wanted width ran, and ``width>=N`` where more may have run than what is
    proven: a part of the cohort, or others were served beside it.

    Args:
        before: before the first request was sent.
        after: after the last answer.
        sent: what was sent between them.
    """
    wanted, steps = len(sent.prompts), round(after.steps - before.steps)
    width, foreign = decoded_together(before, after, sent), foreign_tokens(before, after, sent)
    detail = f"{sent.decoded} own decode tokens in {steps} steps: {width} together at least, {wanted} wanted"
    if foreign > 0:
        detail += f"; {foreign} tokens for others"
    elif foreign < 0:
        detail += "; the engine's counters lack tokens that it answered"
    if read_together(before, after, sent):
        detail += "; all first tokens in one step (W3)"
    condition = None if width == wanted and foreign == 0 else f"width>={width}"
    return width >= SHARE * wanted, Witness(kind="W2", width=max(1, width), detail=detail), condition


def company(before: Snapshot | None, after: Snapshot | None, sent: Sent) -> Witness:
    """Return whether requests that were sent one after the other were alone in the engine (W6)."""
    if before is None or after is None:
        return Witness(kind="None", width=1, detail="nothing has to be proven, and no metrics say who else was served")
    if ours_alone(before, after, sent):
        return Witness(kind="W6", width=1, detail="alone: the engine answered nobody else meanwhile")
    foreign = foreign_tokens(before, after, sent)
    told = f"{foreign} tokens were generated for others" if foreign > 0 else "the counters do not tell"
    return Witness(kind="None", width=1, detail=f"nothing has to be proven; in company or not: {told}")


def booked_width(width: int, wanted: int) -> int:
    """Return the width under which a cell is booked: never more than really ran, and one of few.

    A cohort that ran in tenants' company counts as what was wanted up to twice that width, else as the power of two
    below: replicas under the same load then fill the same cells, and can be held against each other.
    """
    if wanted <= width < 2 * wanted:
        return wanted
    return 1 << (width.bit_length() - 1) if width >= 1 else 1


def traced_width(window: Window, cohort: bytes, *, tokens: Sequence[int], wanted: int) -> tuple[bool, Witness]:
    """Return (proven, witness) for a cohort, from the steps that held it (W0).

    The width of a token is how many requests decoded in its step, tenants' included: that is what kernels see. Of the
    tokens' widths the median is booked, so that at least half of the tokens ran at that width or above.

    Args:
        window: the steps from before the cohort was sent to after its last answer.
        cohort: whose steps.
        tokens: the answers' lengths by number; the first token of each is the prefill's.
        wanted: how many requests were to decode together.
    """
    widths: list[int] = []
    seen = [0] * len(tokens)
    for step in window.steps:
        for own in step.own:
            if own.cohort == cohort and not own.prefill and own.number < len(seen):
                widths.append(step.decodes)
                seen[own.number] += 1
    if not window.complete:
        return False, Witness(kind="W0", width=1, detail="the step trace has a gap: it was overwritten or torn")
    if seen != [length - 1 for length in tokens]:
        detail = (
            f"the step trace holds {sum(seen)} decode steps of the cohort, {sum(tokens) - len(tokens)} were answered"
        )
        return False, Witness(kind="W0", width=1, detail=detail)
    width = statistics.median_low(widths) if widths else 0
    detail = f"{len(widths)} own decode tokens in steps of {min(widths, default=0)} to {max(widths, default=0)} decodes"
    return width >= wanted, Witness(
        kind="W0", width=booked_width(width, wanted), detail=f"{detail}, half at {width} or more"
    )
