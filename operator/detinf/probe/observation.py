"""An engine's answer, parsed strictly: token ids, float32 logprob bits, the most probable tokens, finish reason.

vLLM's logprobs are float32 tensors, printed as the shortest decimal that gives the same double; so a double that is no
float32 was rounded on its way, and nothing can be said about bits that did not arrive (probing.md 6.2). Numbers are
compared and never their text: a proxy may write 1e-05 for 0.00001, 0 for -0.0, and keys in another order.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from detinf.documents import Answer
from detinf.probe.reasons import InconclusiveError, Reason

FLOOR = -9999.0
"""What vLLM puts where there is no finite logprob: a difference where the other answer has a number, and no evidence
where both have it."""
FLOOR_BITS = int.from_bytes(struct.pack(">f", FLOOR), "big")
LARGEST_ID = 2**32 - 1
HALF_MASK = (1 << 13) - 1
"""Bits of a float32 that a float16 (and a bfloat16) does not have."""
HALF_EVIDENCE = 4
"""Logprobs of at least half a nat that must all look like float16: by chance 1 of 2^52 answers does.

Smaller ones do not count: a logprob is a difference of two larger numbers, and its last bits may well be zero.
"""

_TOKEN_KEY = re.compile(r"token_id:(0|[1-9][0-9]{0,9})\Z")

Top = tuple[tuple[int, int], ...]
"""The most probable tokens of one position: (id, logprob bits), most probable first, then by id."""


@dataclass(frozen=True)
class Observation:
    """What an engine answered."""

    token_ids: tuple[int, ...]
    logprob_bits: tuple[int, ...]
    finish_reason: str
    top: tuple[Top, ...] = ()
    """For each position; empty where they were not asked for."""
    floored: tuple[int, ...] = field(default=(), compare=False)
    """Positions at which vLLM's floor stands among the most probable tokens. A document does not carry them: an answer
    that has some becomes none."""

    @property
    def has_floors(self) -> bool:
        """Whether a logprob is vLLM's floor: of a chosen token, or among the most probable ones."""
        return bool(self.floored) or FLOOR_BITS in self.logprob_bits

    def answer(self, *, with_top: bool = False) -> Answer:
        """Return it as documents carry it; the most probable tokens only in evidence."""
        bits = "".join(f"{value:08x}" for value in self.logprob_bits)
        top = ["".join(f"{token:08x}{value:08x}" for token, value in place) for place in self.top]
        return Answer(
            token_ids=list(self.token_ids),
            logprob_bits=bits,
            finish_reason=self.finish_reason,
            top_bits=top if with_top and top else None,
        )


def from_answer(answer: Answer) -> Observation:
    """Return the observation that a document carries."""
    places = (_numbers(place) for place in answer.top_bits or ())
    top = tuple(tuple(zip(place[::2], place[1::2], strict=True)) for place in places)
    return Observation(tuple(answer.token_ids), _numbers(answer.logprob_bits), answer.finish_reason, top)


def _numbers(text: str) -> tuple[int, ...]:
    return struct.unpack(f">{len(text) // 8}I", bytes.fromhex(text))


def float32_bits(value: float) -> int:
    """Return the bits of a double that is a float32; of both zeros those of 0.0, since proxies drop the sign.

    Raises:
        InconclusiveError: PrecisionLost where it is not.
    """
    try:
        packed = struct.pack(">f", value)
    except OverflowError as error:
        raise InconclusiveError(Reason.PRECISION_LOST, f"{value!r} is beyond float32") from error
    if struct.unpack(">f", packed)[0] != value:
        raise InconclusiveError(Reason.PRECISION_LOST, f"{value!r} is no float32: something rounded it on the way")
    return int.from_bytes(packed, "big") if value else 0


def value_of_bits(bits: int) -> float:
    """Return the float32 of its bits, as a double."""
    return float(struct.unpack(">f", bits.to_bytes(4, "big"))[0])


def rank_of_bits(bits: int) -> int:
    """Return a number that orders float32 values as they are ordered; neighbours differ by one."""
    # Negative floats are ordered backwards by their bits.
    return -(bits & 0x7FFF_FFFF) if bits & 0x8000_0000 else bits


def _constant(name: str) -> float:
    raise InconclusiveError(Reason.SHAPE, f"the answer holds {name}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        # Two tokens with one name: one of them would be lost without a word.
        raise InconclusiveError(Reason.SHAPE, "an object of the answer has a key twice")
    return found


def parse_completion(
    body: bytes, *, tokens: int, prompt: Sequence[int] = (), top: int = 0, place: int = 0, of: int = 1
) -> Observation:
    """Read an answer of ``/v1/completions``, asked with ``return_token_ids`` and ``logprobs``.

    Args:
        body: the answer's bytes.
        tokens: how many tokens were asked for, exactly.
        prompt: what was asked; an answer that repeats another prompt belongs to somebody else.
        top: how many of the most probable tokens were asked for; 0 where they are not to be read.
        place: which prompt of the request is meant.
        of: how many prompts the request had.

    Raises:
        InconclusiveError: Garbage, Shape, FinishReason or PrecisionLost.
    """
    try:
        parsed = json.loads(body, parse_constant=_constant, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise InconclusiveError(Reason.GARBAGE, f"no JSON: {body[:60]!r}") from error
    choices = parsed.get("choices") if isinstance(parsed, dict) else None
    if not isinstance(choices, list) or len(choices) != of or not all(isinstance(item, dict) for item in choices):
        raise InconclusiveError(Reason.SHAPE, f"the answer has not exactly {of} choices")
    choice = _choice(choices, place)
    ids = choice.get("token_ids")
    logprobs = choice.get("logprobs")
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(ids, list) or not all(type(item) is int and 0 <= item <= LARGEST_ID for item in ids):
        raise InconclusiveError(Reason.SHAPE, "choices[0].token_ids is no list of ids")
    if not isinstance(logprobs, dict) or not isinstance(values, list):
        raise InconclusiveError(Reason.SHAPE, "choices[0].logprobs.token_logprobs is no list of numbers")
    echoed = choice.get("prompt_token_ids")
    if prompt and echoed is not None and echoed != list(prompt):
        raise InconclusiveError(Reason.SHAPE, "choices[0].prompt_token_ids is not the prompt that was asked")
    finish = choice.get("finish_reason")
    if finish != "length":
        raise InconclusiveError(Reason.FINISH_REASON, f"finish_reason is {finish!r}, asked for {tokens} tokens exactly")
    if len(ids) != tokens or len(values) != tokens:
        raise InconclusiveError(
            Reason.SHAPE, f"{len(ids)} ids and {len(values)} logprobs, {tokens} of each were asked for"
        )
    bits = tuple(_logprob(value) for value in values)
    _not_halved(bits)
    listed = _tops(logprobs, ids, bits, top) if top else ()
    return Observation(tuple(ids), bits, finish, listed, _floored(logprobs.get("top_logprobs")))


def _floored(listed: Any) -> tuple[int, ...]:
    """Return where a floor is listed: the most probable token of all has a number, whatever the model."""
    if not isinstance(listed, list):
        return ()
    return tuple(
        place
        for place, entry in enumerate(listed)
        if isinstance(entry, dict) and any(type(value) in {int, float} and value <= FLOOR for value in entry.values())
    )


def _choice(choices: list[dict[str, Any]], place: int) -> dict[str, Any]:
    """Return the choice of a prompt: choices of a list say themselves which prompt they answer."""
    meant = choices if len(choices) == 1 else [item for item in choices if item.get("index") == place]
    if len(meant) != 1:
        raise InconclusiveError(Reason.SHAPE, f"{len(meant)} choices answer prompt {place}")
    return meant[0]


def _logprob(value: Any) -> int:
    number = _number(value)
    return FLOOR_BITS if number <= FLOOR else float32_bits(number)


def _number(value: Any) -> float:
    if type(value) is not float and type(value) is not int:
        raise InconclusiveError(Reason.SHAPE, f"a logprob is {value!r:.40}, and no number")
    try:
        number = float(value)
    except OverflowError as error:
        raise InconclusiveError(Reason.SHAPE, "a logprob is not finite") from error
    if not math.isfinite(number):
        raise InconclusiveError(Reason.SHAPE, "a logprob is not finite")
    return number


def _not_halved(bits: tuple[int, ...]) -> None:
    """Refuse logprobs that went through float16 or bfloat16.

    Raises:
        InconclusiveError: PrecisionLost.
    """
    telling = [value for value in bits if value & 0x7FFF_FFFF >= 0x3F00_0000 and value != FLOOR_BITS]  # at least 0.5
    if len(telling) >= HALF_EVIDENCE and not any(value & HALF_MASK for value in telling):
        raise InconclusiveError(
            Reason.PRECISION_LOST, f"all of {len(telling)} logprobs are float16 or bfloat16: something rounded them"
        )


def _tops(logprobs: dict[str, Any], ids: list[int], bits: tuple[int, ...], top: int) -> tuple[Top, ...]:
    listed = logprobs.get("top_logprobs")
    if not isinstance(listed, list) or len(listed) != len(ids):
        raise InconclusiveError(Reason.SHAPE, "choices[0].logprobs.top_logprobs has not one entry for each token")
    return tuple(_top(place, chosen, value, top) for place, chosen, value in zip(listed, ids, bits, strict=True))


def _top(place: Any, chosen: int, chosen_bits: int, top: int) -> Top:
    """Return the most probable tokens of a position, without the chosen one where it is listed beside them."""
    if not isinstance(place, dict) or len(place) > top + 1:
        raise InconclusiveError(Reason.SHAPE, f"an entry of top_logprobs is no object of at most {top + 1} tokens")
    found: list[tuple[int, int]] = []
    for name, value in place.items():
        key = _TOKEN_KEY.match(name)
        if key is None:
            raise InconclusiveError(Reason.SHAPE, f"top_logprobs has the key {name!r:.40}, and no token_id:N")
        number = _number(value)
        if number > FLOOR:
            found.append((int(key[1]), float32_bits(number)))
    if chosen_bits == FLOOR_BITS:
        found.append((chosen, chosen_bits))
    if (chosen, chosen_bits) not in found:
        raise InconclusiveError(Reason.SHAPE, "top_logprobs does not have the chosen token with its logprob")
    if len(found) > top:
        found.remove((chosen, chosen_bits))
    return tuple(sorted(found, key=lambda item: (-rank_of_bits(item[1]), item[0])))
