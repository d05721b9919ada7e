"""Where to look first: by the divergence itself, and by what was looked at with it and since (probing.md section 10).

What passed before a divergence says nothing about the engine that diverged, so nothing here knows of it. A PASS counts
only where it was given on the reference that had differed: another one may be right alone for ever. A failure counts
on any reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from detinf.documents import Verdict
from detinf.probe.verdict import Round

Cell = tuple[str, str]
"""Relation and condition."""
ALONE = ("S01", "S02")
NOBODY_ELSE = "W6"
"""The witness that the engine answered nobody else while it was asked."""

CERTAIN = {
    "S01": "run to run{}: the same request alone gave two answers (atomics, races, HCCL not strict)",
    "S02": "drift{}: this engine differs from the baseline when it is alone (device, driver, weights, image)",
}
IN_COMPANY = {
    "S01": "run to run, or what else was served: the same request gave two answers (atomics, races, HCCL not strict; "
    "or the batch, since it may have had company)",
    "S02": "drift, or what else was served: this engine differs from the baseline (device, driver, weights, image; "
    "or the batch, since it may have had company)",
}
TOGETHER = {
    "S03": "batch width: a kernel or graph bucket chosen by the number of requests",
    "S04": "tokens in one launch: a kernel chosen by how many tokens a step holds",
    "S05": "prefill among decodes: attention of a mixed step is another than of decodes alone",
}


@dataclass(frozen=True)
class Looked:
    """What was looked at with a divergence and since."""

    failing: frozenset[Cell] = frozenset()
    """Failed since."""
    passed: frozenset[Cell] = frozenset()
    """Passed since, on the reference that had differed."""
    alone: frozenset[str] = frozenset()
    """Relations that failed, the divergence's own or since, while the engine answered nobody else."""

    @property
    def clean(self) -> frozenset[Cell]:
        """Passed since and did not fail since."""
        return self.passed - self.failing

    def knows(self, cell: Cell) -> bool:
        """Return whether a cell was looked at since."""
        return cell in self.failing | self.passed

    def with_witness(self, outcome: Round) -> Looked:
        """Return this with what a failed round says of who else was served."""
        if outcome.relation in ALONE and outcome.witness.kind == NOBODY_ELSE:
            return replace(self, alone=self.alone | {outcome.relation})
        return self

    def after(self, outcome: Round, reference: str) -> Looked:
        """Return this with one more round, that was given with the divergence of a reference, or later."""
        cell = {(outcome.relation, outcome.condition)}
        if outcome.verdict is Verdict.FAIL:
            return replace(self.with_witness(outcome), failing=self.failing | cell)
        if outcome.verdict is Verdict.PASS and reference in outcome.references:
            return replace(self, passed=self.passed | cell)
        return self


def hint(own: Cell, looked: Looked) -> str:
    """Return where to look first.

    Args:
        own: relation and condition of the divergence.
        looked: at what else, with it and since.
    """
    failed = looked.failing | {own}
    if own[0] in ALONE and own in looked.clean and looked.failing:
        # It has passed since, and something else has not: that is what lasts.
        failed = looked.failing
    relations = {relation for relation, _ in failed}
    again = ""
    if own in looked.clean and own in failed:
        again = "; not seen again" if own[0] in ALONE else f"; not seen again at {own[1]}"
    # What failed while nobody else was served says more than what may have had company.
    alone = min(relations & set(ALONE), key=lambda name: (name not in looked.alone, name), default=None)
    if alone is None:
        return _together(failed, looked) + again
    if alone not in looked.alone:
        return IN_COMPANY[alone] + again
    ruled_out = TOGETHER[own[0]].partition(":")[0] if own[0] in TOGETHER else None
    return CERTAIN[alone].format(f", not {ruled_out}" if ruled_out else "") + again


def _together(failed: Iterable[Cell], looked: Looked) -> str:
    relations = sorted({relation for relation, _ in failed})
    if len(relations) == 1:
        text = f"{TOGETHER[relations[0]]}, at {_listed(failed)}"
    else:
        text = f"company: an answer depends on what else a step holds, at {_listed(failed)}"
    if ("S02", "solo") in looked.clean:
        text += "; alone it is right"
    elif not looked.knows(("S02", "solo")):
        text += "; it may differ alone, too: that was not looked at since"
    clean = [cell for cell in looked.clean if cell[0] in TOGETHER and cell not in failed]
    return f"{text}; clean since at {_listed(clean)}" if clean else text


def _listed(cells: Iterable[Cell]) -> str:
    def order(cell: Cell) -> tuple[str, int, str]:
        number = re.search(r"[0-9]+", cell[1])
        return cell[0], int(number[0]) if number else 0, cell[1]

    return ", ".join(condition for _, condition in sorted(cells, key=order))
