"""Witnesses W1 to W6 and cohorts on the simulated engine, held against its step trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from witness_trials import Trial, Trials, references

from detinf.guard.trace import own_id
from detinf.probe import arithmetic
from detinf.probe.arithmetic import Sent
from detinf.probe.client import EngineClient
from detinf.probe.cohort import Shape, form
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.trace import Trace
from detinf_sim.model import HashModel
from detinf_sim.scheduler import Limits
from detinf_sim.server import Server, Settings, running_server

BOOT = "b" * 32
VOCABULARY = 1000
COHORT = b"cohort-1"
PLAIN = Limits(32, 8192, 4096)
CACHING = Limits(32, 256, 4096, chunked_prefill=True, prefix_caching=True)
BEHIND, TOGETHER, LISTED = Shape(plug_tokens=2048), Shape(), Shape(plug_tokens=2048, one_request=True)


@contextlib.asynccontextmanager
async def engine(
    folder: Path, limits: Limits = PLAIN, **more: Any
) -> AsyncIterator[tuple[Server, EngineClient, Trace]]:
    path = folder / "trace.ring"
    settings = Settings(
        HashModel(VOCABULARY, b"test"), limits=limits, step_seconds=0.001, boot=BOOT, trace=path, **more
    )
    async with running_server(settings) as (url, server), EngineClient(url, "sim", boot=BOOT) as client:
        yield server, client, Trace(path, BOOT)


async def some_trials(trials: Trials) -> list[Trial]:
    found = [await trials.one(width, shape) for shape in (BEHIND, TOGETHER, LISTED) for width in (2, 8, 16)]
    assert [wrong for trial in found for wrong in trial.wrong()] == []
    return found


@pytest.mark.parametrize("limits", [PLAIN, CACHING], ids=["plain", "caching"])
async def test_no_witness_claims_what_did_not_happen_and_each_proves_something(tmp_path: Path, limits: Limits) -> None:
    async with engine(tmp_path, limits) as (_, client, trace):
        found = await some_trials(Trials(client, trace, VOCABULARY))
        assert any(trial.claims.decoded >= 0.8 * trial.wanted for trial in found)
        assert any(trial.claims.first for trial in found)
        assert any(trial.claims.possible == trial.wanted for trial in found)
        assert all(trial.claims.alone for trial in found)
        assert {trial.claims.cached for trial in found} == {0}


@pytest.mark.parametrize("limits", [PLAIN, CACHING], ids=["plain", "caching"])
async def test_in_tenants_company_no_witness_claims_what_did_not_happen(tmp_path: Path, limits: Limits) -> None:
    async with engine(tmp_path, limits) as (_, client, trace):
        found = await some_trials(Trials(client, trace, VOCABULARY, tenants=6))
        assert all(trial.truth.foreign for trial in found)
        assert any(trial.claims.decoded > 1 for trial in found)
        assert max(trial.claims.resident for trial in found) >= 3


@pytest.mark.parametrize("tenants", [0, 6])
async def test_steps_that_two_api_servers_count_in_parts_prove_no_more(tmp_path: Path, tenants: int) -> None:
    async with engine(tmp_path, api_servers=2) as (_, client, trace):
        found = await some_trials(Trials(client, trace, VOCABULARY, tenants=tenants))
        assert any(trial.claims.decoded > 1 for trial in found)


@pytest.mark.parametrize("behaviour", ["metrics-edges", "metrics-late", "metrics-reset"])
async def test_pages_of_other_kinds_prove_less_or_the_same(tmp_path: Path, behaviour: str) -> None:
    async with engine(tmp_path) as (server, client, trace):
        server.active.switch([behaviour])
        found = await some_trials(Trials(client, trace, VOCABULARY))
        if behaviour == "metrics-edges":
            assert any(trial.claims.decoded > 1 for trial in found)
        if behaviour == "metrics-late":
            assert not any(trial.claims.decoded for trial in found)


async def test_engine_that_serialises_is_proven_to_do_nothing_together(tmp_path: Path) -> None:
    async with engine(tmp_path) as (server, client, trace):
        server.active.switch(["serialise"])
        trial = await Trials(client, trace, VOCABULARY).one(8, BEHIND)
        assert trial.wrong() == []
        assert (trial.truth.decoded, trial.claims.decoded, trial.claims.first) == (1, 1, False)


async def test_cached_tokens_are_known_from_the_answer_and_from_the_counters(tmp_path: Path) -> None:
    async with engine(tmp_path, CACHING, token_details=True) as (_, client, trace):
        (item,) = references(1, VOCABULARY, Trials(client, trace, VOCABULARY).generator, tokens=2)
        body = client.body(item.prompt_ids, item, max_tokens=2)
        seen = []
        for number in (0, 1):
            before = await client.metrics()
            usage = json.loads(await client.post(body, own_id(COHORT, number)))["usage"]
            after = await client.metrics()
            assert before is not None
            assert after is not None
            cached = arithmetic.cached_of_ours(before, after, Sent((len(item.prompt_ids),), (2,)))
            seen.append((arithmetic.cached_tokens(usage, verified=True), cached))
        window = trace.since(0)
        assert window is not None
        first = {own.number: own.computed for step in reversed(window.steps) for own in step.own}
        assert seen == [(first[0], first[0]), (first[1], first[1])]
        assert first == {0: 0, 1: 128}


async def test_preemptions_are_counted_and_silence_the_width(tmp_path: Path) -> None:
    async with engine(tmp_path, Limits(32, 8192, 4096, kv_blocks=33)) as (_, client, trace):
        asked = references(8, VOCABULARY, Trials(client, trace, VOCABULARY).generator, tokens=900)
        before = await client.metrics()
        formed = await form(client, asked, COHORT, TOGETHER)
        after = await client.metrics()
        assert before is not None
        assert after is not None
        assert all(isinstance(answer, Observation) for answer in formed.answers)
        window = trace.since(0)
        assert window is not None
        preempted = sum(step.preemptions for step in window.steps)
        assert preempted > 0
        assert arithmetic.preempted(before, after) == preempted
        sent = Sent(tuple(len(item.prompt_ids) for item in asked), (900,) * 8)
        assert arithmetic.decoded_together(before, after, sent) == 0


@pytest.mark.parametrize("shape", [BEHIND, TOGETHER, LISTED])
async def test_every_form_of_a_cohort_gets_the_answers_that_each_gets_alone(tmp_path: Path, shape: Shape) -> None:
    async with engine(tmp_path) as (_, client, trace):
        asked = references(8, VOCABULARY, Trials(client, trace, VOCABULARY).generator)
        alone = [await client.ask(item) for item in asked]
        formed = await form(client, asked, COHORT, shape)
        assert all(isinstance(answer, Observation) for answer in alone)
        assert formed.answers == alone
        window = trace.since(0)
        assert window is not None
        assert {own.number for step in window.steps for own in step.own if own.cohort == COHORT} == set(range(8))


async def test_member_that_joins_late_and_one_that_leaves_do_so(tmp_path: Path) -> None:
    async with engine(tmp_path) as (server, client, trace):
        asked = references(4, VOCABULARY, Trials(client, trace, VOCABULARY).generator, tokens=64)
        asked[1] = asked[1].model_copy(update={"max_tokens": 3000})
        before = time.monotonic()
        formed = await form(client, asked, COHORT, Shape(joins={3: 0.05}, leaves={1: 0.05}))
        left = formed.answers[1]
        assert isinstance(left, InconclusiveError)
        assert left.reason is Reason.CANCELLED
        assert all(isinstance(formed.answers[number], Observation) for number in (0, 2, 3))
        assert formed.intervals[3][0] >= before + 0.05  # and not 0.05 s after another member, which may begin late, too
        while server.engine.has_work:
            await asyncio.sleep(0.001)
        window = trace.since(0)
        assert window is not None
        held = [{own.number for own in step.own} for step in window.steps]
        assert {0, 2, 3} <= set().union(*held)
        assert 3 not in held[0]
        assert sum(1 in numbers for numbers in held) < 2999, "the engine went on for a client that had left"


async def test_prompts_of_a_list_that_is_refused_all_say_why(tmp_path: Path) -> None:
    async with engine(tmp_path) as (_, client, trace):
        asked = references(2, VOCABULARY, Trials(client, trace, VOCABULARY).generator)
        asked[1] = asked[1].model_copy(update={"prompt_ids": [VOCABULARY]})
        answers = await client.ask_list(asked, own_id(COHORT, 0))
        assert [answer.reason for answer in answers if isinstance(answer, InconclusiveError)] == [
            Reason.HTTP_STATUS
        ] * 2


async def test_references_that_one_request_cannot_hold_are_refused_by_name(tmp_path: Path) -> None:
    async with engine(tmp_path) as (_, client, trace):
        asked = references(2, VOCABULARY, Trials(client, trace, VOCABULARY).generator)
        with pytest.raises(ValueError, match="trial-01 is not sampled as trial-00"):
            await client.ask_list([asked[0], asked[1].model_copy(update={"seed": 7})])
        with pytest.raises(ValueError, match="one_request"):
            await form(client, asked, COHORT, Shape(one_request=True, leaves={0: 1.0}))
