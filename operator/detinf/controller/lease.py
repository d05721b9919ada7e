"""Which controller works: the one that holds the Lease, as client-go's components decide it.

The decisions are functions of the record that was seen and of this machine's monotonic clock. The times in the record
are for people: another machine's clock is never compared with ours. A record has expired when it was seen unchanged for
as long as it says, by our own clock.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import structlog

from detinf.cluster.lease_api import Leases
from detinf.cluster.port import ClusterError, Manifest

JITTER = 1.2
"""Those who wait do not ask together: up to this many times the period, as in client-go."""
STATUS_OF_RIGHTS = frozenset({401, 403})

log = structlog.get_logger()


@dataclass(frozen=True)
class Timings:
    """How a lease is held; the defaults are client-go's."""

    duration: int = 15
    """Seconds after which others may take a lease that is not renewed."""
    renew_deadline: float = 10.0
    """Seconds after its last renewal at which the holder gives it up."""
    retry: float = 2.0
    """Seconds between two tries."""

    def __post_init__(self) -> None:
        """Hold them against each other.

        Raises:
            ValueError: where a holder would not have given up when others begin, or would not have tried twice.
        """
        if not self.duration > self.renew_deadline > JITTER * self.retry > 0:
            raise ValueError(
                f"a lease of {self.duration} s with a deadline of {self.renew_deadline} s and a try each "
                f"{self.retry} s: the duration must be longer than the deadline, and that than {JITTER} tries"
            )


@dataclass(frozen=True)
class Record:
    """What a Lease says."""

    holder: str
    """Empty: nobody."""
    duration: int | None
    acquired: str | None = None
    renewed: str | None = None
    transitions: int = 0

    @classmethod
    def of(cls, lease: Manifest) -> Record:
        """Return the record of a Lease; each field of its spec may be absent."""
        spec: dict[str, Any] = lease.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration=spec.get("leaseDurationSeconds"),
            acquired=spec.get("acquireTime"),
            renewed=spec.get("renewTime"),
            transitions=spec.get("leaseTransitions") or 0,
        )

    def spec(self) -> Manifest:
        """Return the spec of a Lease that says so; nobody is no holder, since an empty one is invalid."""
        fields = {
            "holderIdentity": self.holder or None,
            "leaseDurationSeconds": self.duration,
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        }
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True)
class Seen:
    """A record, and the monotonic time at which it was first seen as it is."""

    record: Record
    since: float


class Step(StrEnum):
    """What to do about a record."""

    TAKE = "Take"
    RENEW = "Renew"
    WAIT = "Wait"


def saw(before: Seen | None, record: Record, now: float) -> Seen:
    """Return what is seen now; its time begins anew only with another record."""
    return before if before is not None and before.record == record else Seen(record, now)


def step(seen: Seen, me: str, now: float, timings: Timings) -> Step:
    """Return what to do."""
    if seen.record.holder == me:
        return Step.RENEW
    if not seen.record.holder:
        return Step.TAKE
    expires = seen.since + (seen.record.duration or timings.duration)
    return Step.TAKE if now >= expires else Step.WAIT


def claim(record: Record | None, me: str, timings: Timings, clock: str) -> Record:
    """Return the record that makes the lease ours for its duration, from now on.

    Args:
        record: what the Lease says now; None where there is no Lease.
        me: our identity.
        timings: for how long.
        clock: our wall clock's time, for people.
    """
    mine = record is not None and record.holder == me
    return Record(
        holder=me,
        duration=timings.duration,
        acquired=record.acquired if record is not None and mine else clock,
        renewed=clock,
        transitions=0 if record is None else record.transitions + (not mine),
    )


def released(record: Record, clock: str) -> Record:
    """Return the record of a lease that nobody holds any more."""
    return replace(record, holder="", duration=1, renewed=clock)


def must_stop(renewed: float, now: float, timings: Timings) -> bool:
    """Return whether the holder gives up: its last renewal, begun at ``renewed``, is too long ago."""
    return now >= renewed + timings.renew_deadline


def may_write(renewed: float | None, now: float, timings: Timings) -> bool:
    """Return whether nobody else can hold the lease: they count from when they saw the renewal, which is later."""
    return renewed is not None and now < renewed + timings.duration


def wall_clock() -> str:
    """Return the time as a Lease has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LeaseLostError(Exception):
    """Somebody else may lead from now on."""


class Elector:
    """Takes the lease, renews it, releases it."""

    def __init__(
        self,
        leases: Leases,
        identity: str,
        timings: Timings = Timings(),
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], str] = wall_clock,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Keep the Lease; nothing is asked yet.

        Args:
            leases: the Lease.
            identity: who we are; no two processes that run at once have the same.
            timings: how it is held.
            monotonic: seconds that only grow.
            clock: the time of day, as a Lease has it.
            jitter: a number in [0, 1).
        """
        self.leases = leases
        self.identity = identity
        self.timings = timings
        self.monotonic = monotonic
        self.clock = clock
        self.jitter = jitter
        self.seen: Seen | None = None
        self.lease: Manifest | None = None
        """The Lease as the API server last gave it to us, with its resourceVersion."""
        self.renewed: float | None = None
        """When our last renewal was begun; None while we do not lead."""

    def leads(self) -> bool:
        """Return whether nobody else can lead."""
        return may_write(self.renewed, self.monotonic(), self.timings)

    async def look(self) -> Seen | None:
        """Read the Lease; None where there is none.

        Raises:
            ClusterError: where the API server did not answer, or not as it should.
        """
        self.lease = await self.leases.read()
        # After the answer: what is seen later expires later.
        self.seen = None if self.lease is None else saw(self.seen, Record.of(self.lease), self.monotonic())
        return self.seen

    async def attempt(self) -> bool:
        """Take the lease or renew it, once; return whether it is ours now.

        Raises:
            ClusterError: where the API server did not answer, or not as it should.
            LeaseLostError: where it was ours, and somebody else has it.
        """
        if self.renewed is not None and self.lease is not None and await self._write(Record.of(self.lease)):
            return True  # as it was left; nobody has to be asked first
        seen = await self.look()
        if seen is None:
            return await self._make()
        if self.renewed is not None and seen.record.holder not in {"", self.identity}:
            self.renewed = None
            raise LeaseLostError(f"{seen.record.holder} holds the lease")
        if step(seen, self.identity, self.monotonic(), self.timings) is Step.WAIT:
            return False
        return await self._write(seen.record)

    async def _write(self, record: Record) -> bool:
        began = self.monotonic()
        assert self.lease is not None  # noqa: S101 - both callers have one
        spec = claim(record, self.identity, self.timings, self.clock()).spec()
        return self._took(await self.leases.replace(self.lease | {"spec": spec}), began)

    async def _make(self) -> bool:
        began = self.monotonic()
        spec = claim(None, self.identity, self.timings, self.clock()).spec()
        return self._took(await self.leases.make(spec), began)

    def _took(self, lease: Manifest | None, began: float) -> bool:
        if lease is None:
            return False
        self.lease, self.renewed = lease, began
        self.seen = Seen(Record.of(lease), began)
        return True

    async def acquire(self) -> None:
        """Wait until the lease is ours.

        Raises:
            ClusterError: where we have no right to it: waiting does not help.
        """
        told = ""
        while True:
            try:
                async with asyncio.timeout(self.timings.renew_deadline / 2):
                    if await self.attempt():
                        log.info("leading", identity=self.identity)
                        return
            except ClusterError as error:
                if error.status in STATUS_OF_RIGHTS:
                    raise
                log.warning("the lease cannot be asked for", error=str(error))
            except TimeoutError:
                log.warning("the lease cannot be asked for", error="no answer in time")
            holder = self.seen.record.holder if self.seen else ""
            if holder != told:
                told = holder
                log.info("standing by", leader=holder or None)
            await asyncio.sleep(self.timings.retry * (1 + (JITTER - 1) * self.jitter()))

    async def keep(self) -> None:
        """Renew the lease until it is lost.

        Raises:
            LeaseLostError: where it could not be renewed in time, or somebody else has it.
        """
        while self.renewed is not None:
            await asyncio.sleep(self.timings.retry)
            try:
                async with asyncio.timeout(self._patience()):
                    if await self.attempt():
                        continue
                error = "somebody else wrote it meanwhile"
            except ClusterError as failed:
                error = str(failed)
            except TimeoutError:
                error = "no answer in time"
            log.warning("the lease was not renewed", error=error)
            if must_stop(self.renewed, self.monotonic(), self.timings):
                self.renewed = None  # from here on nothing is written, however long the end takes
        raise LeaseLostError(f"it was not renewed for {self.timings.renew_deadline} s")

    def _patience(self) -> float:
        """Return how long one renewal may take: half of the time, and no longer than there is left."""
        left = (self.renewed or 0.0) + self.timings.renew_deadline - self.monotonic()
        return max(0.0, min(self.timings.renew_deadline / 2, left))

    async def release(self) -> None:
        """Give the lease back, so that a standby need not wait; where that fails, it waits.

        It is asked for first: of a request that we did not wait for, nobody knows whether it was carried out.
        """
        self.renewed = None
        try:
            async with asyncio.timeout(self.timings.renew_deadline / 2):
                while (seen := await self.look()) is not None and seen.record.holder == self.identity:
                    assert self.lease is not None  # noqa: S101 - it was seen
                    given = self.lease | {"spec": released(seen.record, self.clock()).spec()}
                    if await self.leases.replace(given) is not None:
                        log.info("the lease was released")
                        return
        except (ClusterError, TimeoutError) as error:
            log.warning("the lease was not released", error=str(error) or "no answer in time")
