"""The gate's cells on the real engine: each comes together, passes, and fails where a fault is switched on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import serve  # tools/vllm_cpu, found through conftest

from detinf.api.types import Promise
from detinf.documents import Reference, References, Verdict
from detinf.engines.plan import excluded_stimuli, gate_widths
from detinf.probe.client import EngineClient
from detinf.probe.comparison import Observable
from detinf.probe.disturbances import Disturbance, disturbances
from detinf.probe.excluded import excluded
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.references import propose, propose_from
from detinf.probe.relations import IDLE_PLUG_TOKENS, Prober
from detinf.probe.verdict import Round

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

VOCABULARY = 272
SPECIAL = tuple(range(256, 272))  # all that are no bytes
CONTEXT = 1024
ATTEMPTS = 20
"""More than the gate's own: it repeats itself, and this machine may be busy."""


@pytest.fixture
async def client(engine: Any) -> AsyncIterator[EngineClient]:
    async with EngineClient(engine.url, "tiny", boot=engine.boot) as client:
        yield client


async def formed(prober: Prober, cell: Disturbance) -> Round:
    for _ in range(ATTEMPTS):
        outcome = await cell.run(prober, IDLE_PLUG_TOKENS)
        assert outcome.verdict is not Verdict.FAIL, outcome
        if outcome.verdict is Verdict.PASS and outcome.as_wanted:
            break
        assert outcome.verdict is Verdict.PASS or outcome.reason is Reason.NOT_BATCHED, outcome
    return outcome


# As the profile starts it: in an engine that cuts prompts into chunks no launch of 257 tokens is whole.
@pytest.mark.parametrize("engine", ["stock"], indirect=True)
async def test_references_of_its_own_texts_pass_in_every_cell_of_the_gate(engine: Any, client: EngineClient) -> None:
    references = await propose_from(client.ask, VOCABULARY, SPECIAL, CONTEXT)
    assert isinstance(references, References), references
    assert {"random", "text", "margin", "entropy"} <= {item.kind for item in references.items}
    prober = Prober(client, Promise.TOKENS_AND_LOGPROBS, CONTEXT, engine.trace)
    expected: dict[str, Observation] = {}
    for item in references.items:
        outcome, answer = await prober.repeat(item)
        assert outcome.verdict is Verdict.PASS, outcome
        assert answer is not None
        expected[item.name] = answer
    cells = disturbances(references.items, expected, gate_widths(serve.SPEC, serve.PROFILE), 0, traced=True)
    assert [(cell.relation, cell.condition) for cell in cells] == [
        *(("S03", "width=2"), ("S03", "width=8"), ("S03", "width=16"), ("S03", "width=32")),
        *(("S04", "tokens=255"), ("S04", "tokens=256"), ("S04", "tokens=257")),
        *(("S05", "prefill=9"), ("S05", "prefill=129")),
    ]
    for cell in cells:
        outcome = await formed(prober, cell)
        assert (outcome.verdict, outcome.condition) == (Verdict.PASS, cell.condition), outcome
    assert await told(prober, client) == dict.fromkeys(("S06", "S07", "S08"), Reason.NOT_APPLICABLE)


@pytest.mark.parametrize("engine", ["caching"], indirect=True)
async def test_engine_that_does_what_its_profile_excludes_is_told_so(engine: Any, client: EngineClient) -> None:
    prober = Prober(client, Promise.TOKENS_AND_LOGPROBS, CONTEXT, engine.trace)
    # Longer than a chunk of 256 tokens; greedy, since a seeded prompt that is cut ends vLLM 0.32 on CPU.
    items = [
        Reference(
            name=f"long-{first}",
            prompt_ids=[(first + 7 * index) % 256 for index in range(600)],
            max_tokens=2,
            temperature_milli=0,
            seed=0,
        )
        for first in range(2)
    ]
    expected = {item.name: answer for item in items if isinstance(answer := await client.ask(item), Observation)}
    assert len(expected) == 2
    await prober.width(items, expected)
    assert await told(prober, client) == dict.fromkeys(("S06", "S07", "S08"), Reason.APPLIES)


async def told(prober: Prober, client: EngineClient) -> dict[str, Reason]:
    """Return what becomes of the stimuli that the profile says cannot apply."""
    metrics = await client.metrics()
    items = excluded_stimuli(serve.PROFILE)
    return {outcome.relation: outcome.reason for item in items for outcome in excluded(item, prober.prefills, metrics)}


async def test_fault_fails_widths_and_mixes_by_logprob_bits_alone_with_and_without_caching_and_chunks(
    engine: Any, client: EngineClient
) -> None:
    # Greedy: a seeded prompt that is cut into chunks ends vLLM 0.32 on CPU ("CPU Generator does not use offset").
    items = [item.model_copy(update={"temperature_milli": 0}) for item in propose(272, SPECIAL, CONTEXT, 16).items]
    prober = Prober(client, Promise.TOKENS_AND_LOGPROBS, CONTEXT, engine.trace)
    expected = {item.name: await client.ask(item) for item in items}
    listed = disturbances(items, expected, [2, 16], 0, traced=True)
    cells = [cell for cell in listed if cell.relation != "S04"]
    assert [cell.condition for cell in cells] == ["width=2", "width=16", "prefill=9", "prefill=129"]
    for cell in cells:
        outcome = await formed(prober, cell)
        assert (outcome.verdict, outcome.condition) == (Verdict.PASS, cell.condition), outcome
    engine.fault_file.touch()
    try:
        for cell in cells:
            outcome = await cell.run(prober, IDLE_PLUG_TOKENS)
            assert (outcome.verdict, outcome.relation) == (Verdict.FAIL, cell.relation), outcome
            assert outcome.finding is not None
            assert outcome.finding.difference.observable is Observable.LOGPROB
    finally:
        engine.fault_file.unlink()
    outcome = await formed(prober, cells[1])
    assert outcome.verdict is Verdict.PASS, outcome
