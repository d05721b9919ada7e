"""Witnesses W1 to W6: what can be proven of an engine without a step trace (probing.md section 5).

Arithmetic on two looks at ``/metrics``, one before the requests were sent and one after their last answer, and on what
the client itself knows. Each function says what it claims. A claim may be smaller than what took place, it is never
larger: other people's requests, booking that lags, preemptions and drafts make a witness silent, not wrong. Compared
with the step trace by ``benchmarks/witnesses.py``.

vLLM books a step when it emitted something: the computed prompt tokens of the requests that got their first token in
it, and all tokens that it generated (0.23 to 0.33, ``v1/metrics/stats.py``). Tokens of an answer can be known before
their step is booked only where a step has more than 128 answers (``VLLM_V1_OUTPUT_PROC_CHUNK_SIZE``). It is assumed
that a page is the engine's own of that moment: in one from a cache between us and the engine, others' tokens can hide
that ours are missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detinf.probe.metrics import Snapshot


@dataclass(frozen=True)
class Sent:
    """What we sent and got between two looks; every answer arrived whole."""

    prompts: tuple[int, ...]
    """Tokens of each prompt of the cohort."""
    generated: tuple[int, ...]
    """Tokens of each answer of the cohort."""
    plugs: tuple[int, ...] = ()
    """Tokens of the prompts that held the scheduler; each generated one token."""

    @property
    def decoded(self) -> int:
        """Return the cohort's decoded tokens: all but each answer's first, which comes of reading the prompt."""
        return sum(self.generated) - len(self.generated)

    @property
    def all_generated(self) -> int:
        """Return all tokens that we made the engine generate."""
        return sum(self.generated) + len(self.plugs)

    @property
    def all_prompts(self) -> int:
        """Return all prompt tokens that we sent."""
        return sum(self.prompts) + sum(self.plugs)


def foreign_tokens(before: Snapshot, after: Snapshot, sent: Sent) -> int:
    """Return how many tokens were generated for others; negative where not even ours are booked."""
    return round(after.generated - before.generated) - sent.all_generated


def resident(*looks: Snapshot) -> int:
    """Return W1: at one moment the engine held that many requests. Not that one step held them."""
    return round(max((look.running for look in looks), default=0.0))


def decoded_together(before: Snapshot, after: Snapshot, sent: Sent) -> int:
    """Return W2: the largest number of the cohort's requests of which one step surely decoded that many; else 0.

    If no step had decoded k of ours, our decoded tokens would be at most k - 1 for each step, and at most a step's own
    size where that is smaller, which the histogram tells. So k is proven where we got more. Steps of others only make
    the bound larger. A step that was not booked yet is allowed for where others' tokens could hide that ours are not.
    """
    foreign = foreign_tokens(before, after, sent)
    if foreign < 0 or after.steps < before.steps or not _unspeculative(before, after) or preempted(before, after) != 0:
        return 0
    sizes = _sizes(before, after)
    if sizes is None:
        return 0
    if foreign > 0:
        sizes = [*sizes, (math.inf, 1)]
    proven = 0
    while proven < len(sent.generated):
        if sent.decoded <= sum(count * min(proven, size) for size, count in sizes):
            break
        proven += 1
    return proven


def edge_between(before: Snapshot, after: Snapshot, prompts: Sequence[int]) -> float | None:
    """Return a histogram edge that all of a cohort's prompts exceed together, and no part of them; None without one."""
    if not prompts or before.edges is None or after.edges is None:
        return None
    whole = sum(prompts) + len(prompts)
    part = whole - min(prompts)
    both = [edge for edge in after.edges if edge in before.edges and part <= edge < whole]
    return min(both, default=None)


def read_together(before: Snapshot, after: Snapshot, sent: Sent) -> bool:
    """Return W3: whether one step surely emitted the first tokens of the whole cohort, and no plug's.

    A step that emits the first tokens of only a part is booked at or below the edge; each plug lifts one step above it
    at most. It says nothing about where the prompts were read: an engine that cuts them books all of a prompt with its
    last piece. In company nothing is proven.
    """
    edge = edge_between(before, after, sent.prompts)
    if edge is None or not ours_alone(before, after, sent) or preempted(before, after) != 0:
        return False
    assert before.edges is not None  # noqa: S101 - there is an edge
    assert after.edges is not None  # noqa: S101 - as above
    above = (after.steps - after.edges[edge]) - (before.steps - before.edges[edge])
    return above > len(sent.plugs)


def possible_width(intervals: Iterable[tuple[float, float]]) -> int:
    """Return W4: at most that many requests were in the engine at one moment.

    A time at the client proves no more: tokens that wait in a buffer look as if they had been made together. What was
    answered before another was sent did not run with it, and that is certain.

    Args:
        intervals: when each request was sent and when its answer ended, in seconds.
    """
    events = [event for start, end in intervals for event in ((start, 1), (end, -1))]
    # Of two events at one time the sending counts first: the bound must not be too small.
    width = widest = 0
    for _, change in sorted(events, key=lambda event: (event[0], -event[1])):
        width += change
        widest = max(widest, width)
    return widest


def cached_tokens(usage: Mapping[str, Any], *, verified: bool) -> int | None:
    """Return W5: how many prompt tokens of one request came from the cache; None where the answer does not say.

    Args:
        usage: the answer's ``usage``.
        verified: whether this engine was seen to report a hit (``--enable-prompt-tokens-details``): then a missing
            number means 0, which vLLM leaves out.
    """
    details = usage.get("prompt_tokens_details")
    value = details.get("cached_tokens") if isinstance(details, Mapping) else None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    return 0 if verified and value is None else None


def ours_alone(before: Snapshot, after: Snapshot, sent: Sent) -> bool:
    """Return W6: no request of others got a token between the looks."""
    if before.prompts is None or after.prompts is None:
        return False
    return foreign_tokens(before, after, sent) == 0 and round(after.prompts - before.prompts) == sent.all_prompts


def preempted(before: Snapshot, after: Snapshot) -> int | None:
    """Return W6: how many requests were put back, whoever sent them; None where the engine does not say."""
    return _risen(before.preemptions, after.preemptions)


def cached_of_ours(before: Snapshot, after: Snapshot, sent: Sent) -> int | None:
    """Return W6: how many of our prompt tokens came from the cache; None where it cannot be told from others'.

    With the cache off nothing is looked up, and the answer is 0: cache stimuli do not apply.
    """
    looked_up = _risen(before.cache_queries, after.cache_queries)
    if looked_up == 0:
        return 0
    return _risen(before.cache_hits, after.cache_hits) if looked_up == sent.all_prompts else None


def corrupted(before: Snapshot, after: Snapshot) -> int | None:
    """Return W6: how many requests had NaN in their logits, whoever sent them; None where the engine does not say."""
    return _risen(before.corrupted, after.corrupted)


def _risen(before: float | None, after: float | None) -> int | None:
    if before is None or after is None or after < before:
        return None
    return round(after - before)


def _unspeculative(before: Snapshot, after: Snapshot) -> bool:
    return before.drafts == after.drafts


def _sizes(before: Snapshot, after: Snapshot) -> list[tuple[float, int]] | None:
    """Return (size at most, steps) of the steps between the looks; None where the counters contradict each other."""
    steps = round(after.steps - before.steps)
    sizes, below = [], 0
    for edge in sorted(set(before.edges or ()) & set(after.edges or ()) - {math.inf}):
        assert before.edges is not None  # noqa: S101 - it has this edge
        assert after.edges is not None  # noqa: S101 - as above
        count = round(after.edges[edge] - before.edges[edge])
        if count < below:
            return None
        sizes.append((edge, count - below))
        below = count
    return [*sizes, (math.inf, steps - below)] if steps >= below else None
