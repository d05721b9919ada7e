"""W1 to W6: the specification's worked examples, and that no claim is larger than what took place.

The second is a property: any schedule of steps is booked as vLLM books it, and every witness is held against it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.probe import arithmetic
from detinf.probe.arithmetic import Sent
from detinf.probe.metrics import Snapshot
from detinf.probe.witness import counted_width

EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, math.inf)
START = Snapshot(100, 1000, 0, 0, 1.0, 5000, 0, 0, 0, None, None, dict.fromkeys(EDGES, 100.0))


def booked(before: Snapshot, steps: list[int], *, generated: int, prompts: int = 0, **values: Any) -> Snapshot:
    """Return the next look, after steps of these sizes."""
    assert before.edges is not None
    edges: Mapping[float, float] = {
        edge: count + sum(1 for size in steps if size <= edge) for edge, count in before.edges.items()
    }
    return replace(
        before,
        steps=before.steps + len(steps),
        generated=before.generated + generated,
        prompts=(before.prompts or 0) + prompts,
        edges=edges,
        **values,
    )


def cohort(width: int, tokens: int = 32, prompt: int = 10, plugs: tuple[int, ...] = (2048,)) -> Sent:
    return Sent((prompt,) * width, (tokens,) * width, plugs)


@pytest.mark.parametrize(
    ("width", "steps", "proven"),
    [
        (16, [2049, 176, *[16] * 31], 16),  # 16 x 31 in 33 steps: the worked example
        (2, [2049, 22, *[2] * 31], 2),
        (16, [2049, 11, 166, *[16] * 30, 15], 15),  # split into 1 + 15: 34 steps
        (16, [11, *[1] * 31] * 16, 1),  # one after the other
        (8, [2049, 44, 44, *[4] * 62], 4),  # two halves, one after the other
    ],
)
def test_decode_arithmetic_proves_what_the_steps_leave_no_room_to_doubt(
    width: int, steps: list[int], proven: int
) -> None:
    sent = cohort(width)
    after = booked(START, steps, generated=sent.all_generated, prompts=sent.all_prompts)
    assert arithmetic.decoded_together(START, after, sent) == proven


def test_steps_of_others_only_lower_what_is_proven_and_small_ones_less() -> None:
    sent = cohort(16)
    own = [2049, 176, *[16] * 31]
    small = booked(START, [*own, *[1] * 20], generated=sent.all_generated + 20, prompts=sent.all_prompts)
    large = booked(START, [*own, *[16] * 20], generated=sent.all_generated + 320, prompts=sent.all_prompts)
    assert arithmetic.decoded_together(START, small, sent) == 14
    assert arithmetic.decoded_together(START, large, sent) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"generated": 1200.0},  # fewer tokens than we got: another process' counter
        {"steps": 50.0},  # it ran backwards
        {"preemptions": 1.0},
        {"preemptions": None},
        {"drafts": 7.0},  # speculative decoding: more than a token for each request and step
        {"edges": {1.0: 50.0, math.inf: 133.0}},
    ],
)
def test_counters_that_cannot_be_understood_prove_no_width(change: dict[str, Any]) -> None:
    sent = cohort(16)
    after = booked(START, [2049, 176, *[16] * 31], generated=sent.all_generated, prompts=sent.all_prompts)
    assert arithmetic.decoded_together(START, replace(after, **change), sent) == 0


def test_width_is_proven_without_a_histogram_too() -> None:
    sent = cohort(16)
    after = booked(START, [2049, 176, *[16] * 31], generated=sent.all_generated, prompts=sent.all_prompts)
    assert arithmetic.decoded_together(replace(START, edges=None), replace(after, edges=None), sent) == 16


@pytest.mark.parametrize(
    ("steps", "together"),
    [
        ([284, *[4] * 31], True),  # 4 cold prompts of 70 tokens and 256 between the parts and the whole
        ([213, 72, *[4] * 31], False),  # 3 + 1
        ([142, 142, *[4] * 31], False),  # 2 + 2
    ],
)
def test_bucket_arithmetic_knows_whether_one_step_read_all(steps: list[int], *, together: bool) -> None:
    sent = Sent((70,) * 4, (32,) * 4)
    after = booked(START, steps, generated=128, prompts=280)
    assert arithmetic.edge_between(START, after, sent.prompts) == 256
    assert arithmetic.read_together(START, after, sent) is together


def test_bucket_arithmetic_leaves_the_plugs_own_step_to_the_plug() -> None:
    sent = Sent((70,) * 4, (32,) * 4, (2048,))
    apart = booked(START, [2049, 284, *[4] * 31], generated=129, prompts=280 + 2048)
    with_it = booked(START, [2049 + 284, *[4] * 31], generated=129, prompts=280 + 2048)
    assert arithmetic.read_together(START, apart, sent)
    assert not arithmetic.read_together(START, with_it, sent)


@pytest.mark.parametrize("change", [{"generated": 1129.0}, {"prompts": 5281.0}, {"prompts": None}, {"preemptions": 1}])
def test_bucket_arithmetic_is_silent_in_company(change: dict[str, Any]) -> None:
    sent = Sent((70,) * 4, (32,) * 4)
    after = booked(START, [284, *[4] * 31], generated=128, prompts=280)
    assert not arithmetic.read_together(START, replace(after, **change), sent)


def test_bucket_edges_that_were_overridden_are_used_and_missing_ones_prove_nothing() -> None:
    sent = Sent((70,) * 4, (32,) * 4)
    other = replace(START, edges={200.0: 100.0, 250.0: 100.0, math.inf: 100.0})
    assert arithmetic.read_together(other, booked(other, [284, *[4] * 31], generated=128, prompts=280), sent)
    coarse = replace(START, edges={1024.0: 100.0, math.inf: 100.0})
    after = booked(coarse, [284, *[4] * 31], generated=128, prompts=280)
    assert arithmetic.edge_between(coarse, after, sent.prompts) is None
    assert not arithmetic.read_together(coarse, after, sent)


def test_gauge_proves_who_was_there_at_one_of_the_looks() -> None:
    assert arithmetic.resident(replace(START, running=3), replace(START, running=7)) == 7
    assert arithmetic.resident() == 0


@pytest.mark.parametrize(
    ("intervals", "width"),
    [
        ([], 0),
        ([(0, 1), (1.5, 2)], 1),
        ([(0, 1), (1, 2)], 2),  # at one time: it may have been
        ([(0, 3), (1, 2), (1.5, 4), (3.5, 5)], 3),
    ],
)
def test_times_at_the_client_bound_the_width_from_above(intervals: list[tuple[float, float]], width: int) -> None:
    assert arithmetic.possible_width(intervals) == width


@pytest.mark.parametrize(
    ("usage", "verified", "cached"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 128}}, False, 128),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, False, 0),
        ({}, True, 0),
        ({"prompt_tokens_details": None}, True, 0),
        ({}, False, None),
        ({"prompt_tokens_details": {"cached_tokens": "many"}}, True, None),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, True, None),
        ({"prompt_tokens_details": {"cached_tokens": True}}, True, None),
    ],
)
def test_cached_tokens_are_what_the_answer_says_and_missing_ones_count_only_where_verified(
    usage: dict[str, Any], cached: int | None, *, verified: bool
) -> None:
    assert arithmetic.cached_tokens(usage, verified=verified) == cached


def test_cache_hits_are_ours_only_where_all_lookups_are() -> None:
    sent = Sent((70,) * 4, (32,) * 4)
    assert arithmetic.cached_of_ours(START, replace(START, cache_queries=280.0, cache_hits=128.0), sent) == 128
    assert arithmetic.cached_of_ours(START, replace(START, cache_queries=300.0, cache_hits=128.0), sent) is None
    assert arithmetic.cached_of_ours(START, START, sent) == 0
    assert arithmetic.cached_of_ours(START, replace(START, cache_queries=None), sent) is None


def test_counters_tell_preemptions_and_corrupted_requests_or_that_they_do_not_know() -> None:
    assert arithmetic.preempted(START, replace(START, preemptions=3.0)) == 3
    assert arithmetic.corrupted(START, START) is None
    assert arithmetic.corrupted(replace(START, corrupted=1.0), replace(START, corrupted=2.0)) == 1
    assert arithmetic.preempted(replace(START, preemptions=3.0), START) is None


def test_width_that_ran_exactly_and_one_that_ran_at_least_are_booked_apart() -> None:
    sent = cohort(16)
    exact = booked(START, [2049, 176, *[16] * 31], generated=sent.all_generated, prompts=sent.all_prompts)
    split = booked(START, [2049, 11, 166, *[16] * 30, 15], generated=sent.all_generated, prompts=sent.all_prompts)
    company = booked(START, [2049, 180, *[18] * 31, 2], generated=sent.all_generated + 66, prompts=sent.all_prompts + 4)
    apart = booked(START, [11, *[1] * 31] * 16, generated=sent.all_generated, prompts=sent.all_prompts)
    seen = [counted_width(START, after, sent) for after in (exact, split, company, apart)]
    assert [(proven, witness.kind, witness.width, condition) for proven, witness, condition in seen] == [
        (True, "W2", 16, None),
        (True, "W2", 15, "width>=15"),
        (True, "W2", 15, "width>=15"),
        (False, "W2", 1, "width>=1"),
    ]


@dataclass
class Run:
    """A schedule that was run: what was booked, and what took place."""

    sizes: list[int] = field(default_factory=list)
    generated: int = 0
    prompts: int = 0
    decoded_at_once: int = 0
    first_at_once: int = 0
    foreign: bool = False


Steps = list[tuple[list[int], bool, list[int]]]
"""For each step: which of our requests take part, whether the plug does, and others' prompts; one of 0 is a decode."""


def run(sent: Sent, steps: Steps) -> Run:
    """Run steps until every own request has all its tokens, and book them as vLLM does."""
    done, plugged, result = [0] * len(sent.prompts), not sent.plugs, Run()
    rest: Steps = [([member], True, []) for member in range(len(done)) for _ in range(sent.generated[member])]
    for members, plug, others in [*steps, ([], True, []), *rest]:
        size = decoded = first = 0
        for member in {number % len(done) for number in members}:
            if done[member] == sent.generated[member]:
                continue
            size += 1 if done[member] else sent.prompts[member] + 1
            decoded += bool(done[member])
            first += not done[member]
            done[member] += 1
            result.generated += 1
        with_plug = plug and not plugged
        if with_plug:
            plugged, size = True, size + sent.plugs[0] + 1
            result.generated += 1
        size += sum(prompt + 1 for prompt in others)
        result.generated += len(others)
        result.prompts += sum(others)
        result.foreign |= bool(others)
        result.decoded_at_once = max(result.decoded_at_once, decoded)
        result.first_at_once = max(result.first_at_once, first)
        if size:
            result.sizes.append(size)
    result.prompts += sent.all_prompts
    return result


_members = st.lists(st.integers(0, 7), max_size=8)
_others = st.one_of(st.just([]), st.lists(st.one_of(st.just(0), st.integers(1, 300)), max_size=4))
_steps = st.lists(st.tuples(_members, st.booleans(), _others), max_size=60)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 12)), min_size=1, max_size=8),
    st.sampled_from([(), (500,), (2048,)]),
    _steps,
    st.sampled_from([EDGES, (2, 5, 100, 300, math.inf), (math.inf,)]),
)
def test_no_schedule_makes_a_witness_claim_what_did_not_take_place(
    requests: list[tuple[int, int]], plugs: tuple[int, ...], steps: Steps, edges: tuple[float, ...]
) -> None:
    sent = Sent(tuple(prompt for prompt, _ in requests), tuple(tokens for _, tokens in requests), plugs)
    ran = run(sent, steps)
    before = replace(START, edges=dict.fromkeys(edges, 100.0))
    after = booked(before, ran.sizes, generated=ran.generated, prompts=ran.prompts)
    assert arithmetic.decoded_together(before, after, sent) <= ran.decoded_at_once
    if arithmetic.read_together(before, after, sent):
        assert ran.first_at_once == len(requests)
    if arithmetic.ours_alone(before, after, sent):
        assert not ran.foreign
