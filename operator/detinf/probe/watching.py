"""The watch after the gate: what a serving engine is asked, how often, and only while nobody waits for it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from detinf.api.types import ProbeMode
from detinf.documents import Again, Reference
from detinf.probe.again import Pending, question, read_asked, reply, unknown
from detinf.probe.asking import NARROW, Asking
from detinf.probe.disturbances import Disturbance, in_turn
from detinf.probe.exported import BUSY
from detinf.probe.observation import Observation
from detinf.probe.readiness import read_pass
from detinf.probe.relations import PLUG_TOKENS

POLL_SECONDS = 1.0
"""How often what the controller asks is looked at, and how soon an engine that was busy is."""

log = structlog.get_logger()


@dataclass
class Watch:
    """Checks for as long as the gate's pass is enough: S01 and S02 on one reference, S03 and one other cell in turn."""

    asking: Asking
    items: Sequence[Reference]
    expected: Mapping[str, Observation]
    state: Path
    podinfo: Path
    pending: Pending = field(default_factory=Pending)
    next_solo: float = field(init=False)
    next_width: float = field(init=False)
    _broken: str | None = None

    def __post_init__(self) -> None:
        """Begin at once, and with one reference alone."""
        self.next_solo = time.monotonic()
        self.next_width = self.next_solo + self.asking.read_settings().schedule.solo_interval_seconds

    async def run(self) -> None:
        """Check, users first, until the pass is gone or was only observed and is now to be enforced.

        What the controller asks again comes before our own schedule, and once more what was INCONCLUSIVE beside it.
        """
        while self.passed():
            now = time.monotonic()
            item = self.pending.next(self.asked(), self.asking.books.replies, now)
            due = now if item is not None else min(self.next_solo, self.next_width)
            if due > now:
                await asyncio.sleep(min(due - now, POLL_SECONDS))
            elif await self.busy():
                await asyncio.sleep(POLL_SECONDS)
            else:
                await self.ask(item)

    async def ask(self, item: Again | None) -> None:
        """Ask what is due, and before it what the controller asks."""
        now = time.monotonic()
        if item is not None and await self.ask_again(item, now):
            return  # others that were never asked come before our own schedule, too
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

    def asked(self) -> list[Again]:
        """Return what the controller asks again; what cannot be read is said once and asks nothing."""
        try:
            items, self._broken = read_asked(self.podinfo), None
        except ValueError as error:
            if self._broken != str(error):
                log.warning("asked again, and not understood", error=str(error))
            items, self._broken = [], str(error)
        return items

    async def ask_again(self, item: Again, now: float) -> bool:
        """Ask what a peer diverged on; return whether it was the first attempt at it."""
        books, first = self.asking.books, self.pending.is_new(item)
        self.pending.put_off(item, now)
        chosen = question(
            item,
            self.items,
            self.expected,
            widest=min(NARROW, self.asking.attested.plan.model.max_num_seqs),
            traced=self.asking.traced(),
            turn=books.turn + self.pending.attempts[item.evidence],
        )
        if chosen is None:
            books.reply(unknown(item))
            return first
        if chosen.cell is not None:
            rounds = await self.asking.timed(chosen.cell.run(self.asking.prober(), PLUG_TOKENS))
        else:
            answer = self.expected[chosen.reference.name]
            rounds = await self.asking.alone(chosen.reference, answer, twice=chosen.twice)
        books.keep(rounds)
        found = reply(item, chosen, rounds)
        log.info("asked again", evidence=item.evidence, verdict=str(found.verdict), reason=found.reason)
        books.reply(found)
        return first

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
