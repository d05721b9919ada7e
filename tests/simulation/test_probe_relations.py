"""The relations against engines that are well, wrong, or merely unhelpful."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from detinf.api.types import Promise
from detinf.documents import References, Verdict
from detinf.probe.client import EngineClient
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.references import propose
from detinf.probe.relations import Prober
from detinf.probe.verdict import Round
from detinf_sim.model import HashModel
from detinf_sim.scheduler import Limits
from detinf_sim.server import Server, Settings, running_server

BOOT = "b" * 32


def settings() -> Settings:
    return Settings(
        model=HashModel(1000, b"test"), served_name="sim", limits=Limits(32, 8192, 4096), step_seconds=0.001, boot=BOOT
    )


@contextlib.asynccontextmanager
async def prober() -> AsyncIterator[tuple[Prober, Server, References, dict[str, Observation]]]:
    """A prober with the engine's own right answers."""
    references = propose(1000, [], 4096, 16)
    async with running_server(settings()) as (url, server), EngineClient(url, "sim", boot=BOOT) as client:
        expected = {}
        for item in references.items:
            answer = await client.ask(item)
            assert isinstance(answer, Observation), answer
            expected[item.name] = answer
        yield Prober(client, Promise.TOKENS_AND_LOGPROBS, 4096), server, references, expected


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


async def test_healthy_engine_passes_everything_at_the_width_that_ran() -> None:
    async with prober() as (probing, server, references, expected):
        rounds = await all_rounds(probing, references, expected)
        assert [(item.relation, item.verdict) for item in rounds] == [
            ("S01", Verdict.PASS),
            ("S02", Verdict.PASS),
            ("S03", Verdict.PASS),
        ]
        widest = max(record.decodes for record in server.engine.trace)
        assert widest == 16
        assert rounds[2].witness.width <= widest


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


async def test_serialising_engine_never_passes_a_width() -> None:
    async with prober() as (probing, server, references, expected):
        server.active.switch(["serialise"])
        for width in (2, 8, 16):
            (outcome,) = await probing.width(references.items[:width], expected)
            assert (outcome.verdict, outcome.reason) == (Verdict.INCONCLUSIVE, Reason.NOT_BATCHED), outcome
        assert {record.width for record in server.engine.trace} == {1}


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
