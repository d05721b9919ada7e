"""Parsing: what counts as an answer, and why the rest does not."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detinf.probe.observation import float32_bits, from_answer, parse_completion, value_of_bits
from detinf.probe.reasons import InconclusiveError, Reason

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=-(2.0**-100), min_value=-9998.0)


def body(**changes: Any) -> bytes:
    choice: dict[str, Any] = {
        "token_ids": [5, 6],
        "logprobs": {"token_logprobs": [-0.5, -1.25]},
        "finish_reason": "length",
    }
    choice |= changes
    return json.dumps({"choices": [choice]}).encode()


def test_good_answer_keeps_every_bit() -> None:
    seen = parse_completion(body(), tokens=2)
    assert seen.token_ids == (5, 6)
    assert [value_of_bits(bits) for bits in seen.logprob_bits] == [-0.5, -1.25]
    assert from_answer(seen.answer()) == seen


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>hello</html>", Reason.GARBAGE),
        (b"", Reason.GARBAGE),
        (b"[" * 5000, Reason.GARBAGE),
        (b"[]", Reason.SHAPE),
        (b'{"choices": []}', Reason.SHAPE),
        (b'{"choices": [{}, {}]}', Reason.SHAPE),
        (body(token_ids=None), Reason.SHAPE),
        (body(token_ids=[5, True]), Reason.SHAPE),
        (body(token_ids=[5]), Reason.SHAPE),
        (body(logprobs=None), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, None]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, float("nan")]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, float("-inf")]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5]}), Reason.SHAPE),
        (body(finish_reason="stop"), Reason.FINISH_REASON),
        (body(finish_reason=None), Reason.FINISH_REASON),
        (body(logprobs={"token_logprobs": [-0.5, -1.3]}), Reason.PRECISION_LOST),
        (body(logprobs={"token_logprobs": [-0.5, -1e300]}), Reason.FLOOR_VALUE),
        (body(logprobs={"token_logprobs": [-0.5, -9999.0]}), Reason.FLOOR_VALUE),
    ],
)
def test_bad_answer_is_inconclusive_with_its_reason(data: bytes, reason: Reason) -> None:
    with pytest.raises(InconclusiveError) as caught:
        parse_completion(data, tokens=2)
    assert caught.value.reason is reason


@given(FINITE)
def test_any_float32_survives_json(value: float) -> None:
    again = json.loads(json.dumps(value))
    assert value_of_bits(float32_bits(again)) == value


@given(st.lists(FINITE, min_size=32, max_size=32), st.integers(3, 8))
def test_rounded_answer_is_never_an_observation(values: list[float], digits: int) -> None:
    rounded = [round(value, digits) for value in values]
    # Where rounding changed nothing at all, nothing was lost.
    assume(rounded != values)
    assume(any(struct.unpack("<f", struct.pack("<f", value))[0] != value for value in rounded))
    data = body(token_ids=list(range(32)), logprobs={"token_logprobs": rounded})
    with pytest.raises(InconclusiveError) as caught:
        parse_completion(data, tokens=32)
    assert caught.value.reason is Reason.PRECISION_LOST
