"""The simulated engine's step trace, in the ring that the real engine's plug-in writes."""

from __future__ import annotations

from pathlib import Path

from detinf.guard.trace import CAPACITY, OWN, TraceWriter, own_of, parts_of
from detinf_sim.scheduler import StepRecord


class Ring:
    """Writes each step's record."""

    def __init__(self, path: Path, boot: str) -> None:
        """Make the file."""
        self.writer = TraceWriter(path, boot, CAPACITY)

    def record(self, record: StepRecord) -> None:
        """Write one step."""
        each = zip(record.requests, record.counts, record.computed, record.prefilling, strict=True)
        own = [
            OWN.pack(*found, prefilling, count, computed if prefilling else 0)
            for identifier, count, computed, prefilling in each
            if (found := own_of(identifier))
        ]
        self.writer.write(
            tokens=record.tokens,
            width=record.width,
            prefills=record.prefills,
            waiting=record.waiting,
            preemptions=record.preemptions,
            cached_tokens=record.cached_tokens,
            own=parts_of(own),
        )
