"""What the engine's metrics page counts, under vLLM's booking rules (0.23 to 0.33, ``v1/metrics/stats.py``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bucket edges of ``vllm:iteration_tokens_total``, inclusive."""


@dataclass
class Counters:
    """Counts since the process started."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    iterations: int = 0
    iteration_tokens: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * len(EDGES))
    finished: dict[str, int] = field(default_factory=dict)
    preemptions: int = 0
    prefix_queries: int = 0
    """Tokens that were looked up in the prefix cache; stays 0 where caching is off (measured on 0.32)."""
    prefix_hits: int = 0
    corrupted: int = 0
    """Requests with NaN logits (``VLLM_COMPUTE_NANS_IN_LOGITS=1``)."""
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0

    def book_iteration(self, tokens: int) -> None:
        """Book what one API server delivers of one step: the computed prompts that ended in it, and its tokens."""
        self.iterations += 1
        self.iteration_tokens += tokens
        for index, edge in enumerate(EDGES):
            self.buckets[index] += tokens <= edge

    def book_ends(self, reasons: Iterable[str]) -> None:
        """Book answers that are complete. A client that leaves is not booked (measured on 0.32)."""
        for reason in reasons:
            self.finished[reason] = self.finished.get(reason, 0) + 1

    def book_drafts(self, drafts: int, accepted: int) -> None:
        """Book one verification of drafts."""
        self.drafts += 1
        self.draft_tokens += drafts
        self.accepted_tokens += accepted
