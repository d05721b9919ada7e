"""The simulated engine's step trace, in the ring that the real engine's plug-in writes."""

from __future__ import annotations

import functools
from pathlib import Path

from detinf.guard.trace import CAPACITY, Own, TraceWriter, own_of, parts_of
from detinf_sim.scheduler import StepRecord

_known = functools.lru_cache(maxsize=4096)(own_of)
"""A request's id is looked at in each of its steps."""


def own_in(record: StepRecord) -> list[Own]:
    """Return the requests of our own in a step, as the trace has them."""
    each = zip(record.requests, record.counts, record.computed, record.prefilling, strict=True)
    return [
        Own(*found, prefilling, count, computed if prefilling else 0)
        for identifier, count, computed, prefilling in each
        if (found := _known(identifier))
    ]


class Ring:
    """Writes each step's record."""

    def __init__(self, path: Path, boot: str) -> None:
        """Make the file."""
        self.writer = TraceWriter(path, boot, CAPACITY)

    def record(self, record: StepRecord) -> None:
        """Write one step."""
        parts = parts_of(
            own_in(record),
            tokens=record.tokens,
            width=record.width,
            prefills=record.prefills,
            preemptions=record.preemptions,
            cached_tokens=record.cached_tokens,
        )
        self.writer.write(parts, record.waiting)
