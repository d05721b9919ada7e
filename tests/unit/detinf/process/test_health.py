"""What the kubelet is told, and what a standby does meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from cluster_api import FakeClusterApi
from prometheus_client import generate_latest

from detinf.api import names
from detinf.cluster.port import ClusterError, Kind, Manifest
from detinf.controller.app import resync
from detinf.controller.exported import Exported
from detinf.controller.health import MAX_AGE_SECONDS, Health
from detinf.controller.queue import KeyQueue


async def asked(health: Health, unused_tcp_port: int) -> dict[str, int]:
    """Return what each page answers."""
    pages = ("healthz", "readyz", "metrics")
    async with health.served("127.0.0.1", unused_tcp_port), aiohttp.ClientSession() as session:
        found = {}
        for page in pages:
            async with session.get(f"http://127.0.0.1:{unused_tcp_port}/{page}") as answer:
                found[page] = answer.status
        return found


async def test_process_that_starts_is_alive_and_not_ready(unused_tcp_port: int) -> None:
    """A start that takes long is no reason to begin anew; who is not Ready ends nobody."""
    health = Health(Exported())
    assert await asked(health, unused_tcp_port) == {"healthz": 200, "readyz": 503, "metrics": 200}
    health.was_listed()
    health.ready = True
    assert await asked(health, unused_tcp_port) == {"healthz": 200, "readyz": 200, "metrics": 200}


async def test_process_that_cannot_list_any_more_is_neither(unused_tcp_port: int) -> None:
    health = Health(Exported())
    health.ready = True
    health.listed = time.monotonic() - MAX_AGE_SECONDS - 1
    assert await asked(health, unused_tcp_port) == {"healthz": 503, "readyz": 503, "metrics": 200}


class Listing(FakeClusterApi):
    """An API server with one resource, which fails every second time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def list(self, kind: Kind, **selection: Any) -> list[Manifest]:
        assert kind.kind == names.KIND
        assert set(selection) == {"namespace"}
        self.asked += 1
        if self.asked % 2:
            raise ClusterError("away")
        return [{"metadata": {"namespace": "ns", "name": "a"}}]


@pytest.mark.parametrize("leads", [False, True], ids=["standby", "leader"])
async def test_standby_sees_that_it_could_list_and_queues_nothing(
    monkeypatch: pytest.MonkeyPatch, *, leads: bool
) -> None:
    monkeypatch.setattr("detinf.controller.app.RESYNC_SECONDS", 0.0)
    api, health, queue = Listing(), Health(Exported()), KeyQueue[tuple[str, str]](lambda: 0.0)
    health.exported.seen("ns", "gone")
    leading = asyncio.Event()
    if leads:
        leading.set()
    listing = asyncio.create_task(resync(api, queue, health, None, leading))
    while health.listed is None:
        await asyncio.sleep(0)
    listing.cancel()
    assert api.asked >= 2
    assert bool(queue.adds) == leads
    assert 'name="gone"' not in generate_latest(health.exported.registry).decode()
