"""The ledger: which relation held under which condition, how often, and when last."""

from __future__ import annotations

from dataclasses import dataclass, field

from detinf.documents import Cell, Verdict
from detinf.probe.reasons import Reason
from detinf.probe.verdict import Round


@dataclass
class Ledger:
    """The cells of one boot."""

    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def book(self, outcome: Round, now: int) -> None:
        """Book a round; ``now`` is in Unix seconds."""
        key = (outcome.relation, outcome.condition)
        old = self.cells.get(key)
        count = max(outcome.comparisons, 1)
        verdict = outcome.verdict
        conclusive = verdict is not Verdict.INCONCLUSIVE
        self.cells[key] = Cell(
            relation=outcome.relation,
            condition=outcome.condition,
            verdict=verdict,
            reason=f"{outcome.reason}: {outcome.detail}" if outcome.detail else str(outcome.reason),
            passes=(old.passes if old else 0) + count * (verdict is Verdict.PASS),
            fails=(old.fails if old else 0) + (verdict is Verdict.FAIL),
            inconclusive=(old.inconclusive if old else 0) + (not conclusive),
            last_pass_unix=now if verdict is Verdict.PASS else (old.last_pass_unix if old else None),
            last_conclusive_unix=now if conclusive else (old.last_conclusive_unix if old else None),
        )

    def listed(self) -> list[Cell]:
        """Return the cells in a stable order."""
        return [self.cells[key] for key in sorted(self.cells)]

    def states(self, now: int, stale_after: int) -> dict[str, int]:
        """Return how many cells are fresh, stale, failed, never concluded, or not applicable."""
        counts = {"fresh": 0, "stale": 0, "failed": 0, "never": 0, "notApplicable": 0}
        for cell in self.cells.values():
            if cell.verdict is Verdict.FAIL:
                counts["failed"] += 1
            elif cell.reason.startswith(Reason.NOT_APPLICABLE):
                counts["notApplicable"] += 1
            elif cell.last_conclusive_unix is None:
                counts["never"] += 1
            else:
                counts["fresh" if now - cell.last_conclusive_unix <= stale_after else "stale"] += 1
        return counts
