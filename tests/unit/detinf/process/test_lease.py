"""Who leads: by the record that was seen and by one's own clock, in time that passes when everybody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lease_store import FakeLeases

from detinf.cluster.port import ClusterError, ForbiddenError
from detinf.controller.lease import (
    Elector,
    LeaseLostError,
    Record,
    Seen,
    Step,
    Timings,
    claim,
    may_write,
    must_stop,
    released,
    saw,
    step,
)

TIMES = Timings()
THEIRS = Record("other", 15, acquired="2026-01-01T00:00:00.000000Z", renewed="2026-01-01T00:00:10.000000Z")
Result = TypeVar("Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop in whose time nothing takes time but waiting, and that is over at once."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        self.now = 0.0
        chosen = self._selector.select  # type: ignore[attr-defined]

        def select(timeout: float | None) -> Any:
            assert timeout is not None, "everybody waits for something that never comes"
            self.now += timeout
            return chosen(0)

        self._selector.select = select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.now


def virtually(scene: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a scene in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scene())


def elector(server: FakeLeases, name: str, way: Callable[[str], Awaitable[None]] | None = None, **more: Any) -> Elector:
    leases = FakeLeases(server, way) if way else FakeLeases(server)
    clock = asyncio.get_running_loop().time
    return Elector(leases, name, **{"monotonic": clock, "jitter": lambda: 0.5} | more)


# The decisions -----------------------------------------------------------------------------------------------------


def test_lease_of_another_is_waited_for_by_our_own_clock_alone() -> None:
    """Their machine's clock may be years off: what counts is for how long we have seen the record unchanged."""
    seen = saw(None, replace(THEIRS, renewed="1999-01-01T00:00:00.000000Z"), 100.0)
    assert step(seen, "me", 114.9, TIMES) is Step.WAIT
    assert step(seen, "me", 115.0, TIMES) is Step.TAKE
    assert saw(seen, seen.record, 114.0) == seen
    renewed = saw(seen, replace(seen.record, renewed="1999-01-01T00:00:02.000000Z"), 114.0)
    assert step(renewed, "me", 128.0, TIMES) is Step.WAIT


def test_lease_is_held_for_as_long_as_its_holder_says() -> None:
    assert step(Seen(replace(THEIRS, duration=60), 0.0), "me", 59.0, TIMES) is Step.WAIT
    assert step(Seen(replace(THEIRS, duration=None), 0.0), "me", 15.0, TIMES) is Step.TAKE


def test_lease_that_nobody_holds_is_taken_and_our_own_is_renewed() -> None:
    assert step(Seen(released(THEIRS, "now"), 0.0), "me", 0.0, TIMES) is Step.TAKE
    assert step(Seen(replace(THEIRS, holder="me"), 0.0), "me", 1000.0, TIMES) is Step.RENEW


def test_claim_counts_a_change_of_the_holder_and_keeps_when_it_began() -> None:
    assert claim(None, "me", TIMES, "t1") == Record("me", 15, "t1", "t1", 0)
    taken = claim(replace(THEIRS, transitions=3), "me", TIMES, "t1")
    assert taken == Record("me", 15, "t1", "t1", 4)
    assert claim(taken, "me", TIMES, "t2") == Record("me", 15, "t1", "t2", 4)


@pytest.mark.parametrize("record", [THEIRS, released(THEIRS, "now"), Record("", None)])
def test_record_is_the_same_after_a_lease(record: Record) -> None:
    assert Record.of({"spec": record.spec()}) == record
    assert Record.of({"metadata": {}}) == Record("", None)


def test_holder_gives_up_before_anybody_else_may_begin() -> None:
    assert not must_stop(100.0, 109.9, TIMES)
    assert must_stop(100.0, 110.0, TIMES)
    assert may_write(100.0, 114.9, TIMES)
    assert not may_write(100.0, 115.0, TIMES)
    assert not may_write(None, 0.0, TIMES)


@pytest.mark.parametrize("wrong", [(15, 15.0, 2.0), (15, 10.0, 9.0), (15, 10.0, 0.0), (5, 10.0, 2.0)])
def test_timings_that_leave_a_gap_are_refused(wrong: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="must be longer than the deadline"):
        Timings(*wrong)


# The loop ----------------------------------------------------------------------------------------------------------


def test_first_takes_it_and_the_second_when_it_is_released() -> None:
    async def scene() -> None:
        server = FakeLeases()
        first, second = elector(server, "first"), elector(server, "second")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(100)
        assert (first.leads(), waiting.done()) == (True, False)
        keeping.cancel()
        await first.release()
        began = asyncio.get_running_loop().time()
        await waiting
        assert asyncio.get_running_loop().time() - began <= TIMES.retry * 1.2
        assert [first.leads(), second.leads()] == [False, True]
        assert server.writes[-1]["leaseTransitions"] == 1

    virtually(scene)


def test_lease_of_one_that_died_is_taken_when_it_has_expired_and_not_before() -> None:
    async def scene() -> None:
        server = FakeLeases()
        first, second = elector(server, "first"), elector(server, "second")
        await first.acquire()
        await second.acquire()
        assert TIMES.duration <= asyncio.get_running_loop().time() <= TIMES.duration + 2 * TIMES.retry * 1.2

    virtually(scene)


def test_restarted_container_of_the_same_pod_goes_on_at_once() -> None:
    async def scene() -> None:
        server = FakeLeases()
        await elector(server, "pod").acquire()
        await elector(server, "pod").acquire()
        assert asyncio.get_running_loop().time() < TIMES.retry

    virtually(scene)


def failing(when: Callable[[str], ClusterError | float | None]) -> Callable[[str], Awaitable[None]]:
    """A way to the server on which requests fail, or take a time."""

    async def way(what: str) -> None:
        happens = when(what)
        if isinstance(happens, ClusterError):
            raise happens
        await asyncio.sleep(happens or 0.0)

    return way


@pytest.mark.parametrize(
    "trouble", [ClusterError("away"), ForbiddenError("no", status=403), 1000.0], ids=["away", "forbidden", "silent"]
)
def test_lease_that_cannot_be_renewed_is_given_up_at_the_deadline(trouble: ClusterError | float) -> None:
    async def scene() -> None:
        server, since = FakeLeases(), 20.0
        loop = asyncio.get_running_loop()
        first = elector(server, "first", failing(lambda _: trouble if loop.time() >= since else None))
        await first.acquire()
        with pytest.raises(LeaseLostError, match="not renewed"):
            await first.keep()
        assert since < loop.time() <= since + TIMES.renew_deadline
        assert not first.leads()

    virtually(scene)


def test_one_failed_renewal_is_no_loss() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        spoilt = failing(lambda what: ClusterError("away") if 6 < loop.time() < 11 and what == "replace" else None)
        first = elector(FakeLeases(), "first", spoilt)
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(60)
        assert first.leads()
        keeping.cancel()

    virtually(scene)


def test_renewal_whose_answer_was_lost_is_no_loss() -> None:
    async def scene() -> None:
        server, lost = FakeLeases(), iter([ClusterError("cut off")])
        spoilt = failing(lambda what: next(lost, None) if what == "replace answered" else None)
        first = elector(server, "first", spoilt)
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(60)
        assert first.leads()
        keeping.cancel()
        await first.release()
        assert "holderIdentity" not in server.writes[-1]

    virtually(scene)


def test_lease_that_was_lost_is_given_back_while_it_is_ours_on_record_and_never_anothers() -> None:
    async def scene() -> None:
        server = FakeLeases()
        first, second = elector(server, "first"), elector(server, "second")
        await first.acquire()
        first.renewed = None
        await first.release()
        assert "holderIdentity" not in server.writes[-1]
        await second.acquire()
        await first.release()
        assert server.writes[-1]["holderIdentity"] == "second"

    virtually(scene)


def test_wait_that_is_broken_off_leaves_no_lease_behind() -> None:
    """The server has given it to us, and the answer was never read."""

    async def scene() -> None:
        server = FakeLeases()
        first = elector(server, "first", failing(lambda what: 0.5 if what == "make answered" else None))
        waiting = asyncio.create_task(first.acquire())
        await asyncio.sleep(0.25)
        waiting.cancel()
        await first.release()
        assert "holderIdentity" not in server.writes[-1]

    virtually(scene)


def test_release_comes_through_where_a_renewal_was_under_way() -> None:
    """The task that renews is ended in the middle of a request that the server carries out."""

    async def scene() -> None:
        server = FakeLeases()
        first = elector(server, "first", failing(lambda what: 0.5 if what == "replace answered" else None))
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(TIMES.retry + 0.25)
        keeping.cancel()
        await first.release()
        assert "holderIdentity" not in server.writes[-1]

    virtually(scene)


def test_renewal_counts_from_when_it_was_asked_for_and_not_from_its_late_answer() -> None:
    """Others count from when they saw it; who was then stopped, and goes on later, must know that it is over."""

    async def scene() -> None:
        server, loop = FakeLeases(), asyncio.get_running_loop()
        late = failing(lambda what: 4.0 if what == "replace answered" else None)
        first, second = elector(server, "first", late), elector(server, "second")
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(1)
        assert await first.attempt()
        assert first.renewed == loop.time() - 4.0
        await waiting
        assert not first.leads()

    virtually(scene)


def test_lease_that_somebody_took_is_lost_at_once() -> None:
    async def scene() -> None:
        server = FakeLeases()
        first = elector(server, "first")
        await first.acquire()
        assert server.lease is not None
        await FakeLeases(server).replace(server.lease | {"spec": THEIRS.spec()})
        with pytest.raises(LeaseLostError, match="other holds"):
            await first.keep()
        assert asyncio.get_running_loop().time() == TIMES.retry
        assert not first.leads()

    virtually(scene)


def test_lease_that_was_deleted_is_made_anew() -> None:
    async def scene() -> None:
        server = FakeLeases()
        first = elector(server, "first")
        await first.acquire()
        server.lease = None
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(10)
        assert first.leads()
        assert server.lease is not None
        keeping.cancel()

    virtually(scene)


def test_missing_right_ends_the_wait_and_an_absent_server_does_not() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        away = failing(lambda _: ClusterError("away") if loop.time() < 100 else None)
        await elector(FakeLeases(), "me", away).acquire()
        assert loop.time() >= 100
        forbidden = elector(FakeLeases(), "me", failing(lambda _: ForbiddenError("no", status=403)))
        with pytest.raises(ForbiddenError):
            await forbidden.acquire()

    virtually(scene)


class Crowd:
    """Processes that come and go; their requests are late, fail before they are carried out, or lose their answer."""

    def __init__(self, seed: int, pace: float, trouble: float) -> None:
        self.chance, self.pace, self.trouble = random.Random(seed), pace, trouble
        self.server = FakeLeases()
        self.people: list[Elector] = []
        self.led: set[str] = set()

    async def way(self, _what: str) -> None:
        troubled = self.chance.random() < self.trouble
        await asyncio.sleep(self.chance.expovariate(1 / self.pace) if troubled else 0.01)
        if self.chance.random() < self.trouble / 2:
            raise ClusterError("spoilt")

    async def life(self, name: str, offset: float) -> None:
        """Live again and again; each with a clock that began at another time."""
        loop = asyncio.get_running_loop()
        for boot in range(6):
            one = elector(self.server, f"{name}-{boot}", self.way, monotonic=lambda: loop.time() + offset)
            self.people.append(one)
            await one.acquire()
            self.led.add(one.identity)
            with contextlib.suppress(LeaseLostError, TimeoutError):
                await asyncio.wait_for(one.keep(), self.chance.uniform(5, 60))
            if self.chance.random() < 0.5:  # the others die as they are
                await one.release()

    async def watch(self) -> None:
        while True:
            leaders = [one.identity for one in self.people if one.leads()]
            assert len(leaders) <= 1, leaders
            await asyncio.sleep(0.2)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), pace=st.sampled_from([0.3, 1.0, 3.0]), trouble=st.sampled_from([0.0, 0.2, 0.6]))
def test_two_never_lead_at_once_whatever_the_way_is_like(seed: int, pace: float, trouble: float) -> None:
    async def scene() -> int:
        crowd = Crowd(seed, pace, trouble)
        tasks = [asyncio.create_task(crowd.life(*one)) for one in (("a", 0.0), ("b", 1e6), ("c", -50.0))]
        watching = asyncio.create_task(crowd.watch())
        await asyncio.sleep(200)
        assert not watching.done(), watching.exception()
        for task in (*tasks, watching):
            task.cancel()
        return len(crowd.led)

    assert virtually(scene) >= 2  # the lease went from one to another
