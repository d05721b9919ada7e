"""Exact comparison of two observations. No tolerance: one bit is a difference."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from detinf.api.types import Promise
from detinf.probe.observation import Observation, Top, rank_of_bits, value_of_bits


class Observable(StrEnum):
    """What differs, by what users notice first."""

    TOKEN = "token"  # noqa: S105 - a token of text
    LOGPROB = "logprob"
    TOP = "top"
    FINISH = "finish"


@dataclass(frozen=True)
class Difference:
    """Where and how much two observations differ."""

    observable: Observable
    position: int
    """First position that differs, in any observable."""
    differing_positions: int
    max_ulps: int
    """Largest distance of two logprobs before the first different token; after it they answer different questions."""
    max_nats: float
    token_position: int | None = None
    """First position with another token."""
    logprob_position: int | None = None
    """First position with another logprob of the chosen token."""
    top_position: int | None = None
    """First position, up to the first different token, where the most probable tokens differ."""
    margin_nats: float | None = None
    """Distance of the two most probable tokens at the first difference, where the expected answer has them."""

    @property
    def phase(self) -> str:
        """Where the first difference was computed."""
        return "prefill" if self.position == 0 else "decode"


def ulps_between(left: int, right: int) -> int:
    """Return how many float32 values lie between two, given by their bits."""
    return abs(rank_of_bits(left) - rank_of_bits(right))


def compare(expected: Observation, observed: Observation, promise: Promise) -> Difference | None:
    """Return the difference that breaks the promise, or None.

    ``promise: Tokens`` compares ids and finish reasons alone; the bits of logprobs are then not promised. Most probable
    tokens are compared where both have them; which of several equally probable ones came last is no difference. vLLM's
    floor against a number is one, in an answer's logprobs as among its most probable tokens.
    """
    with_logprobs = promise is Promise.TOKENS_AND_LOGPROBS
    tokens = _places(expected.token_ids, observed.token_ids)
    bits = _places(expected.logprob_bits, observed.logprob_bits) if with_logprobs else []
    comparable = tokens[0] if tokens else max(len(expected.token_ids), len(observed.token_ids))
    tops = _different_tops(expected.top, observed.top, comparable) if with_logprobs else []
    if with_logprobs:  # a floor that one of them lists, where both answered the same question
        floored = set(expected.floored) ^ set(observed.floored)
        tops = sorted({*tops, *(place for place in floored if place <= comparable)})
    places = sorted({*tokens, *bits, *tops})
    if not places:
        if expected.finish_reason == observed.finish_reason:
            return None
        return Difference(Observable.FINISH, len(expected.token_ids), 0, 0, 0.0)
    both = min(len(expected.logprob_bits), len(observed.logprob_bits), comparable)
    pairs = [(expected.logprob_bits[place], observed.logprob_bits[place]) for place in bits if place < both]
    for place in tops:
        if place >= min(len(expected.top), len(observed.top)):
            continue
        ranked = zip(expected.top[place], observed.top[place], strict=False)
        pairs += [(left[1], right[1]) for left, right in ranked]
    first = places[0]
    return Difference(
        observable=Observable.TOKEN if tokens else Observable.LOGPROB if bits else Observable.TOP,
        position=first,
        differing_positions=len(places),
        max_ulps=max((ulps_between(left, right) for left, right in pairs), default=0),
        max_nats=max((abs(value_of_bits(left) - value_of_bits(right)) for left, right in pairs), default=0.0),
        token_position=tokens[0] if tokens else None,
        logprob_position=bits[0] if bits else None,
        top_position=tops[0] if tops else None,
        margin_nats=_margin(expected.top[first]) if first < len(expected.top) else None,
    )


def _places(expected: tuple[int, ...], observed: tuple[int, ...]) -> list[int]:
    """Return the positions that differ; those that only one has do."""
    if expected == observed:
        return []
    both = min(len(expected), len(observed))
    different = [place for place in range(both) if expected[place] != observed[place]]
    return [*different, *range(both, max(len(expected), len(observed)))]


def _different_tops(expected: tuple[Top, ...], observed: tuple[Top, ...], comparable: int) -> list[int]:
    if not expected or not observed or expected == observed:
        return []
    # At the first different token both still answered the same question.
    last = min(len(expected), len(observed), comparable + 1)
    return [place for place in range(last) if _top_differs(expected[place], observed[place])]


def _top_differs(expected: Top, observed: Top) -> bool:
    if expected == observed:
        return False
    if [value for _, value in expected] != [value for _, value in observed]:
        return True
    # The same values: who holds the lowest of them is a matter of how the list was cut, which nobody promises.
    lowest = expected[-1][1]
    return [entry for entry in expected if entry[1] != lowest] != [entry for entry in observed if entry[1] != lowest]


def _margin(top: Top) -> float | None:
    return value_of_bits(top[0][1]) - value_of_bits(top[1][1]) if len(top) > 1 else None
