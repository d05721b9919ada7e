"""An engine's answer, parsed strictly: token ids, float32 logprob bits, finish reason.

vLLM's logprobs are float32 tensors, printed as the shortest decimal that gives the same double; so a double that is no
float32 was rounded on its way, and nothing can be said about bits that did not arrive (probing.md 6.2).
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from detinf.documents import Answer
from detinf.probe.reasons import InconclusiveError, Reason

FLOOR = -9999.0
"""What vLLM puts where there is no finite logprob; equal floors are no evidence."""


@dataclass(frozen=True)
class Observation:
    """What an engine answered."""

    token_ids: tuple[int, ...]
    logprob_bits: tuple[int, ...]
    finish_reason: str

    def answer(self) -> Answer:
        """Return it as documents carry it."""
        bits = "".join(f"{value:08x}" for value in self.logprob_bits)
        return Answer(token_ids=list(self.token_ids), logprob_bits=bits, finish_reason=self.finish_reason)


def from_answer(answer: Answer) -> Observation:
    """Return the observation that a document carries."""
    text = answer.logprob_bits
    bits = tuple(int(text[start : start + 8], 16) for start in range(0, len(text), 8))
    return Observation(tuple(answer.token_ids), bits, answer.finish_reason)


def float32_bits(value: float) -> int:
    """Return the bits of a double that is a float32.

    Raises:
        InconclusiveError: PrecisionLost where it is not.
    """
    try:
        packed = struct.pack(">f", value)
    except OverflowError as error:
        raise InconclusiveError(Reason.PRECISION_LOST, f"{value!r} is beyond float32") from error
    if struct.unpack(">f", packed)[0] != value:
        raise InconclusiveError(Reason.PRECISION_LOST, f"{value!r} is no float32: something rounded it on the way")
    return int.from_bytes(packed, "big")


def value_of_bits(bits: int) -> float:
    """Return the float32 of its bits, as a double."""
    return float(struct.unpack(">f", bits.to_bytes(4, "big"))[0])


def _constant(name: str) -> float:
    raise InconclusiveError(Reason.SHAPE, f"the answer holds {name}")


def parse_completion(body: bytes, *, tokens: int) -> Observation:
    """Read an answer of ``/v1/completions``, asked with ``return_token_ids`` and ``logprobs``.

    Args:
        body: the answer's bytes.
        tokens: how many tokens were asked for, exactly.

    Raises:
        InconclusiveError: Garbage, Shape, FinishReason, PrecisionLost or FloorValue.
    """
    try:
        parsed = json.loads(body, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise InconclusiveError(Reason.GARBAGE, f"no JSON: {body[:60]!r}") from error
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise InconclusiveError(Reason.SHAPE, "the answer has not exactly one choice")
    choice: dict[str, Any] = choices[0]
    ids = choice.get("token_ids")
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(ids, list) or not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
        raise InconclusiveError(Reason.SHAPE, "choices[0].token_ids is no list of ids")
    if not isinstance(values, list) or not all(isinstance(item, (int, float)) for item in values):
        raise InconclusiveError(Reason.SHAPE, "choices[0].logprobs.token_logprobs is no list of numbers")
    finish = choice.get("finish_reason")
    if finish != "length":
        raise InconclusiveError(Reason.FINISH_REASON, f"finish_reason is {finish!r}, asked for {tokens} tokens exactly")
    if len(ids) != tokens or len(values) != tokens:
        raise InconclusiveError(
            Reason.SHAPE, f"{len(ids)} ids and {len(values)} logprobs, {tokens} of each were asked for"
        )
    if any(not math.isfinite(value) for value in values):
        raise InconclusiveError(Reason.SHAPE, "a logprob is not finite")
    if any(value <= FLOOR for value in values):
        raise InconclusiveError(Reason.FLOOR_VALUE, f"a logprob is at vLLM's floor of {FLOOR}")
    return Observation(tuple(ids), tuple(float32_bits(float(value)) for value in values), finish)
