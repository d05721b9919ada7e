"""How many answers may be wrong: counted from the last look before a PASS, and unknown where it cannot be known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detinf.api.types import Promise
from detinf.documents import Reference
from detinf.probe.observation import Observation
from detinf.probe.served import Served
from detinf.probe.verdict import Asked, Round, judge

GOOD = Observation((1,), (0xBF000000,), "length")
BAD = Observation((2,), (0xBF000000,), "length")
REFERENCE = Reference(name="r", prompt_ids=[1], max_tokens=1, temperature_milli=0, seed=0)


def round_of(observed: Observation, before: int | None, after: int | None, condition: str = "width=8") -> Round:
    outcome = judge("S03", condition, [Asked(REFERENCE, GOOD, observed)], promise=Promise.TOKENS)
    return replace(outcome, served=(before, after))


def test_answers_count_from_before_the_last_pass_of_the_cell_until_after_the_divergence() -> None:
    served = Served()
    served.begin(0)
    served.note(round_of(GOOD, 3, 4))
    served.note(round_of(GOOD, 10, 12))
    served.note(round_of(GOOD, 50, 50, "width=2"))  # another cell
    served.note(round_of(BAD, 60, 70))
    assert served.since_clean(round_of(BAD, 60, 70)) == 60


def test_cell_that_never_passed_counts_from_the_beginning() -> None:
    served = Served()
    served.begin(0)
    assert served.since_clean(round_of(BAD, 5, 6)) == 6


@pytest.mark.parametrize(
    ("others", "passes", "end"),
    [
        (None, [], 7),  # it does not say what it has answered
        (5, [], 7),  # it had answered before this probe looked: nobody knows whether that was a probe
        (0, [round_of(GOOD, None, None)], 7),  # it did not say so at the last PASS
        (0, [round_of(GOOD, 6, 7)], None),
        (0, [round_of(GOOD, 9, 9)], 7),  # its counters began anew
    ],
)
def test_what_cannot_be_known_is_absent(others: int | None, passes: list[Round], end: int | None) -> None:
    served = Served()
    served.begin(others)
    for outcome in passes:
        served.note(outcome)
    assert served.since_clean(round_of(BAD, end, end)) is None
