"""The watch after the gate: what a serving engine is asked, how often, and only while nobody waits for it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detinf.api.types import ProbeMode
from detinf.documents import Reference
from detinf.probe.asking import Asking
from detinf.probe.disturbances import Disturbance, in_turn
from detinf.probe.exported import BUSY
from detinf.probe.observation import Observation
from detinf.probe.readiness import read_pass
from detinf.probe.relations import PLUG_TOKENS

POLL_SECONDS = 1.0
"""How soon an engine that was busy is looked at again."""


@dataclass
class Watch:
    """Checks for as long as the gate's pass is enough: S01 and S02 on one reference, S03 and one other cell in turn."""

    asking: Asking
    items: Sequence[Reference]
    expected: Mapping[str, Observation]
    state: Path
    next_solo: float = field(init=False)
    next_width: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin at once, and with one reference alone."""
        self.next_solo = time.monotonic()
        self.next_width = self.next_solo + self.asking.read_settings().schedule.solo_interval_seconds

    async def run(self) -> None:
        """Check, users first, until the pass is gone or was only observed and is now to be enforced."""
        while True:
            await asyncio.sleep(max(0.0, min(self.next_solo, self.next_width) - time.monotonic()))
            if not self.passed():
                return
            now = time.monotonic()
            if await self.busy():
                self.next_solo = max(self.next_solo, now + POLL_SECONDS)
                self.next_width = max(self.next_width, now + POLL_SECONDS)
                continue
            if now >= self.next_solo:
                await self.ask_alone(now)
            if now >= self.next_width:
                await self.ask_together(now)

    def passed(self) -> bool:
        """Return whether the gate's pass is still enough."""
        kept = read_pass(self.state)
        return kept is not None and (kept.mode != ProbeMode.OBSERVE or self.asking.observing())

    async def busy(self) -> bool:
        """Return whether requests wait for the engine: freshness decays then, and a user never waits for us."""
        snapshot = await self.asking.client.metrics()
        if snapshot is None or not snapshot.waiting:
            return False
        self.asking.exported.skipped.labels(BUSY).inc()
        return True

    async def ask_alone(self, now: float) -> None:
        """Ask the next reference alone; before all others one that differed, as long as that is all that is known."""
        books = self.asking.books
        doubtful = books.in_doubt()
        reference = next((item for item in self.items if item.name == doubtful), None)
        if reference is None:
            reference = self.items[books.solo_turn % len(self.items)]
            books.solo_turn += 1
        books.keep(await self.asking.alone(reference, self.expected[reference.name]))
        self.next_solo = now + self.asking.read_settings().schedule.solo_interval_seconds

    async def ask_together(self, now: float) -> None:
        """Ask references together: at the next width, and in the next other way."""
        books, widths = self.asking.books, self.asking.widths(wide=False)

        def cells(turn: int, *, of_width: bool) -> list[Disturbance]:
            found = self.asking.cells(self.items, self.expected, widths, turn)
            return [cell for cell in found if (cell.relation == "S03") == of_width]

        for of_width in (True, False):
            cell = in_turn(functools.partial(cells, of_width=of_width), books.turn)
            if cell is not None:
                books.keep(await self.asking.timed(cell.run(self.asking.prober(), PLUG_TOKENS)))
        await self.asking.exclude()
        books.turn += 1
        if books.in_doubt():
            self.next_solo = now  # drift, or what ran beside it? A pod that diverged is there for seconds
        self.next_width = now + self.asking.read_settings().schedule.width_interval_seconds
