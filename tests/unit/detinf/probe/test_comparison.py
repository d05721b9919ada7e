"""Comparison: one bit is a difference, wherever it is."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from detinf.api.types import Promise
from detinf.probe.comparison import Observable, compare, ulps_between
from detinf.probe.digests import digest48, digests
from detinf.probe.observation import Observation, Top, float32_bits

LOWEST, HIGHEST = 0xC61C_3BFF, 0x8000_0001  # bits of float32 from about -9998 to just below zero


def observation_of(seed: int, size: int, top: int) -> Observation:
    """Return an observation of random ids and logprobs; a seed is drawn, since drawing long lists is slow."""
    generator = random.Random(seed)

    def bits() -> int:
        return generator.randint(HIGHEST, LOWEST)

    def place() -> Top:
        ids = generator.sample(range(200_000), top)
        return tuple(sorted(((token, bits()) for token in ids), key=lambda item: (item[1], item[0])))

    ids = tuple(generator.randrange(200_000) for _ in range(size))
    tops = tuple(place() for _ in range(size)) if top else ()
    return Observation(ids, tuple(bits() for _ in range(size)), "length", tops)


OBSERVATIONS = st.builds(observation_of, st.integers(0, 2**32), st.integers(1, 48), st.sampled_from([0, 5]))
WITH_TOP = st.builds(observation_of, st.integers(0, 2**32), st.integers(1, 24), st.integers(1, 6))
PROMPT = (1, 2, 3)


def changed(numbers: tuple[int, ...], position: int, step: int) -> tuple[int, ...]:
    return (*numbers[:position], numbers[position] + step, *numbers[position + 1 :])


@given(OBSERVATIONS)
def test_equal_observations_have_no_difference(observation: Observation) -> None:
    assert compare(observation, replace(observation), Promise.TOKENS_AND_LOGPROBS) is None


@settings(max_examples=30, deadline=None)
@given(OBSERVATIONS)
def test_single_ulp_at_every_position_is_found(observation: Observation) -> None:
    for position, step in itertools.product(range(len(observation.token_ids)), (-1, 1)):
        other = replace(observation, logprob_bits=changed(observation.logprob_bits, position, step))
        found = compare(observation, other, Promise.TOKENS_AND_LOGPROBS)
        assert found is not None
        assert (found.observable, found.position, found.differing_positions) == (Observable.LOGPROB, position, 1)
        assert found.max_ulps == 1
        assert found.phase == ("prefill" if position == 0 else "decode")
        assert (found.token_position, found.logprob_position, found.top_position) == (None, position, None)
        assert compare(observation, other, Promise.TOKENS) is None
        assert differing(observation, other) == {"logprobs", "top"} & set(present(observation))


@settings(max_examples=30, deadline=None)
@given(WITH_TOP)
def test_single_ulp_of_every_probable_token_at_every_position_is_found(observation: Observation) -> None:
    for position, rank, step in itertools.product(
        range(len(observation.token_ids)), range(len(observation.top[0])), (-1, 1)
    ):
        place = list(observation.top[position])
        place[rank] = (place[rank][0], place[rank][1] + step)
        place.sort(key=lambda item: (item[1], item[0]))
        top = (*observation.top[:position], tuple(place), *observation.top[position + 1 :])
        found = compare(observation, replace(observation, top=top), Promise.TOKENS_AND_LOGPROBS)
        assert found is not None
        assert (found.observable, found.position, found.differing_positions) == (Observable.TOP, position, 1)
        assert found.max_ulps == 1
        assert compare(observation, replace(observation, top=top), Promise.TOKENS) is None
        assert differing(observation, replace(observation, top=top)) == {"top"}


@given(OBSERVATIONS, st.sampled_from(["stop", "abort", "", "Length", "length "]))
def test_any_other_finish_reason_is_found_under_either_promise(observation: Observation, finish: str) -> None:
    other = replace(observation, finish_reason=finish)
    for promise in Promise:
        found = compare(observation, other, promise)
        assert found is not None
        assert (found.observable, found.position) == (Observable.FINISH, len(observation.token_ids))
    assert differing(observation, other) == set(present(observation))


def present(observation: Observation) -> list[str]:
    return ["ids", "logprobs", *(["top"] if observation.top else [])]


def differing(left: Observation, right: Observation) -> set[str]:
    """Return which digests differ."""
    one, other = digests(PROMPT, left), digests(PROMPT, right)
    assert (one.top is None) == (not left.top)
    return {name for name in present(left) if getattr(one, name) != getattr(other, name)}


@settings(max_examples=30, deadline=None)
@given(OBSERVATIONS)
def test_other_token_at_every_position_is_found_under_either_promise(observation: Observation) -> None:
    for position in range(len(observation.token_ids)):
        other = replace(observation, token_ids=changed(observation.token_ids, position, 1))
        assert differing(observation, other) == set(present(observation))
        for promise in Promise:
            found = compare(observation, other, promise)
            assert found is not None
            assert (found.observable, found.position, found.token_position) == (Observable.TOKEN, position, position)


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


def test_which_of_equally_probable_tokens_came_last_is_no_difference() -> None:
    low, high = float32_bits(-1.0), float32_bits(-0.25)

    def with_top(*top: tuple[int, int]) -> Observation:
        return Observation((7,), (high,), "length", (top,))

    left, right = with_top((7, high), (3, low), (5, low)), with_top((7, high), (4, low), (5, low))
    assert compare(left, right, Promise.TOKENS_AND_LOGPROBS) is None
    # Above the cut every token counts, and so does how many of them there are.
    other = with_top((8, high), (3, low), (5, low))
    assert compare(left, other, Promise.TOKENS_AND_LOGPROBS) is not None
    assert compare(left, with_top((7, high), (3, low)), Promise.TOKENS_AND_LOGPROBS) is not None
    found = compare(left, with_top((7, high), (3, low - 4), (5, low)), Promise.TOKENS_AND_LOGPROBS)
    assert found is not None
    assert found.margin_nats == 0.75


def test_probable_tokens_after_another_token_are_not_compared() -> None:
    bits = float32_bits(-1.0)
    left = Observation((1, 2, 3), (bits,) * 3, "length", (((1, bits),), ((2, bits),), ((3, bits),)))
    right = Observation((1, 9, 4), (bits,) * 3, "length", (((1, bits),), ((2, bits),), ((4, bits - 1),)))
    found = compare(left, right, Promise.TOKENS_AND_LOGPROBS)
    assert found is not None
    assert (found.observable, found.position, found.top_position, found.max_ulps) == (Observable.TOKEN, 1, None, 0)


def test_digest_is_of_the_prompt_too_and_stays_what_it_was() -> None:
    answer = Observation((5, 6), (float32_bits(-0.5), float32_bits(-1.25)), "length", (((5, 0xBF000000),), ()))
    seen = digests(PROMPT, answer)
    assert digests((1, 2, 4), answer) != seen
    # What two replicas compare must not depend on the release: these change only with digests.VERSION.
    assert [item.removeprefix("sha256:")[:16] for item in (seen.ids, seen.logprobs, seen.top or "")] == DIGESTS
    assert digest48(seen.ids) == int(DIGESTS[0][:12], 16)


DIGESTS = ["789a8f961d2ae54c", "b58e5f94c3d0db56", "332b1ce8c469f0db"]
