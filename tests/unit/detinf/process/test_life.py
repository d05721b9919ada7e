"""What ends a controller's life, and in which order: the work, the lease, the watches."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

import pytest
from lease_store import FakeLeases

from detinf.controller import process
from detinf.controller.lease import Elector, LeaseLostError, Timings
from detinf.controller.process import WORKERS, Process
from detinf.controller.reconcile import Reconciler
from detinf.controller.settings import OperatorSettings

QUICK = Timings(duration=2, renew_deadline=1.0, retry=0.01)


class Life:
    """A process whose parts are stand-ins, and what became of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.server = FakeLeases()
        self.watches_end = asyncio.Event()
        self.all_work = asyncio.Event()
        self.error_of_watches: Exception | None = None
        self.work: Callable[[], Awaitable[None]] = asyncio.Event().wait  # type: ignore[assignment]
        options = argparse.Namespace(lease_name="detinf", namespace=None)
        self.process = Process(options, OperatorSettings(probe_image="p"))
        monkeypatch.setattr(process, "Informer", lambda *_: self)
        monkeypatch.setattr(Process, "obey_signals", lambda _: None)
        monkeypatch.setattr(process, "EXIT_SECONDS", 1e6)  # it would end the tests

    # The informer.

    async def start(self) -> None:
        self.told.append("watches")

    async def ends(self) -> None:
        await self.watches_end.wait()

    async def stop(self) -> None:
        self.told.append("watches stopped")
        if self.error_of_watches:
            raise self.error_of_watches

    # The workers, and the lease.

    async def worker(self) -> None:
        self.told.append("worker")
        if self.told.count("worker") == WORKERS:
            self.all_work.set()
        try:
            await self.work()
        finally:
            self.told.append("worker stopped")

    async def way(self, what: str) -> None:
        if what == "replace" and self.server.lease and self.told.count("worker stopped"):
            self.told.append("lease released")

    async def listing(self) -> None:
        await asyncio.Event().wait()

    async def live(self) -> None:
        reconciler = cast(Reconciler, SimpleNamespace(queue=None, work=self.worker))
        elector = Elector(FakeLeases(self.server, self.way), "me", QUICK)
        await self.process.lead(reconciler, elector, asyncio.create_task(self.listing()))

    def after(self, first: str) -> list[str]:
        """Return what happened from the first of its kind on, each thing once."""
        return list(dict.fromkeys(self.told[self.told.index(first) :]))


@pytest.fixture
async def life(monkeypatch: pytest.MonkeyPatch) -> Life:
    return Life(monkeypatch)


ORDER = ["worker stopped", "lease released", "watches stopped"]


async def test_signal_ends_the_work_then_the_lease_then_the_watches(life: Life) -> None:
    living = asyncio.create_task(life.live())
    await life.all_work.wait()
    assert life.process.leading.is_set()
    living.cancel()
    with pytest.raises(asyncio.CancelledError):
        await living
    assert life.told.count("worker stopped") == WORKERS
    assert life.after("worker stopped") == ORDER
    assert "holderIdentity" not in life.server.writes[-1]


async def test_worker_that_dies_ends_all_of_it(life: Life) -> None:
    """Else the lease would be renewed for a controller that does nothing."""

    async def work() -> None:
        await asyncio.sleep(0)
        raise RuntimeError("a bug")

    life.work = work
    with pytest.raises(RuntimeError, match="a bug"):
        await life.live()
    assert life.after("worker stopped") == ORDER
    assert life.told.count("worker stopped") == WORKERS


async def test_watches_that_end_end_all_of_it_with_their_error(life: Life) -> None:
    life.watches_end.set()
    life.error_of_watches = RuntimeError("410")
    with pytest.raises(RuntimeError, match="410"):
        await life.live()
    assert life.after("worker stopped") == ORDER


async def test_lease_that_is_lost_ends_all_of_it_and_is_left_alone(life: Life) -> None:
    living = asyncio.create_task(life.live())
    await life.all_work.wait()
    assert life.server.lease is not None
    taken = life.server.lease["spec"] | {"holderIdentity": "other"}
    await FakeLeases(life.server).replace(life.server.lease | {"spec": taken})
    with pytest.raises(LeaseLostError):
        await living
    assert life.after("worker stopped") == ["worker stopped", "watches stopped"]
    assert life.server.lease["spec"]["holderIdentity"] == "other"


async def test_lease_is_not_given_back_while_a_worker_does_not_end(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """It expires instead, when this process has been ended."""
    monkeypatch.setattr(process, "WORKERS_END_SECONDS", 0.01)
    deaf = asyncio.Event()

    async def work() -> None:
        while not deaf.is_set():
            try:
                await deaf.wait()
            except asyncio.CancelledError:
                continue

    life.work = work
    living = asyncio.create_task(life.live())
    await life.all_work.wait()
    living.cancel()
    await asyncio.wait({living})
    deaf.set()
    assert life.told.count("watches stopped") == 1
    assert life.server.writes[-1]["holderIdentity"] == "me"
