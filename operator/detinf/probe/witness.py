"""Proof that requests really decoded together: W0 from the engine's step trace, W2 from two looks at ``/metrics``.

W0 is the truth, where the operator runs the engine. W2 is decode arithmetic for every other engine:
``iteration_tokens_total`` counts a step for every step that emitted something. Own decode tokens over steps is a lower
bound on the own width: other people's steps, prefills and idle engines only lower it (probing.md section 5).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from detinf.documents import Witness
from detinf.probe.trace import Window

SHARE = 0.8
"""Share of the wanted width that has to be proven."""
MINIMUM_STEPS = 20
"""Fewer steps prove nothing: the ends of a cohort weigh too much."""

_SAMPLE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Snapshot:
    """What one look at ``/metrics`` says, summed over engines."""

    steps: float
    generated: float
    running: float
    waiting: float
    started: float | None
    """``process_start_time_seconds``; vLLM with several API servers has none."""


NAMES = {
    "vllm:iteration_tokens_total_count": "steps",
    "vllm:generation_tokens_total": "generated",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "process_start_time_seconds": "started",
}


def parse_metrics(text: str) -> Snapshot | None:
    """Return the snapshot of a metrics page, or None where the witness' own series are missing."""
    sums: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        if key := NAMES.get(name):
            try:
                sums[key] = sums.get(key, 0.0) + float(value)
            except ValueError:
                return None
    if not {"steps", "generated"} <= sums.keys():
        return None
    return Snapshot(
        sums["steps"], sums["generated"], sums.get("running", 0.0), sums.get("waiting", 0.0), sums.get("started")
    )


def decode_width(before: Snapshot, after: Snapshot, *, own_decode_tokens: int, wanted: int) -> tuple[bool, Witness]:
    """Return (proven, witness) for a cohort.

    Args:
        before: before the cohort was sent.
        after: after its last answer.
        own_decode_tokens: tokens of our own that were decoded, the first of each request not counted.
        wanted: how many requests were to decode together.
    """
    steps = round(after.steps - before.steps)
    generated = round(after.generated - before.generated)
    if steps < MINIMUM_STEPS or generated < own_decode_tokens:
        # A counter that ran backwards or too slowly is another process' or another window's.
        return False, Witness(
            kind="W2", width=1, detail=f"{generated} tokens in {steps} steps: too few to prove a width"
        )
    rho = own_decode_tokens / steps
    proven = rho >= SHARE * wanted
    detail = f"{own_decode_tokens} own decode tokens in {steps} steps: {rho:.1f} together, {wanted} wanted"
    return proven, Witness(kind="W2", width=max(1, min(wanted, int(rho + 0.5))), detail=detail)


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
