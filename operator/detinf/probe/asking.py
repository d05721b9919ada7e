"""How one boot's engine is asked: each round is counted, and what an engine that is alone answered is shown."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from detinf.api.types import ProbeMode
from detinf.documents import ProbeSettings, Reference
from detinf.probe.attested import Attested
from detinf.probe.books import Books
from detinf.probe.client import EngineClient
from detinf.probe.disturbances import Disturbance, disturbances
from detinf.probe.excluded import excluded
from detinf.probe.exported import Exported
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.relations import Prober
from detinf.probe.trace import Trace
from detinf.probe.verdict import Round

NARROW = 16
"""Widths up to which a cohort is also formed while users are served, and proven by metrics alone."""


@dataclass
class Asking:
    """The engine of one boot, its step trace, and the books that its answers go into."""

    attested: Attested
    client: EngineClient
    trace: Trace
    read_settings: Callable[[], ProbeSettings]
    exported: Exported
    books: Books

    def prober(self) -> Prober:
        """Return the engine with its present promise."""
        limit = self.attested.plan.model.max_model_len
        return Prober(self.client, self.read_settings().promise, limit, self.trace, self.books.prefills)

    def observing(self) -> bool:
        """Return whether what is found stands in nobody's way, as of now."""
        return self.read_settings().mode is ProbeMode.OBSERVE

    def traced(self) -> bool:
        """Return whether this boot writes a step trace."""
        return self.trace.position() is not None

    def widths(self, *, wide: bool) -> list[int]:
        """Return the widths that are wanted; wide ones at the gate alone, where the step trace can prove them."""
        return [width for width in self.read_settings().gate.widths if wide or width <= NARROW]

    def cells(
        self, items: Sequence[Reference], expected: Mapping[str, Observation], widths: Sequence[int], turn: int = 0
    ) -> list[Disturbance]:
        """Return the cells of references that run together; what a divergence was of is among them, where there is one.

        Only so it shows in which company it differs.
        """
        evidence = self.books.evidence
        about = next((item for item in items if evidence and item.name == evidence.reference), None)
        return disturbances(items, expected, widths, turn, traced=self.traced(), about=about)

    async def alone(self, reference: Reference, answer: Observation, *, twice: bool = True) -> list[Round]:
        """Ask one reference alone: S02, and S01 where it is asked twice."""
        prober = self.prober()
        rounds = await self.timed(prober.solo(reference, answer) if twice else prober.baseline(reference, answer))
        for outcome in rounds:
            if outcome.relation == "S02":
                self.books.show_answer(reference, answer, outcome)
        return rounds

    async def exclude(self) -> Round | None:
        """Book what the profile says cannot disturb this engine; return what was seen to take place all the same."""
        listed = self.read_settings().not_applicable
        if not listed:
            return None
        metrics = await self.client.metrics()
        rounds = [outcome for item in listed for outcome in excluded(item, self.books.prefills, metrics)]
        self.books.keep(rounds)
        return next((outcome for outcome in rounds if outcome.reason is Reason.APPLIES), None)

    async def timed(self, rounds: Awaitable[list[Round] | Round]) -> list[Round]:
        """Run rounds and count them."""
        start = time.monotonic()
        found = await rounds
        return self.counted([found] if isinstance(found, Round) else found, start)

    def counted(self, rounds: list[Round], start: float) -> list[Round]:
        """Count rounds that began at a monotonic time."""
        self.books.count(rounds, time.monotonic() - start)
        self.exported.count_tokens(self.client.take_tokens())
        return rounds
