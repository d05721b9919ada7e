"""Data-parallel ranks: several cores behind one API, which step together, idle ones with padding. Pure, as they are."""

from __future__ import annotations

from collections.abc import Sequence

from detinf_sim.scheduler import SimEngine
from detinf_sim.sequences import Emission, Request


class Ranks:
    """One or several engines with the interface of one."""

    def __init__(self, engines: Sequence[SimEngine]) -> None:
        """Take engines, rank 0 first."""
        self.engines = list(engines)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return any(engine.has_work for engine in self.engines)

    def submit(self, request: Request, rank: int | None = None) -> None:
        """Queue a request, with the rank that has the least to do where none is named.

        Raises:
            ValueError: where it cannot fit, or there is no such rank, in vLLM's words.
        """
        if rank is None:
            engine = min(self.engines, key=lambda item: len(item.waiting) + len(item.running))
        elif 0 <= rank < len(self.engines):
            engine = self.engines[rank]
        else:
            raise ValueError(f"data_parallel_rank {rank} is out of range [0, {len(self.engines)}).")
        engine.submit(request)

    def abort(self, identifier: str) -> None:
        """Forget a request, as when its client has gone."""
        for engine in self.engines:
            engine.abort(identifier)

    def step(self, now: float) -> tuple[list[Emission], float]:
        """Run one step of every rank that has work, or where none has of all; it takes as long as the slowest."""
        busy = [engine for engine in self.engines if engine.has_work] or self.engines
        emissions: list[Emission] = []
        longest = 0.0
        for engine in busy:
            engine.idle_peers = len(self.engines) - len(busy)
            emitted, seconds = engine.step(now)
            emissions += emitted
            longest = max(longest, seconds)
        return emissions, longest
