"""W2, decode arithmetic: proof from two looks at ``/metrics`` that requests really decoded together.

``iteration_tokens_total`` counts a step for every step that emitted something. Own decode tokens over steps is a lower
bound on the own width: other people's steps, prefills and idle engines only lower it (probing.md section 5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from detinf.documents import Witness

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
