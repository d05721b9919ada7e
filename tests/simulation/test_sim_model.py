"""The hash model and its sampler, against slower words for the same."""

from __future__ import annotations

import functools
import math
import operator
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf_sim.drawing import draw, sample
from detinf_sim.effects import Effect
from detinf_sim.model import CANDIDATES, HashModel, add_ulps, float32, packed
from detinf_sim.sequences import Request, Sequence

MODEL = HashModel(500, b"test")


def states(count: int) -> list[bytes]:
    return [MODEL.read([number]).digest() for number in range(count)]


def test_distributions_are_float32_sum_to_one_and_differ_in_entropy() -> None:
    entropies = []
    for state in states(400):
        items = MODEL.distribution(state).items
        assert list(items) == sorted(items, key=lambda item: (-item[1], item[0]))
        assert all(value == float32(value) < 0 for _, value in items)
        assert len({token for token, _ in items}) == len(items) <= CANDIDATES
        assert sum(math.exp(value) for _, value in items) == pytest.approx(1, abs=1e-6)
        entropies.append(-sum(math.exp(value) * value for _, value in items))
    assert min(entropies) < 1
    assert max(entropies) > 2.5


def test_ties_among_the_most_probable_are_frequent_and_small_margins_occur() -> None:
    margins = [
        first[1] - second[1] for first, second, *_ in (MODEL.distribution(state).items for state in states(2000))
    ]
    assert 20 < sum(margin == 0 for margin in margins) < 500
    assert any(0 < margin < 0.02 for margin in margins)


def test_state_depends_on_tokens_weights_and_adapter_alone() -> None:
    reader = MODEL.read([1, 2])
    reader.update(packed(3))
    assert reader.digest() == MODEL.read([1, 2, 3]).digest()
    others = {
        MODEL.read([1, 2, 3]).digest(),
        MODEL.read([1, 3, 2]).digest(),
        MODEL.read([1, 2, 3], "poems").digest(),
        HashModel(500, b"other").read([1, 2, 3]).digest(),
    }
    assert len(others) == 4


def test_prompt_logprobs_are_those_of_the_tokens_that_were_emitted() -> None:
    sequence = Sequence(Request("r", [7], max_tokens=30, temperature=1.0, seed=1), MODEL)
    values = []
    for _ in range(30):
        emission = draw(MODEL, sequence)
        values.append(emission.logprob)
        sequence.append(emission.token)
    scored = MODEL.prompt_logprobs([7, *sequence.output])
    assert scored == (None, *values)
    # What is no candidate has a logprob of its own, too: floors would be no evidence.
    strange = MODEL.prompt_logprobs([1, 2, 3, 4, 5])[1:]
    assert len(set(strange)) == 4
    assert all(value is not None and -40 < value < 0 for value in strange)


@given(
    st.integers(0, 10_000),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.1, 0.8, 1.0, 2.0]),
    st.integers(-1, 30),
    st.sampled_from([0.05, 0.5, 0.95, 1.0]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_sampler_agrees_with_its_definition(
    number: int, uniform: float, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    items = MODEL.distribution(MODEL.read([number]).digest()).items
    request = Request("r", [1], 1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    token = sample(items, request, uniform)
    scaled = [math.exp((value - items[0][1]) / temperature) for _, value in items]
    kept = [index for index, weight in enumerate(scaled) if weight >= min_p and (top_k <= 0 or index < top_k)]

    def mass(indices: list[int]) -> float:
        return functools.reduce(operator.add, (scaled[index] for index in indices), 0.0)  # sum() rounds less since 3.12

    nucleus = [index for place, index in enumerate(kept) if mass(kept[:place]) < top_p * mass(kept)]
    edges = [mass(nucleus[: place + 1]) / mass(nucleus) for place in range(len(nucleus))]
    place = [item[0] for item in items].index(token)
    assert place in nucleus
    found = nucleus.index(place)
    assert edges[found] >= uniform * (1 - 1e-12)
    assert not found or edges[found - 1] <= uniform * (1 + 1e-12)


def test_penalties_turn_away_from_what_was_said() -> None:
    def said(**penalties: float) -> list[int]:
        small = HashModel(30, b"small")
        sequence = Sequence(Request("r", [1, 2, 3], max_tokens=60, **penalties), small)  # type: ignore[arg-type]
        for _ in range(60):
            sequence.append(draw(small, sequence).token)
        return sequence.output

    plain = len(set(said()))
    assert len(set(said(presence_penalty=2.0))) > plain
    assert len(set(said(frequency_penalty=2.0))) > plain
    assert len(set(said(repetition_penalty=3.0))) > plain
    # What is reported are raw logprobs: those of the model, whatever weighed on the choice.
    sequence = Sequence(Request("r", [1, 2, 3], 9, presence_penalty=2.0), MODEL)
    sequence.append(draw(MODEL, sequence).token)
    assert draw(MODEL, sequence).top == MODEL.distribution(sequence.state).items[:1]


def test_ulps_move_away_from_zero() -> None:
    assert add_ulps(-1.0, 1) == -1.0000001192092896


@pytest.mark.parametrize(
    ("effect", "changed"),
    [
        (Effect(), set()),
        (Effect(ulps=1), {"logprob", "top"}),
        (Effect(flip=10.0), {"token", "logprob"}),
        (Effect(corrupt="x"), {"token", "logprob", "top"}),
        (Effect(nan=True), {"logprob", "top"}),
        (Effect(digits=6), {"logprob", "top"}),
        (Effect(stale=2), {"prompt_logprobs"}),
        (Effect(draw="x"), {"token", "logprob"}),
        (Effect(rewind=1), {"token", "logprob"}),
        (Effect(ulps=1, stale=2), {"logprob", "top", "prompt_logprobs"}),
    ],
)
def test_effect_changes_what_it_says_and_nothing_else(effect: Effect, changed: set[str]) -> None:
    seen: set[str] = set()
    for seed in range(40):
        request = Request("r", [seed, 2, 3, 4], 2, temperature=1.0, seed=seed, logprobs=5, prompt_logprobs=True)
        sequence = Sequence(request, MODEL)
        right, wrong = draw(MODEL, sequence), draw(MODEL, sequence, effect)
        seen |= {name for name in right._fields if getattr(right, name) != getattr(wrong, name)}
    assert seen == changed


def test_effects_add_up() -> None:
    both = Effect(ulps=1, corrupt="a", digits=6) + Effect(ulps=2, flip=0.5, digits=4)
    assert both == Effect(ulps=3, corrupt="a", flip=0.5, digits=4)


def test_logits_are_exact_bfloat16_numbers() -> None:
    for state in states(200):
        items = MODEL.distribution(state).items
        differences = {first[1] - items[0][1] for first in items}
        # Differences of logits on one grid: multiples of 1/128 up to the rounding of the logprobs.
        assert all(abs(value * 128 - round(value * 128)) < 1e-3 for value in differences)
    for level in range(256):
        assert struct.pack("<f", level / 16)[:2] == b"\0\0"  # bfloat16 is the upper half of float32
