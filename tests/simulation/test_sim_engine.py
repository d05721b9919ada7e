"""The simulator's core in virtual time: invariant where it is well, wrong where it is told to be, and honest."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detinf_sim.faults import Active
from detinf_sim.metrics import render
from detinf_sim.model import HashModel, add_ulps
from detinf_sim.scheduler import Emission, Limits, Request, SimEngine

MODEL = HashModel(500, b"test")
Answers = dict[str, list[tuple[int, float]]]


def requests(count: int, seed: int) -> list[Request]:
    generator = random.Random(seed)
    return [
        Request(
            f"r{index}",
            [generator.randrange(500) for _ in range(generator.randrange(1, 60))],
            max_tokens=generator.randrange(1, 20),
            temperature=generator.choice([0.0, 1.0]),
            seed=index,
        )
        for index in range(count)
    ]


def run(listed: list[Request], engine: SimEngine, joins: list[int] | None = None) -> Answers:
    """Run requests to their ends; ``joins`` says before which step each one arrives."""
    answers: Answers = {request.identifier: [] for request in listed}
    pending = sorted(zip(joins or [0] * len(listed), range(len(listed)), strict=True))
    now, step = 0.0, 0
    while pending or engine.has_work:
        while pending and pending[0][0] <= step:
            engine.submit(listed[pending.pop(0)[1]])
        emissions: list[Emission]
        emissions, seconds = engine.step(now)
        now += seconds
        step += 1
        for emission in emissions:
            answers[emission.request].append((emission.token, emission.logprob))
    return answers


def solo(count: int, seed: int) -> Answers:
    answers: Answers = {}
    for index in range(count):
        answers |= run([requests(count, seed)[index]], SimEngine(MODEL, Limits()))
    return answers


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 32),
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from([64, 100, 4096]),
    st.data(),
)
def test_fault_free_engine_answers_alike_in_any_company(
    count: int, seed: int, chunked: bool, budget: int, data: st.DataObject
) -> None:
    joins = data.draw(st.lists(st.integers(0, 30), min_size=count, max_size=count))
    chunked = chunked or budget < 4096  # vLLM refuses the other combination
    engine = SimEngine(MODEL, Limits(data.draw(st.integers(1, 32)), budget, 4096, chunked))
    assert run(requests(count, seed), engine, joins) == solo(count, seed)
    assert all(record.tokens <= budget and record.width <= engine.limits.max_num_seqs for record in engine.trace)


def test_metrics_book_what_the_trace_says() -> None:
    engine = SimEngine(MODEL, Limits())
    listed = [Request(f"r{index}", [7] * 70, max_tokens=32, seed=index) for index in range(4)]
    run(listed, engine)
    page = render(engine, model="m", started=1.0)
    assert 'vllm:iteration_tokens_total_count{engine="0",model_name="m"} 32' in page
    # The first step holds four prompts of 70 tokens and emits one token of each: 284, as in the worked example.
    assert engine.counters.iteration_tokens == 4 * 70 + 4 * 32
    assert 'le="256.0"} 31' in page
    assert 'le="512.0"} 32' in page
    assert [record.decodes for record in engine.trace] == [0] + [4] * 31


def test_ulps_move_away_from_zero() -> None:
    assert add_ulps(-1.0, 1) == -1.0000001192092896


def test_budget_below_the_context_is_refused_without_chunks() -> None:
    with pytest.raises(ValueError, match="max_num_batched_tokens"):
        SimEngine(MODEL, Limits(8, 64, 4096))


def test_sentinel_counts_changed_values_alone() -> None:
    active = Active()
    active.switch(["F20"])
    run([Request("r", [1, 2], max_tokens=4, seed=1, logprobs=None)], SimEngine(MODEL, Limits(), active))
    # Nobody asked for logprobs, so nothing that was emitted changed.
    assert active.struck == {}


def test_answer_ends_at_the_end_token_unless_told_otherwise() -> None:
    model = HashModel(12, b"small", frozenset({1}))
    lengths = set()
    for seed in range(30):
        request = Request("r", [3], max_tokens=40, temperature=1.0, seed=seed, stop_ids=frozenset({1}))
        engine = SimEngine(model, Limits())
        lengths.add((len(run([request], engine)["r"]), next(iter(engine.counters.finished))))
    assert {reason for _, reason in lengths} >= {"stop"}
    assert all(reason == "stop" or length == 40 for length, reason in lengths)


def test_prompt_that_cannot_fit_is_refused_in_vllms_words() -> None:
    engine = SimEngine(MODEL, Limits(max_model_len=100))
    with pytest.raises(ValueError, match="maximum context length is 100"):
        engine.submit(Request("r", [1] * 90, max_tokens=20))
    with pytest.raises(ValueError, match="Token id 500 is out of vocabulary"):
        engine.submit(Request("r", [500], max_tokens=1))
