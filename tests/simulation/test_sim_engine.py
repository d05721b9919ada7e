"""The simulator's core in virtual time: invariant where it is well, wrong where it is told to be, and honest."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detinf_sim.counters import EDGES, Counters
from detinf_sim.faults import Active
from detinf_sim.metrics import render
from detinf_sim.model import HashModel, add_ulps
from detinf_sim.ranks import Ranks
from detinf_sim.scheduler import Emission, Limits, Request, SimEngine, StepCost

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


def answer_of(engine: SimEngine, request: Request) -> list[Emission]:
    """Run one request to its end."""
    engine.submit(request)
    emissions: list[Emission] = []
    while engine.has_work:
        emissions += engine.step(0.0)[0]
    return emissions


CACHE = Limits(prefix_caching=True, block_size=4)


@pytest.mark.parametrize(("length", "hit"), [(4, 0), (5, 4), (8, 4), (9, 8)])
def test_prefix_cache_gives_whole_blocks_and_never_the_last_token(length: int, hit: int) -> None:
    engine = SimEngine(MODEL, CACHE)
    prompt = list(range(length))
    cold, warm = (answer_of(engine, Request(name, prompt, max_tokens=3)) for name in "ab")
    assert [item[1:6] for item in cold] == [item[1:6] for item in warm]
    assert (cold[0].cached_tokens, warm[0].cached_tokens) == (0, hit)
    assert (engine.counters.prefix_queries, engine.counters.prefix_hits) == (2 * length, hit)
    assert sum(record.cached_tokens for record in engine.trace) == hit
    # Cached tokens are not computed, and so not booked: the second answer's first step books the rest and one token.
    assert engine.counters.iteration_tokens == 2 * length - hit + 2 * 3


@pytest.mark.parametrize("other", [{"cache_salt": "x"}, {"adapter": "poems"}, {"prompt_logprobs": True}])
def test_prefix_cache_gives_nothing_across_salts_and_adapters_nor_to_prompt_logprobs(other: dict[str, Any]) -> None:
    engine = SimEngine(MODEL, CACHE)
    answer_of(engine, Request("a", list(range(9)), max_tokens=3))
    assert answer_of(engine, Request("b", list(range(9)), max_tokens=3, **other))[0].cached_tokens == 0


def test_prefix_cache_forgets_the_least_recently_used_block_first() -> None:
    engine = SimEngine(MODEL, Limits(max_model_len=16, prefix_caching=True, block_size=4, kv_blocks=6))

    def cached(token: int, length: int = 9) -> int:
        return answer_of(engine, Request("r", [token] * length, max_tokens=1))[0].cached_tokens

    assert [cached(1), cached(1), cached(2)] == [0, 8, 0]
    assert cached(3, 5) == 0  # takes two blocks: one that held nothing whole, and the end of the first prompt
    assert cached(1) == 4


def test_engine_without_prefix_cache_looks_nothing_up() -> None:
    engine = SimEngine(MODEL, Limits(block_size=4))
    answer_of(engine, Request("a", list(range(9)), max_tokens=3))
    assert answer_of(engine, Request("b", list(range(9)), max_tokens=3))[0].cached_tokens == 0
    assert engine.counters.prefix_queries == 0


def test_preempted_request_is_computed_again_and_the_trace_says_so() -> None:
    engine = SimEngine(MODEL, Limits(max_model_len=32, block_size=4, kv_blocks=8))
    listed = [Request(f"r{index}", [index + 1] * 8, max_tokens=16) for index in range(2)]
    answers = run(listed, engine)
    assert answers == {
        name: run([request], SimEngine(MODEL, Limits()))[name] for name, request in zip(answers, listed, strict=True)
    }
    assert engine.counters.preemptions == sum(record.preemptions for record in engine.trace) == 1
    # As in vLLM, nobody is admitted in a step for which somebody lost his place.
    (step,) = [record for record in engine.trace if record.preemptions]
    assert (step.requests, step.waiting) == (("r0",), 1)
    again = [
        (count, computed)
        for record in engine.trace
        for name, count, computed, reading in zip(
            record.requests, record.counts, record.computed, record.prefilling, strict=True
        )
        if name == "r1" and reading
    ]
    assert again[0] == (8, 0)  # its prompt
    assert again[1][0] > 8  # all that it had, from the start
    assert again[1][1] == 0
    assert engine.counters.prompt_tokens == 16  # a prompt counts once


def test_clients_that_leave_are_in_the_trace_and_their_blocks_are_free() -> None:
    engine = SimEngine(MODEL, Limits(max_num_seqs=2))
    for index in range(3):
        engine.submit(Request(f"r{index}", [1] * 200, max_tokens=50))
    engine.step(0.0)
    assert engine.pool.used == 4
    engine.abort("r0")  # it ran
    engine.abort("r2")  # it waited
    engine.abort("nobody")
    engine.step(0.0)
    engine.step(0.0)
    assert [record.aborted for record in engine.trace] == [0, 1, 0]
    assert (engine.pool.used, engine.counters.finished) == (2, {})


def test_drafts_speed_up_and_change_nothing() -> None:
    plain, fast = SimEngine(MODEL, Limits()), SimEngine(MODEL, Limits(speculative_tokens=3))
    request = Request("r", [1, 2, 3], max_tokens=40, temperature=1.0, seed=5)
    assert answer_of(plain, request) == answer_of(fast, request)
    assert fast.steps < plain.steps == 40
    assert fast.counters.accepted_tokens == 40 - fast.steps
    assert fast.counters.draft_tokens > fast.counters.accepted_tokens
    assert max(record.tokens for record in list(fast.trace)[1:]) == 4


def test_prompt_longer_than_the_budget_is_read_in_parts() -> None:
    engine = SimEngine(MODEL, Limits(8, 64, 4096, chunked_prefill=True))
    run([Request("a", [1] * 150, max_tokens=2)], engine)
    assert [record.counts for record in engine.trace] == [(64,), (64,), (22,), (1,)]
    assert engine.counters.iterations == 2  # a step without output books nothing
    assert engine.counters.iteration_tokens == 150 + 2


def test_steps_are_counted_by_each_api_server_for_itself() -> None:
    def decode_arithmetic(servers: int) -> float:
        engine = SimEngine(MODEL, Limits())
        run([Request(f"r{index}", [index] * 4, max_tokens=32, server=index % servers) for index in range(8)], engine)
        return 8 * 31 / engine.counters.iterations

    assert decode_arithmetic(2) == decode_arithmetic(1) / 2  # as measured on vLLM 0.32


def test_step_costs_what_its_tokens_cost() -> None:
    engine = SimEngine(MODEL, Limits(), cost=StepCost(base=1.0, per_prefill_token=0.01, per_decode_token=0.1))
    engine.submit(Request("a", [1] * 50, max_tokens=9))
    assert engine.step(0.0)[1] == pytest.approx(1.5)
    engine.submit(Request("b", [1] * 10, max_tokens=9))
    assert engine.step(0.0)[1] == pytest.approx(1.2)
    engine.faults.switch(["slow:9"])
    assert 1.2 < engine.step(0.0)[1] < 9 * 1.2


def test_idle_ranks_are_known_to_the_busy_ones() -> None:
    active = Active(["F23"])
    ranks = Ranks([SimEngine(MODEL, Limits(), active) for _ in range(2)])
    ranks.submit(Request("a", [1], max_tokens=4), rank=1)
    ranks.submit(Request("b", [1], max_tokens=2))
    assert [len(engine.waiting) for engine in ranks.engines] == [1, 1]
    while ranks.has_work:
        ranks.step(0.0)
    assert active.struck == {"F23": 2}  # of a, while b's rank had nothing to do
    with pytest.raises(ValueError, match=r"out of range \[0, 2\)"):
        ranks.submit(Request("c", [1], max_tokens=1), rank=2)


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


def test_end_token_ends_no_answer_that_has_to_be_longer() -> None:
    every = frozenset(range(500))
    answers = run([Request("r", [3], max_tokens=9, min_tokens=5, stop_ids=every)], SimEngine(MODEL, Limits()))
    assert len(answers["r"]) == 5


def test_bucket_edges_are_inclusive() -> None:
    counters = Counters()
    counters.book_iteration(256)
    assert counters.buckets[EDGES.index(128)] == 0
    assert counters.buckets[EDGES.index(256)] == 1


def test_prompt_that_cannot_fit_is_refused_in_vllms_words() -> None:
    engine = SimEngine(MODEL, Limits(max_model_len=100))
    with pytest.raises(ValueError, match="maximum context length is 100"):
        engine.submit(Request("r", [1] * 90, max_tokens=20))
    with pytest.raises(ValueError, match="Token id 500 is out of vocabulary"):
        engine.submit(Request("r", [500], max_tokens=1))
