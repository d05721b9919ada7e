"""A queue of keys, as in client-go: de-duplicated, never handed out twice at once, with back-off for each key."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0
"""Whatever fails: a divergence must be seen, and acted on, soon after it stops failing."""


class KeyQueue(Generic[Key]):
    """Keys that wait to be reconciled; time is a parameter, so that tests have their own."""

    def __init__(self, clock: Callable[[], float], jitter: Callable[[], float] = random.random) -> None:
        """Start empty.

        Args:
            clock: monotonic seconds.
            jitter: a number in [0, 1), so that keys that failed together do not come back together.
        """
        self.clock = clock
        self.jitter = jitter
        self.adds = 0
        self.retries = 0
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()
        self._processing: set[Key] = set()
        self._again: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._waits_until: dict[Key, float] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Return how many keys wait, the delayed ones included."""
        return len(self._due)

    def add(self, key: Key, after: float = 0.0) -> None:
        """Queue a key; the earliest of several times counts. A key in work is queued again when it is done."""
        self.adds += 1
        when = self.clock() + after
        if key in self._processing:
            self._again[key] = min(when, self._again.get(key, when))
            return
        if when < self._due.get(key, float("inf")):
            self._due[key] = when
            heapq.heappush(self._heap, (when, next(self._order), key))
            self._changed.set()

    def take(self) -> Key | None:
        """Return a key that is due, now in work; None where there is none."""
        while self._heap:
            when, _, key = self._heap[0]
            if self._due.get(key) != when:
                heapq.heappop(self._heap)  # an earlier time replaced it
                continue
            if when > self.clock():
                return None
            heapq.heappop(self._heap)
            del self._due[key]
            self._processing.add(key)
            return key
        return None

    def done(self, key: Key, *, again_after: float | None = None) -> None:
        """Say that a key was reconciled; it forgets its failures."""
        self._failures.pop(key, None)
        self._waits_until.pop(key, None)
        self._finish(key, again_after)

    def failed(self, key: Key, *, at_least: float = 0.0) -> float:
        """Say that a key was not reconciled; return the seconds until it comes again.

        A failure before the last one's wait was over is the same failure, met by an event: it doubles nothing.
        """
        self.retries += 1
        count = self._failures.get(key, 0)
        if self.clock() >= self._waits_until.get(key, 0.0):
            self._failures[key] = count + 1
        else:
            count -= 1
        delay = min(FIRST_SECONDS * 2.0 ** min(count, 20), LONGEST_SECONDS) * (1 + 0.1 * self.jitter())
        delay = max(delay, at_least)
        self._waits_until[key] = self.clock() + delay
        self._finish(key, delay)
        return delay

    def _finish(self, key: Key, again_after: float | None) -> None:
        self._processing.discard(key)
        if (wanted := self._again.pop(key, None)) is not None:
            self.add(key, max(0.0, wanted - self.clock()))
        if again_after is not None:
            self.add(key, again_after)

    async def get(self) -> Key:
        """Wait for a key that is due."""
        while True:
            if (key := self.take()) is not None:
                return key
            self._changed.clear()
            wait = max(0.0, self._heap[0][0] - self.clock()) if self._heap else None
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue
