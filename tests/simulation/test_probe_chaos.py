"""Everything benign that the simulator can do, one by one and all at once: the real probe never says FAIL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from detinf.api.types import Promise
from detinf.documents import Verdict
from detinf.probe.client import EngineClient
from detinf.probe.observation import Observation
from detinf.probe.references import propose
from detinf.probe.relations import Prober
from detinf.probe.trace import Trace
from detinf.probe.verdict import Round
from detinf_sim.behaviours import BEHAVIOURS
from detinf_sim.limits import Limits
from detinf_sim.model import HashModel
from detinf_sim.server import Settings, running_server

BOOT = "b" * 32
NUMBERS = {"status": 503, "hang": 0, "round": 6, "slow": 3, "load": 60}
"""The numbers of behaviours that take one; shares are 20 percent."""
NAMES = {
    name: f"{name}:{NUMBERS.get(name, 20)}" if behaviour.number else name for name, behaviour in BEHAVIOURS.items()
}
SETTLED = {
    # What leaves answers and their proof alone has to pass; it would be no use to say nothing about it.
    "shuffle",
    "evict",
    "slow",
    "clock",
    "metrics-reset",
    "metrics-404",
    "metrics-late",
    "metrics-empty",
    "metrics-edges",
    "reserialise",
    "no-details",
    "upgrade",
}


async def rounds(names: list[str], trace: Path) -> list[Round]:
    """Ask an engine alone and in company while it misbehaves."""
    limits = Limits(16, 4096, 4096, chunked_prefill=True, prefix_caching=True, kv_blocks=40)
    settings = Settings(HashModel(1000, b"test"), limits=limits, step_seconds=0.0005, boot=BOOT, trace=trace)
    asked = propose(1000, [], 4096, 16).items[:4]
    async with running_server(settings) as (url, server), EngineClient(url, "sim", boot=BOOT) as client:
        expected = {}
        for item in asked:
            answer = await client.ask(item)
            assert isinstance(answer, Observation), answer
            expected[item.name] = answer
        probing = Prober(client, Promise.TOKENS_AND_LOGPROBS, 4096, Trace(trace, BOOT))
        server.active.switch(names)
        seen = await probing.solo(asked[0], expected[asked[0].name])
        for _ in range(10):
            cohort = await probing.width(asked, expected)
            seen += cohort
            if all(item.verdict is not Verdict.INCONCLUSIVE for item in cohort):
                break
            await asyncio.sleep(0)
    return seen


@pytest.mark.parametrize("name", BEHAVIOURS)
async def test_benign_behaviour_is_never_a_failure(name: str, tmp_path: Path) -> None:
    verdicts = {item.verdict for item in await rounds([NAMES[name]], tmp_path / "ring")}
    assert Verdict.FAIL not in verdicts
    if name in SETTLED:
        assert Verdict.PASS in verdicts


async def test_everything_benign_at_once_is_never_a_failure(tmp_path: Path) -> None:
    names = [*NAMES.values()]
    names[names.index("sometimes:20")] = "sometimes:5"
    assert Verdict.FAIL not in {item.verdict for item in await rounds(names, tmp_path / "ring")}


async def test_the_same_rounds_fail_with_a_fault(tmp_path: Path) -> None:
    assert Verdict.FAIL in {item.verdict for item in await rounds(["F22", "slow:3", "shuffle"], tmp_path / "ring")}
