"""Witnesses without a step trace on the real engine, held against its step trace, idle and beside tenants."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from witness_trials import Trials, references

from detinf.guard.trace import own_id
from detinf.probe import arithmetic
from detinf.probe.arithmetic import Sent
from detinf.probe.client import EngineClient
from detinf.probe.cohort import Shape, form
from detinf.probe.reasons import InconclusiveError, Reason

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

VOCABULARY = 256
SHAPES = (Shape(plug_tokens=1000), Shape(plug_tokens=1000, one_request=True), Shape())


@pytest.fixture
async def client(engine: Any) -> AsyncIterator[EngineClient]:
    async with EngineClient(engine.url, "tiny", boot=engine.boot) as opened:
        await Trials(opened, engine.trace, VOCABULARY).first_step()
        yield opened


@pytest.mark.parametrize("tenants", [0, 6])
async def test_no_witness_claims_what_did_not_happen(engine: Any, client: EngineClient, tenants: int) -> None:
    trials = Trials(client, engine.trace, VOCABULARY, tenants=tenants)
    found = [await trials.one(width, shape) for shape in SHAPES for width in (2, 8, 16)]
    assert [wrong for trial in found for wrong in trial.wrong()] == []
    assert all(trial.truth.foreign == (tenants > 0) for trial in found)
    assert any(trial.claims.decoded > 1 for trial in found)
    if not tenants:
        assert all(trial.claims.alone for trial in found)
        assert any(trial.claims.first for trial in found)


@pytest.mark.parametrize("shape", SHAPES)
async def test_every_form_of_a_cohort_gets_the_answers_that_each_gets_alone(
    engine: Any, client: EngineClient, shape: Shape
) -> None:
    asked = references(8, VOCABULARY, Trials(client, engine.trace, VOCABULARY).generator)
    alone = [await client.ask(item) for item in asked]
    assert (await form(client, asked, secrets.token_bytes(8), shape)).answers == alone


async def test_member_that_joins_late_and_one_that_leaves_change_nothing_for_the_others(
    engine: Any, client: EngineClient
) -> None:
    asked = references(8, VOCABULARY, Trials(client, engine.trace, VOCABULARY).generator)
    alone = [await client.ask(item) for item in asked]
    long = asked[1].model_copy(update={"max_tokens": 800})
    cohort, position = secrets.token_bytes(8), engine.trace.position()
    shape = Shape(joins={3: 0.1}, leaves={1: 0.3})
    formed = await form(client, [asked[0], long, *asked[2:]], cohort, shape)
    left = formed.answers[1]
    assert isinstance(left, InconclusiveError)
    assert left.reason is Reason.CANCELLED
    assert [*formed.answers[:1], *formed.answers[2:]] == [*alone[:1], *alone[2:]]
    while (await client.metrics()).running:  # nobody tells when an engine has nothing to do
        await asyncio.sleep(0.05)
    steps = engine.trace.since(position).steps
    seen = {
        number: [step.step for step in steps for own in step.own if own[:2] == (cohort, number)] for number in range(8)
    }
    assert seen[3][0] > seen[0][0]
    assert 0 < len(seen[1]) < 800  # the engine stopped where its client had left


async def test_cached_tokens_are_known_from_the_answer_and_from_the_counters(engine: Any, client: EngineClient) -> None:
    (item,) = references(1, VOCABULARY, Trials(client, engine.trace, VOCABULARY).generator, tokens=2)
    body = client.body(item.prompt_ids, item, max_tokens=2)
    cohort, position = secrets.token_bytes(8), engine.trace.position()
    said = []
    for number in (0, 1):
        before = await client.metrics()
        usage = json.loads(await client.post(body, own_id(cohort, number)))["usage"]
        after = await client.metrics()
        assert before is not None
        assert after is not None
        cached = arithmetic.cached_of_ours(before, after, Sent((len(item.prompt_ids),), (2,)))
        said.append((arithmetic.cached_tokens(usage, verified=True), cached))
    window = engine.trace.since(position)
    first = {own.number: own.computed for step in reversed(window.steps) for own in step.own}
    assert said == [(first[0], first[0]), (first[1], first[1])]
    assert first == {0: 0, 1: 128 if engine.variant == "caching" else 0}
