"""The gate's checks, one by one: what it wants of an engine, and what it makes of one that cannot do that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from virtual_engine import VirtualEngine, drive

from detinf.api.types import Promise
from detinf.documents import Verdict
from detinf.probe.client import EngineClient
from detinf.probe.digests import digest48, digests
from detinf.probe.disturbances import disturbances
from detinf.probe.exported import MOST_ANSWERS
from detinf.probe.observation import Observation
from detinf.probe.readiness import GatePass, write_pass
from detinf.probe.reasons import Reason
from detinf.probe.references import propose
from detinf.probe.relations import IDLE_PLUG_TOKENS, Prober
from detinf_sim.limits import Limits
from detinf_sim.model import HashModel
from detinf_sim.scheduler import Request, SimEngine

BOOT = "b" * 32


async def test_width_that_never_ran_is_not_passed_by_narrower_ones(gated: Any, tmp_path: Path) -> None:
    async with gated(tmp_path, [8], seqs=4) as found:
        outcome = await found.lifetime.gate_once(found.items[:8], found.expected)
        assert outcome is not None
        assert (outcome.relation, outcome.condition) == ("S03", "width=8"), outcome
        assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_BATCHED)
        # What took place was compared all the same, and counts as what it was.
        widths = {condition for relation, condition in found.cells(Verdict.PASS) if relation == "S03"}
        assert widths
        assert widths <= {"width=2", "width=4"}


async def test_launch_that_never_ran_alone_is_not_passed_by_larger_ones(gated: Any, tmp_path: Path) -> None:
    async with gated(tmp_path, []) as found:
        cells = disturbances(found.items, found.expected, [], 0, traced=True)
        (cell,) = (cell for cell in cells if cell.condition == "tokens=255")
        for number in range(6):
            found.server.engine.submit(Request(f"tenant-{number}", found.items[0].prompt_ids, max_tokens=4000))
        outcome = await found.lifetime.formed(cell)
        assert (outcome.relation, outcome.condition) == ("S04", "tokens=255")
        assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_BATCHED), outcome
        # It was compared all the same, and counts as what it was: kernels saw 261 tokens, or the plug's, too.
        passed = found.cells(Verdict.PASS)
        assert passed
        assert passed <= {("S04", "tokens>256"), ("S04", "tokens>4096")}


async def test_gate_packs_the_engine_to_its_full_width(gated: Any, tmp_path: Path) -> None:
    async with gated(tmp_path, [2, 32]) as found:
        for _ in range(20):  # on a busy machine, as the gate itself is repeated
            outcome = await found.lifetime.gate_once(found.items, found.expected)
            if outcome is None:
                break
            assert outcome.reason is Reason.NOT_BATCHED, outcome
        assert outcome is None, outcome
        assert {("S03", "width=2"), ("S03", "width=32")} <= found.cells(Verdict.PASS)
        assert max(record.decodes for record in found.server.engine.trace) == 32
        assert found.shown().keys() == {item.name for item in found.items[:MOST_ANSWERS]}


async def test_without_a_step_trace_the_gate_goes_by_what_metrics_prove_and_says_so(gated: Any, tmp_path: Path) -> None:
    async with gated(tmp_path, [2, 32], traced=False) as found:
        for _ in range(20):
            outcome = await found.lifetime.gate_once(found.items, found.expected)
            if outcome is None:
                break
        assert outcome is None, outcome
        assert found.cells(Verdict.INCONCLUSIVE) == {("S03", "width=32"), ("S04", "gate"), ("S05", "gate")}


async def test_after_the_gate_no_cohort_fills_the_engine(gated: Any, tmp_path: Path) -> None:
    """Users would have to wait for all of it."""
    async with gated(tmp_path, [2, 32]) as found:
        write_pass(tmp_path, GatePass(BOOT, "plan", "fingerprint", "baseline"))
        before = found.server.engine.steps
        watching = asyncio.create_task(found.lifetime.watch(found.items, found.expected))
        ledger = found.lifetime.books.ledger
        async with asyncio.timeout(60):
            while sum(cell.passes for cell in ledger.listed() if cell.condition == "width=2") < 6:
                assert not watching.done()
                await asyncio.sleep(0.01)  # nobody tells when a cell was booked
        watching.cancel()
        assert max(record.width for record in found.server.engine.trace if record.step > before) < 8


@pytest.mark.parametrize("promise", list(Promise))
async def test_answers_given_alone_are_shown_by_their_digests(gated: Any, tmp_path: Path, promise: Promise) -> None:
    async with gated(tmp_path, [], promise=promise) as found:
        item = found.items[0]
        for reference in [*found.items[: MOST_ANSWERS + 1], item]:
            await found.lifetime.asking.alone(reference, found.expected[reference.name], twice=False)
        known = {
            reference.name: digests(reference.prompt_ids, found.expected[reference.name]) for reference in found.items
        }
        right = {
            name: digest48(known[name].ids if promise is Promise.TOKENS else known[name].logprobs)
            for name in list(known)[:MOST_ANSWERS]
        }
        assert found.shown() == right
        found.server.active.switch(["F20"])  # other bits, the same tokens
        (outcome,) = await found.lifetime.asking.alone(item, found.expected[item.name], twice=False)
        if promise is Promise.TOKENS:
            assert outcome.verdict is Verdict.PASS
            assert found.shown() == right
        else:
            assert outcome.finding is not None
            seen = digest48(digests(item.prompt_ids, outcome.finding.observed).logprobs)
            assert found.shown() == right | {item.name: seen}
            assert seen != right[item.name]
        found.server.active.switch(["status:503"])
        before = found.shown()
        await found.lifetime.asking.alone(item, found.expected[item.name], twice=False)
        assert found.shown() == before


async def test_evidence_tells_how_many_users_were_answered_since_the_cell_was_right(gated: Any, tmp_path: Path) -> None:
    async with gated(tmp_path, [2]) as found:
        asking, books = found.lifetime.asking, found.lifetime.books
        books.served.begin((await asking.client.look()).others)
        item, other = found.items[:2]
        cells = disturbances(found.items, found.expected, [2], 0, traced=True)
        url = asking.client.base_url
        async with EngineClient(url, "sim", boot=BOOT) as user:
            await asyncio.gather(*(user.ask(item) for _ in range(4)))
            await asking.client.ask(other)  # ours, and no user's
            books.keep(await asking.alone(item, found.expected[item.name]))
            await asyncio.gather(*(user.ask(item) for _ in range(3)))
            found.server.active.switch(["F20"])
            books.keep(await asking.alone(item, found.expected[item.name]))
            assert books.evidence is not None
            assert (books.evidence.relation, books.evidence.answered) == ("S02", 3)
            cell = next(item for item in books.ledger.listed() if item.relation == "S02")
            assert books.evidence.clean_unix == cell.last_pass_unix
            await user.ask(item)
            books.keep(await asking.timed(cells[0].run(asking.prober(), IDLE_PLUG_TOKENS)))
        (further,) = books.further
        assert (further.relation, further.answered, further.clean_unix) == ("S03", 8, None)


async def test_plug_and_answers_that_broke_on_their_way_are_our_own_too(gated: Any, tmp_path: Path) -> None:
    async with gated(tmp_path, []) as found:
        client = found.lifetime.asking.client
        assert (await client.look()).others == 0
        await client.plug(100, found.items[0])
        await client.ask_list([found.items[3], found.items[3]])
        found.server.active.switch(["truncate"])
        assert not isinstance(await client.ask(found.items[0]), Observation)
        found.server.active.switch([])
        assert (await client.look()).others == 0


def test_cohort_of_the_widest_gate_forms_though_it_takes_long_to_arrive() -> None:
    core = SimEngine(HashModel(1000, b"test"), Limits(256, 8192, 8192))
    engine = VirtualEngine(core, 7, spread=0.4)
    items = propose(1000, [], 8192, 16).items
    expected = {item.name: drive(engine.ask(item)) for item in items}
    prober = Prober(engine, Promise.TOKENS_AND_LOGPROBS, 8192, engine)
    (cell,) = (item for item in disturbances(items, expected, [256], 0, traced=False))
    outcome = drive(cell.run(prober, IDLE_PLUG_TOKENS))
    assert (outcome.verdict, outcome.condition, outcome.as_wanted) == (Verdict.PASS, "width=256", True), outcome
    assert outcome.comparisons == 256
