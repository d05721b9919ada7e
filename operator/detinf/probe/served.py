"""How many requests of users an engine has answered since a cell was right: they may be wrong.

By the engine's own counter at the looks that each round takes, without what the probe asked itself. A PASS counts from
the look before it, a divergence up to the look after it, so that nothing in between is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from detinf.documents import Verdict
from detinf.probe.verdict import Round

Cell = tuple[str, str]
"""Relation and condition."""


@dataclass
class Served:
    """What was counted at the cells' last PASS."""

    origin: int | None = None
    """The count when the engine was healthy; None where a probe came later and does not know what was ours."""
    at_pass: dict[Cell, int | None] = field(default_factory=dict)

    def begin(self, others: int | None) -> None:
        """Take note of an engine that is healthy, and of what it has answered to others, where it says so.

        More than nothing may be ours, of a probe before this one that left no books.
        """
        if others == 0:
            self.origin = 0

    def note(self, outcome: Round) -> None:
        """Take note of a round."""
        if outcome.verdict is Verdict.PASS:
            self.at_pass[outcome.relation, outcome.condition] = outcome.served[0]

    def since_clean(self, outcome: Round) -> int | None:
        """Return how many requests were answered since a failed round's cell passed last, else since the beginning.

        None where that cannot be known: the engine does not count, or its counters began anew.
        """
        start, end = self.at_pass.get((outcome.relation, outcome.condition), self.origin), outcome.served[1]
        return end - start if start is not None and end is not None and end >= start else None
