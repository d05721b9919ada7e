"""What the relations need of an engine and of its step trace.

``EngineClient`` and ``Trace`` give it over HTTP and from a file; the tests also have an engine in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from detinf.documents import Reference
from detinf.probe.metrics import Snapshot
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError
from detinf.probe.trace import Window

Outcome = Observation | InconclusiveError
"""An answer, or why there is none."""


@dataclass(frozen=True)
class EngineIdentity:
    """Which process answers: its boot, and when it started; None where the engine does not say."""

    boot: str | None
    started: float | None


@dataclass(frozen=True)
class Look:
    """One look at an engine; each check takes two, before it sends and after its last answer."""

    identity: EngineIdentity | None
    """Who answers; None where nobody does."""
    metrics: Snapshot | None
    """What ``/metrics`` says, or None where it does not."""
    others: int | None = None
    """Requests that the engine has answered since it started, without ours; None where its counter is not there."""

    def changed(self, after: Look) -> str | None:
        """Return how the engine's identity is another in a later look, or None."""
        if self.identity is None or after.identity is None:
            return "the engine does not answer /health"
        if self.identity != after.identity:
            return f"the engine was {self.identity}, and is {after.identity}"
        return None


class Engine(Protocol):
    """One engine that can be asked; no call raises for what an engine can do."""

    async def look(self) -> Look:
        """Return who answers now, and what the metrics page says."""

    async def ask(self, reference: Reference, request_id: str | None = None) -> Outcome:
        """Return the answer to one reference."""

    async def cohort(self, references: Sequence[Reference], plug_length: int, cohort: bytes) -> list[Outcome]:
        """Ask references together, behind a plug; the step trace knows them by ``cohort``, 8 bytes."""

    async def join(
        self, first: Sequence[Reference], then: Sequence[Reference], cohort: bytes, may_join: Callable[[], bool]
    ) -> list[Outcome]:
        """Ask references, and others as soon as ``may_join``, which is asked again and again, says so."""


class StepTrace(Protocol):
    """The engine's step trace."""

    def position(self) -> int | None:
        """Return where the trace stands now; None where there is none."""

    def since(self, position: int) -> Window | None:
        """Return the steps since a position; None where there is no trace."""
