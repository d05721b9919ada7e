"""Exact comparison of two observations. No tolerance: one bit is a difference."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from detinf.api.types import Promise
from detinf.probe.observation import Observation, value_of_bits


class Observable(StrEnum):
    """What differs, by what users notice first."""

    TOKEN = "token"  # noqa: S105 - a token of text
    LOGPROB = "logprob"
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

    @property
    def phase(self) -> str:
        """Where the first difference was computed."""
        return "prefill" if self.position == 0 else "decode"


def ulps_between(left: int, right: int) -> int:
    """Return how many float32 values lie between two, given by their bits."""
    return abs(_ordered(left) - _ordered(right))


def _ordered(bits: int) -> int:
    # Negative floats are ordered backwards by their bits.
    return -(bits & 0x7FFF_FFFF) if bits & 0x8000_0000 else bits


def compare(expected: Observation, observed: Observation, promise: Promise) -> Difference | None:
    """Return the difference that breaks the promise, or None.

    ``promise: Tokens`` compares ids and finish reasons alone; the bits of logprobs are then not promised.
    """
    length = max(len(expected.token_ids), len(observed.token_ids))
    with_logprobs = promise is Promise.TOKENS_AND_LOGPROBS

    def token_differs(index: int) -> bool:
        return expected.token_ids[index : index + 1] != observed.token_ids[index : index + 1]

    def bits_differ(index: int) -> bool:
        return expected.logprob_bits[index : index + 1] != observed.logprob_bits[index : index + 1]

    tokens = [index for index in range(length) if token_differs(index)]
    bits = [index for index in range(length) if bits_differ(index)] if with_logprobs else []
    places = sorted({*tokens, *bits})
    if not places:
        if expected.finish_reason == observed.finish_reason:
            return None
        return Difference(Observable.FINISH, length, 0, 0, 0.0)
    comparable = [
        index
        for index in bits
        if index < min(len(expected.logprob_bits), len(observed.logprob_bits)) and (not tokens or index < tokens[0])
    ]
    pairs = [(expected.logprob_bits[index], observed.logprob_bits[index]) for index in comparable]
    return Difference(
        observable=Observable.TOKEN if tokens else Observable.LOGPROB,
        position=places[0],
        differing_positions=len(places),
        max_ulps=max((ulps_between(left, right) for left, right in pairs), default=0),
        max_nats=max((abs(value_of_bits(left) - value_of_bits(right)) for left, right in pairs), default=0.0),
    )
