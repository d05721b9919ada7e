"""Comparison: one bit is a difference, wherever it is."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from detinf.api.types import Promise
from detinf.probe.comparison import Observable, compare, ulps_between
from detinf.probe.observation import Observation, float32_bits

BITS = st.integers(0x8000_0001, 0xC61C_3BFF)  # float32 from just below zero to about -9998
OBSERVATIONS = st.integers(1, 64).flatmap(
    lambda size: st.builds(
        Observation,
        st.lists(st.integers(0, 200_000), min_size=size, max_size=size).map(tuple),
        st.lists(BITS, min_size=size, max_size=size).map(tuple),
        st.just("length"),
    )
)


@given(OBSERVATIONS)
def test_equal_observations_have_no_difference(observation: Observation) -> None:
    assert compare(observation, replace(observation), Promise.TOKENS_AND_LOGPROBS) is None


@given(OBSERVATIONS, st.data())
def test_single_ulp_at_any_position_is_found(observation: Observation, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(observation.token_ids) - 1))
    step = data.draw(st.sampled_from([-1, 1]))
    bits = list(observation.logprob_bits)
    bits[position] += step
    other = replace(observation, logprob_bits=tuple(bits))
    found = compare(observation, other, Promise.TOKENS_AND_LOGPROBS)
    assert found is not None
    assert (found.observable, found.position, found.differing_positions) == (Observable.LOGPROB, position, 1)
    assert found.max_ulps == 1
    assert found.phase == ("prefill" if position == 0 else "decode")
    assert compare(observation, other, Promise.TOKENS) is None


@given(OBSERVATIONS, st.data())
def test_single_token_at_any_position_is_found_under_either_promise(
    observation: Observation, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, len(observation.token_ids) - 1))
    ids = list(observation.token_ids)
    ids[position] += 1
    for promise in Promise:
        found = compare(observation, replace(observation, token_ids=tuple(ids)), promise)
        assert found is not None
        assert (found.observable, found.position) == (Observable.TOKEN, position)


def test_logprob_before_the_first_token_difference_gives_the_position() -> None:
    left = Observation((1, 2, 3), (0xBF000000, 0xBF000000, 0xBF000000), "length")
    right = Observation((1, 2, 4), (0xBF000000, 0xBF000002, 0xBF800000), "length")
    found = compare(left, right, Promise.TOKENS_AND_LOGPROBS)
    assert found is not None
    assert (found.observable, found.position, found.max_ulps) == (Observable.TOKEN, 1, 2)


def test_shorter_answer_differs_where_it_ends() -> None:
    found = compare(Observation((1, 2), (1, 2), "length"), Observation((1,), (1,), "length"), Promise.TOKENS)
    assert found is not None
    assert (found.observable, found.position) == (Observable.TOKEN, 1)


def test_finish_reason_alone_is_a_difference() -> None:
    found = compare(Observation((1,), (1,), "length"), Observation((1,), (1,), "stop"), Promise.TOKENS)
    assert found is not None
    assert found.observable is Observable.FINISH


def test_ulps_count_across_zero() -> None:
    assert ulps_between(float32_bits(0.0), 0x8000_0001) == 1
    assert ulps_between(float32_bits(-1.0), float32_bits(-1.0000001192092896)) == 1
