"""Parsing: what counts as an answer, and why the rest does not."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detinf.probe.observation import FLOOR_BITS, float32_bits, from_answer, parse_completion, value_of_bits
from detinf.probe.reasons import InconclusiveError, Reason

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=-(2.0**-100), min_value=-9998.0)


TOPS = [{"token_id:5": -0.5, "token_id:9": -1.5}, {"token_id:8": -0.75, "token_id:6": -1.25}]


def choice(**changes: Any) -> dict[str, Any]:
    return {
        "token_ids": [5, 6],
        "logprobs": {"token_logprobs": [-0.5, -1.25], "top_logprobs": TOPS},
        "finish_reason": "length",
    } | changes


def body(**changes: Any) -> bytes:
    return json.dumps({"choices": [choice(**changes)]}).encode()


def tops(*places: Any) -> bytes:
    return body(logprobs={"token_logprobs": [-0.5, -1.25], "top_logprobs": list(places)})


def answer_of(values: list[float]) -> bytes:
    return body(token_ids=list(range(len(values))), logprobs={"token_logprobs": values})


def test_good_answer_keeps_every_bit() -> None:
    seen = parse_completion(body(prompt_token_ids=[1, 2]), tokens=2, prompt=[1, 2])
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
        (body(token_ids=[5, -1]), Reason.SHAPE),
        (body(token_ids=[5, 2**32]), Reason.SHAPE),
        (body(token_ids=[5, 6.0]), Reason.SHAPE),
        (body(prompt_token_ids=[1, 2, 4]), Reason.SHAPE),
        (b'{"choices": [], "choices": []}', Reason.SHAPE),
        (body(logprobs=[-0.5, -1.25]), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, False]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, "-1.25"]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, -(10**400)]}), Reason.SHAPE),
        (body(logprobs=None), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, None]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, float("nan")]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5, float("-inf")]}), Reason.SHAPE),
        (body(logprobs={"token_logprobs": [-0.5]}), Reason.SHAPE),
        (body(finish_reason="stop"), Reason.FINISH_REASON),
        (body(finish_reason=None), Reason.FINISH_REASON),
        (body(logprobs={"token_logprobs": [-0.5, -1.3]}), Reason.PRECISION_LOST),
    ],
)
def test_bad_answer_is_inconclusive_with_its_reason(data: bytes, reason: Reason) -> None:
    with pytest.raises(InconclusiveError) as caught:
        parse_completion(data, tokens=2, prompt=[1, 2, 3])
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (body(logprobs={"token_logprobs": [-0.5, -1.25]}), Reason.SHAPE),
        (tops(TOPS[0]), Reason.SHAPE),
        (tops(TOPS[0], [-1.25]), Reason.SHAPE),
        # Decoded strings: two tokens with the same text would be one key.
        (tops(TOPS[0], {" a": -0.75, "token_id:6": -1.25}), Reason.SHAPE),
        (tops(TOPS[0], {"token_id:06": -1.25}), Reason.SHAPE),
        (tops(TOPS[0], {"token_id:8": -0.75, "token_id:7": -1.25}), Reason.SHAPE),
        (tops(TOPS[0], {"token_id:8": -0.75, "token_id:6": -1.0}), Reason.SHAPE),
        (tops(TOPS[0], {"token_id:6": -1.25} | {f"token_id:{token}": -2.0 for token in range(10, 13)}), Reason.SHAPE),
        (tops(TOPS[0], {"token_id:8": -0.7, "token_id:6": -1.25}), Reason.PRECISION_LOST),
    ],
)
def test_bad_most_probable_tokens_are_inconclusive_with_their_reason(data: bytes, reason: Reason) -> None:
    with pytest.raises(InconclusiveError) as caught:
        parse_completion(data, tokens=2, top=2)
    assert caught.value.reason is reason


def test_most_probable_tokens_are_sorted_without_floors_and_without_the_one_beside_them() -> None:
    floored = TOPS[0] | {"token_id:77": -9999.0}
    beside = {"token_id:6": -1.25, "token_id:8": -0.75, "token_id:3": -0.75}
    seen = parse_completion(tops(floored, beside), tokens=2, top=2)
    first, second = ([(token, value_of_bits(bits)) for token, bits in place] for place in seen.top)
    assert first == [(5, -0.5), (9, -1.5)]
    assert second == [(3, -0.75), (8, -0.75)]
    assert seen.floored == (0,)
    assert from_answer(seen.answer(with_top=True)) == seen
    assert seen.answer().top_bits is None


@pytest.mark.parametrize("floor", [-9999.0, -9999, -10000.5, -1e300])
def test_floor_is_read_as_the_floor_and_known_as_one(floor: float) -> None:
    seen = parse_completion(body(logprobs={"token_logprobs": [-0.5, floor]}), tokens=2)
    assert (seen.logprob_bits[1], seen.has_floors) == (FLOOR_BITS, True)
    assert not parse_completion(body(), tokens=2).has_floors
    listed = parse_completion(tops(TOPS[0] | {"token_id:0": floor}, TOPS[1]), tokens=2)
    assert (listed.floored, listed.has_floors) == ((0,), True)


def test_floor_of_the_chosen_token_is_read_with_its_list() -> None:
    first, second = ({"token_id:5": -9999.0}, {"token_id:6": -1.25, "token_id:8": -2.0})
    data = body(token_ids=[5, 6], logprobs={"token_logprobs": [-9999.0, -1.25], "top_logprobs": [first, second]})
    assert parse_completion(data, tokens=2, top=2).top[0] == ((5, FLOOR_BITS),)


# Three at most: four and more that are all float16 would be taken for rounded ones.
@given(st.lists(FINITE | st.just(-0.0), min_size=1, max_size=3))
def test_proxy_that_writes_the_same_numbers_otherwise_changes_no_bit(values: list[float]) -> None:
    plain = parse_completion(answer_of(values), tokens=len(values))
    for form in ("%.17g", "%.17e", "%.140f"):
        text = ",".join(form % value for value in values)
        ids = ",".join(str(index) for index in range(len(values)))
        logprobs = f'"logprobs":{{"token_logprobs":[{text}]}}'
        again = f'{{"choices":[{{"finish_reason":"length",{logprobs},"token_ids":[{ids}]}}]}}'
        assert parse_completion(again.encode(), tokens=len(values)) == plain
    zeros = [0 if value == 0 else value for value in values]  # JavaScript writes -0.0 as 0
    assert parse_completion(answer_of(zeros), tokens=len(values)) == plain


@pytest.mark.parametrize("lost", [13, 16])
@given(values=st.lists(st.floats(-60.0, -0.5, width=32), min_size=8, max_size=32))
def test_logprobs_that_went_through_half_precision_are_no_observation(lost: int, values: list[float]) -> None:
    halved = [value_of_bits(float32_bits(value) >> lost << lost) for value in values]
    with pytest.raises(InconclusiveError) as caught:
        parse_completion(answer_of(halved), tokens=len(values))
    assert caught.value.reason is Reason.PRECISION_LOST
    halved[-1] = value_of_bits(float32_bits(halved[-1]) | 1)  # one whole float32 among them, and nothing was rounded
    assert len(parse_completion(answer_of(halved), tokens=len(values)).token_ids) == len(values)


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
