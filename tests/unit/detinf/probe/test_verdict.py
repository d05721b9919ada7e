"""The tri-state table, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detinf.api.types import Promise
from detinf.documents import Reference, Verdict, Witness
from detinf.probe.coverage import Ledger
from detinf.probe.observation import FLOOR_BITS, Observation
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.verdict import Asked, Round, judge

GOOD = Observation((1, 2), (0xBF000000, 0xBF000000), "length")
BAD = replace(GOOD, logprob_bits=(0xBF000000, 0xBF000001))
PROVEN = Witness(kind="W2", width=8, detail="8 together")
FLOORED = replace(GOOD, logprob_bits=(0xBF000000, FLOOR_BITS))
LISTED = replace(GOOD, floored=(1,))
BROKEN = InconclusiveError(Reason.TRUNCATED, "it ended early")


def reference(index: int) -> Reference:
    return Reference(name=f"r{index}", prompt_ids=[1], max_tokens=2, temperature_milli=0, seed=0)


def judged(
    *observed: Observation | InconclusiveError,
    proven: bool = True,
    changed: str | None = None,
    expected: Observation = GOOD,
) -> Round:
    asked = [Asked(reference(index), expected, item) for index, item in enumerate(observed)]
    return judge(
        "S03",
        "width=8",
        asked,
        promise=Promise.TOKENS_AND_LOGPROBS,
        witness=PROVEN,
        proven=proven,
        engine_changed=changed,
    )


@pytest.mark.parametrize(
    ("outcome", "verdict", "reason"),
    [
        (judged(GOOD, GOOD), Verdict.PASS, Reason.EQUAL),
        (judged(GOOD, GOOD, proven=False), Verdict.INCONCLUSIVE, Reason.NOT_BATCHED),
        (judged(GOOD, BAD), Verdict.FAIL, Reason.DIFFERENT),
        # Inequality needs no witness.
        (judged(GOOD, BAD, proven=False), Verdict.FAIL, Reason.DIFFERENT),
        # A difference that was seen is not unseen because another answer broke.
        (judged(BROKEN, BAD), Verdict.FAIL, Reason.DIFFERENT),
        (judged(GOOD, BROKEN), Verdict.INCONCLUSIVE, Reason.TRUNCATED),
        (judged(BROKEN, proven=False), Verdict.INCONCLUSIVE, Reason.TRUNCATED),
        # A floor is a difference where the other has a number, and no evidence where it has one, too.
        (judged(GOOD, FLOORED), Verdict.FAIL, Reason.DIFFERENT),
        (judged(GOOD, LISTED, proven=False), Verdict.FAIL, Reason.DIFFERENT),
        (judged(FLOORED, expected=FLOORED), Verdict.INCONCLUSIVE, Reason.FLOOR_VALUE),
        (judged(LISTED, expected=LISTED), Verdict.INCONCLUSIVE, Reason.FLOOR_VALUE),
        (judged(GOOD, expected=FLOORED), Verdict.FAIL, Reason.DIFFERENT),
        # Another engine's answer is no divergence of this one.
        (judged(GOOD, BAD, changed="another boot"), Verdict.INCONCLUSIVE, Reason.ENGINE_CHANGED),
        (judged(GOOD, GOOD, changed="another boot"), Verdict.INCONCLUSIVE, Reason.ENGINE_CHANGED),
    ],
)
def test_row_of_the_table(outcome: Round, verdict: Verdict, reason: Reason) -> None:
    assert (outcome.verdict, outcome.reason) == (verdict, reason)


def test_finding_names_the_reference_and_both_answers() -> None:
    finding = judged(GOOD, BAD).finding
    assert finding is not None
    assert (finding.asked.reference.name, finding.observed, finding.asked.expected) == ("r1", BAD, GOOD)


def test_round_names_those_whose_answers_were_compared() -> None:
    assert judged(GOOD, BROKEN, BAD).references == ("r0", "r2")


def test_ledger_counts_and_keeps_the_last_pass() -> None:
    ledger = Ledger()
    ledger.book(judged(GOOD, GOOD), 100)
    ledger.book(judged(GOOD, proven=False), 200)
    cell = ledger.listed()[0]
    assert (cell.passes, cell.fails, cell.inconclusive) == (2, 0, 1)
    assert (cell.last_pass_unix, cell.last_conclusive_unix) == (100, 100)
    assert ledger.states(150, 60) == {"fresh": 1, "stale": 0, "failed": 0, "never": 0, "notApplicable": 0}
    assert ledger.states(161, 60)["stale"] == 1
    ledger.book(judged(BAD), 300)
    assert ledger.listed()[0].last_pass_unix == 100
    assert ledger.states(300, 60)["failed"] == 1


def test_inconclusive_cell_was_never_fresh() -> None:
    ledger = Ledger()
    ledger.book(judged(GOOD, proven=False), 100)
    assert ledger.states(100, 60) == {"fresh": 0, "stale": 0, "failed": 0, "never": 1, "notApplicable": 0}
