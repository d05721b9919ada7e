"""The probe's process: it ends when it is told to, whatever else is ending."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from detinf.documents import PodIdentity
from detinf.probe import app
from detinf.probe.app import Probe
from detinf.probe.readiness import Files


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    files = Files(tmp_path / "plan.json", tmp_path, tmp_path, tmp_path)
    pod = PodIdentity(namespace="n", name="p", uid="u")
    return Probe(files=files, settings=tmp_path, delivery=tmp_path, engine_url="http://none", pod=pod)


def stub(monkeypatch: pytest.MonkeyPatch, run: Any) -> Any:
    """Put something else in a lifetime's place, whose attestation is gone at the second look; return that."""
    lifetime = type("Stub", (), {"run": staticmethod(run)})()
    monkeypatch.setattr(app, "Lifetime", lambda **_: lifetime)
    attested = type("Attested", (), {"boot": "b" * 32})()
    looks = itertools.chain([attested], itertools.repeat(["gone"]))
    monkeypatch.setattr(app, "read_attested", lambda *_: next(looks))
    monkeypatch.setattr(app, "POLL_SECONDS", 0.01)
    return attested


async def test_end_that_comes_while_a_lifetime_ends_is_not_lost(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's container has ended, and the sidecar is told to: both at once, as at every end of a pod."""
    ending, release = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await release.wait()

    attested = stub(monkeypatch, run)
    living = asyncio.create_task(probe.live(attested, None))
    await ending.wait()
    living.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await living


async def test_lifetime_whose_attestation_is_gone_ends_by_itself(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    attested = stub(monkeypatch, asyncio.Event().wait)
    await probe.live(attested, None)
    assert probe.lifetime is None


async def test_error_in_a_lifetime_is_not_hidden_by_its_end(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("ours")

    attested = stub(monkeypatch, run)
    with pytest.raises(ValueError, match="ours"):
        await probe.live(attested, None)
