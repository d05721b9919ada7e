"""The controller's first question to the API server: asked again where waiting helps, and never where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from cluster_api import FakeClusterApi

from detinf.cluster.port import ClusterError, ForbiddenError, Kind, Manifest
from detinf.controller import app


class Answering(FakeClusterApi):
    """An API server that answers with these errors before it serves."""

    def __init__(self, errors: Iterable[ClusterError]) -> None:
        super().__init__()
        self.errors = list(errors)
        self.asked = 0

    async def list(self, kind: Kind, **selection: object) -> list[Manifest]:
        assert kind.kind == "DeterministicInference"
        assert set(selection) == {"namespace"}
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return []


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting takes no time, and is noted."""
    noted: list[float] = []

    async def sleep(seconds: float) -> None:
        noted.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return noted


async def test_busy_api_server_is_asked_again_when_it_says(waits: list[float]) -> None:
    busy = ClusterError("storage is (re)initializing", status=429, retry_after=3)
    api = Answering([busy, ClusterError("refused"), ClusterError("internal", status=500)])
    await app.first_list(api, None)
    assert api.asked == 4
    assert waits == [3, 1.0, 1.0]


@pytest.mark.parametrize("error", [ClusterError("not found", status=404), ForbiddenError("forbidden", status=403)])
async def test_missing_definition_or_right_ends_the_start_at_once(waits: list[float], error: ClusterError) -> None:
    api = Answering([error])
    with pytest.raises(ClusterError):
        await app.first_list(api, "ns")
    assert (api.asked, waits) == (1, [])
    assert app.REMEDIES[error.status or 0]


async def test_api_server_that_never_serves_ends_the_start(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(ClusterError):
        await app.first_list(Answering([ClusterError("gone", status=503)] * 3), None)
    assert waits == []
