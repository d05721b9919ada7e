"""The relations against engines that are well, wrong, or merely unhelpful."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from detinf.api.types import Promise
from detinf.documents import Reference, References, Verdict
from detinf.probe.client import EngineClient
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.references import propose
from detinf.probe.relations import Prober
from detinf.probe.trace import Trace
from detinf.probe.verdict import Round
from detinf_sim import metrics
from detinf_sim.model import HashModel
from detinf_sim.scheduler import Limits, Request
from detinf_sim.server import Server, Settings, running_server

BOOT = "b" * 32


def settings(trace: Path | None = None, *, seqs: int = 32) -> Settings:
    model, limits = HashModel(1000, b"test"), Limits(seqs, 8192, 4096)
    return Settings(model, served_name="sim", limits=limits, step_seconds=0.001, boot=BOOT, trace=trace)


@contextlib.asynccontextmanager
async def prober(
    trace: Path | None = None, *, seqs: int = 32
) -> AsyncIterator[tuple[Prober, Server, References, dict[str, Observation]]]:
    """A prober with the engine's own right answers; with a step trace where a path is given."""
    references = propose(1000, [], 4096, 16)
    async with (
        running_server(settings(trace, seqs=seqs)) as (url, server),
        EngineClient(url, "sim", boot=BOOT) as client,
    ):
        expected = {}
        for item in references.items:
            answer = await client.ask(item)
            assert isinstance(answer, Observation), answer
            expected[item.name] = answer
        traced = Trace(trace, BOOT) if trace else None
        yield Prober(client, Promise.TOKENS_AND_LOGPROBS, 4096, traced), server, references, expected


async def all_rounds(
    probing: Prober, references: References, expected: dict[str, Observation], width: int = 16
) -> list[Round]:
    first = references.items[0]
    solo = await probing.solo(first, expected[first.name])
    for _ in range(10):
        (cohort,) = await probing.width(references.items[:width], expected)
        if cohort.reason is not Reason.NOT_BATCHED:
            break  # on a busy machine a cohort may not come together; the product repeats it, too
    return [*solo, cohort]


@pytest.fixture(params=["W0", "W2"])
def trace(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """A path for the step trace, or none: then metrics are the witness."""
    return tmp_path / "trace.ring" if request.param == "W0" else None


async def test_healthy_engine_passes_everything_at_the_width_that_ran(trace: Path | None) -> None:
    async with prober(trace) as (probing, server, references, expected):
        rounds = await all_rounds(probing, references, expected)
        assert [(item.relation, item.verdict) for item in rounds] == [
            ("S01", Verdict.PASS),
            ("S02", Verdict.PASS),
            ("S03", Verdict.PASS),
        ]
        widest = max(record.decodes for record in server.engine.trace)
        assert widest == 16
        assert rounds[2].witness.width <= widest
        assert rounds[2].witness.kind == ("W0" if trace else "W2")


async def test_solo_round_says_whether_it_was_alone_and_takes_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    async with prober() as (probing, server, references, _):
        pages = 0
        render = metrics.render

        def counted(*arguments: Any, **named: Any) -> str:
            nonlocal pages
            pages += 1
            return render(*arguments, **named)

        monkeypatch.setattr("detinf_sim.metrics.render", counted)
        (alone,) = await probing.solo(references.items[0], None)
        assert (alone.witness.kind, alone.verdict, pages) == ("W6", Verdict.PASS, 2)
        server.engine.submit(Request("tenant", references.items[1].prompt_ids, max_tokens=2000))
        (company,) = await probing.solo(references.items[0], None)
        assert (company.witness.kind, company.verdict, pages) == ("None", Verdict.PASS, 4)
        assert "generated for others" in company.witness.detail


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("status:429", Reason.RATE_LIMITED),
        ("status:503", Reason.UNAVAILABLE),
        ("status:500", Reason.HTTP_STATUS),
        ("garbage", Reason.GARBAGE),
        ("truncate", Reason.TRUNCATED),
        ("round:6", Reason.PRECISION_LOST),
        ("restart", Reason.ENGINE_CHANGED),
    ],
)
async def test_unhelpful_engine_is_inconclusive_with_its_reason(behaviour: str, reason: Reason) -> None:
    async with prober() as (probing, server, references, expected):
        server.active.switch([behaviour])
        for outcome in await all_rounds(probing, references, expected, width=8):
            assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, reason), outcome


async def test_serialising_engine_never_passes_a_width(trace: Path | None) -> None:
    async with prober(trace) as (probing, server, references, expected):
        server.active.switch(["serialise"])
        for width in (2, 8, 16):
            (outcome,) = await probing.width(references.items[:width], expected)
            assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_BATCHED), outcome
        assert {record.width for record in server.engine.trace} == {1}


async def test_cohort_in_tenants_company_is_booked_at_the_width_that_ran(tmp_path: Path) -> None:
    async with prober(tmp_path / "trace.ring") as (probing, server, references, expected):
        for number in range(6):
            server.engine.submit(Request(f"tenant-{number}", references.items[0].prompt_ids, max_tokens=2000))
        (outcome,) = await probing.width(references.items[:2], expected)
        assert (outcome.verdict, outcome.witness.kind) == (Verdict.PASS, "W0")
        assert outcome.condition == "width=8"


async def test_cohort_that_ran_in_parts_passes_as_what_it_was_and_fails_as_what_was_wanted(tmp_path: Path) -> None:
    async with prober(tmp_path / "trace.ring", seqs=4) as (probing, server, references, expected):
        outcome = await until_proven(lambda: first_of(probing.width(references.items[:8], expected)))
        assert (outcome.verdict, outcome.as_wanted) == (Verdict.PASS, False)
        assert outcome.condition in {"width=2", "width=4"}
        server.active.switch(["F22"])
        (outcome,) = await probing.width(references.items[:8], expected)
        assert (outcome.verdict, outcome.condition) == (Verdict.FAIL, "width=8")
        server.active.switch([])
        outcome = await until_wanted(lambda: first_of(probing.width(references.items[:4], expected)))
        assert (outcome.verdict, outcome.condition, outcome.as_wanted) == (Verdict.PASS, "width=4", True)


async def test_trace_with_a_gap_proves_no_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detinf_sim.ring.CAPACITY", 8)
    async with prober(tmp_path / "trace.ring") as (probing, _, references, expected):
        (outcome,) = await probing.width(references.items[:8], expected)
        assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_BATCHED)
        assert "gap" in outcome.detail


async def test_unreachable_engine_is_inconclusive() -> None:
    references = propose(1000, [], 4096, 2)
    async with running_server(settings()) as (url, _):
        pass  # it is gone when the block ends
    async with EngineClient(url, "sim", boot=BOOT) as client:
        answer = await client.ask(references.items[0])
        assert not isinstance(answer, Observation)
        assert answer.reason is Reason.TRANSPORT
        rounds = await Prober(client, Promise.TOKENS, 4096).solo(references.items[0], None)
        assert rounds[0].verdict is Verdict.INCONCLUSIVE


async def test_metrics_without_the_series_never_pass_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    async with prober() as (probing, server, references, expected):
        monkeypatch.setattr(server.engine.counters, "book_iteration", lambda _tokens: None)
        monkeypatch.setattr("detinf_sim.metrics.render", lambda *_, **__: "up 1\n")
        (outcome,) = await probing.width(references.items[:8], expected)
        assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.METRICS_MISSING)


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        ("F01", {"width=16"}),
        ("F22", {"width=2", "width=8", "width=16"}),
        ("F20", {"solo", "width=2", "width=8", "width=16"}),
    ],
)
async def test_fault_fails_exactly_where_it_strikes(fault: str, failing: set[str]) -> None:
    async with prober() as (probing, server, references, expected):
        server.active.switch([fault])
        seen = set()
        for width in (2, 8, 16):
            for outcome in await all_rounds(probing, references, expected, width):
                if outcome.verdict is Verdict.FAIL:
                    seen.add(outcome.condition)
                else:
                    assert outcome.verdict is Verdict.PASS, outcome
        assert seen == failing
        assert server.active.struck[fault] > 0


async def test_difference_is_found_without_a_witness() -> None:
    async with prober() as (probing, server, references, expected):
        server.active.switch(["serialise", "F20"])
        (outcome,) = await probing.width(references.items[:8], expected)
        assert outcome.verdict is Verdict.FAIL


async def test_probe_steps_aside_while_users_wait() -> None:
    async with prober() as (probing, server, references, _):
        server.active.switch(["serialise"])
        asked = [asyncio.create_task(probing.client.ask(item)) for item in references.items]
        while not server.engine.waiting:
            await asyncio.sleep(0)
        snapshot = await probing.client.metrics()
        assert snapshot is not None
        assert snapshot.waiting > 0
        await asyncio.gather(*asked)


def of_length(references: References, *lengths: int) -> list[Reference]:
    return [next(item for item in references.items if len(item.prompt_ids) == length) for length in lengths]


async def until_proven(run: Callable[[], Awaitable[Round]]) -> Round:
    """On a busy machine a cohort may not come together; the product forms it again, too."""
    for _ in range(20):
        outcome = await run()
        if outcome.reason is not Reason.NOT_BATCHED:
            break
    return outcome


async def until_wanted(run: Callable[[], Awaitable[Round]]) -> Round:
    """On a busy machine a cohort may come together in part; the product forms it again, too."""
    for _ in range(20):
        outcome = await run()
        if outcome.as_wanted and outcome.reason is not Reason.NOT_BATCHED:
            break
    return outcome


async def first_of(rounds: Awaitable[list[Round]]) -> Round:
    return (await rounds)[0]


async def test_launch_is_booked_at_the_tokens_that_one_step_held(tmp_path: Path) -> None:
    async with prober(tmp_path / "trace.ring") as (probing, server, references, expected):
        for lengths in ((127, 128), (127, 129), (128, 129)):
            cohort = of_length(references, *lengths)
            outcome = await until_wanted(lambda cohort=cohort: probing.launch(cohort, expected))
            assert (outcome.relation, outcome.verdict) == ("S04", Verdict.PASS), outcome
            assert outcome.condition == f"tokens={sum(lengths)}"
            assert sum(lengths) in {record.tokens for record in server.engine.trace}


async def test_prefill_among_decodes_is_booked_with_its_tokens(tmp_path: Path) -> None:
    async with prober(tmp_path / "trace.ring") as (probing, _, references, expected):
        decoding, (joins,) = of_length(references, 5, 9, 17), of_length(references, 112)
        outcome = await until_proven(lambda: probing.join(decoding, joins, expected))
        assert (outcome.relation, outcome.condition) == ("S05", "prefill=112")
        assert outcome.verdict is Verdict.PASS, outcome
        assert "with 3 decodes, 3 of them our own" in outcome.witness.detail


async def test_serialising_engine_never_passes_a_launch_or_a_mix(tmp_path: Path) -> None:
    async with prober(tmp_path / "trace.ring") as (probing, server, references, expected):
        server.active.switch(["serialise"])
        outcome = await probing.launch(of_length(references, 127, 129), expected)
        assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_BATCHED)
        outcome = await probing.join(of_length(references, 5, 9), of_length(references, 33)[0], expected)
        assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_BATCHED)


async def test_without_a_trace_launch_and_mix_prove_nothing_and_still_see_a_difference() -> None:
    async with prober() as (probing, server, references, expected):
        launch = await probing.launch(of_length(references, 127, 129), expected)
        mix = await probing.join(of_length(references, 5, 9), of_length(references, 33)[0], expected)
        for outcome in (launch, mix):
            assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.TRACE_MISSING)
        server.active.switch(["F20"])
        assert (await probing.launch(of_length(references, 127, 129), expected)).verdict is Verdict.FAIL
