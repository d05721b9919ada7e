"""Hints: what is said by what was looked at, row by row, and what is never said whatever was."""

from __future__ import annotations

import itertools

import pytest

from detinf.api.types import Promise
from detinf.documents import Reference, Verdict, Witness
from detinf.probe.hints import ALONE, TOGETHER, Cell, Looked, hint
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.verdict import Asked, Round, judge

S01, S02 = ("S01", "solo"), ("S02", "solo")
W2, W8, W16 = ("S03", "width=2"), ("S03", "width=8"), ("S03", "width=16")
LAUNCH, OTHER_LAUNCH, PREFILL = ("S04", "tokens=257"), ("S04", "tokens=255"), ("S05", "prefill=9")

WIDTH = "batch width: a kernel or graph bucket chosen by the number of requests, at width=16"
TOKENS = "tokens in one launch: a kernel chosen by how many tokens a step holds, at tokens=257"
DRIFT_PERHAPS = (
    "drift, or what else was served: this engine differs from the baseline (device, driver, weights, image; or the "
    "batch, since it may have had company)"
)
RUNS_PERHAPS = (
    "run to run, or what else was served: the same request gave two answers (atomics, races, HCCL not strict; or the "
    "batch, since it may have had company)"
)
NOT_WIDTH = "drift, not batch width:"
WIDTHS = "batch width: a kernel or graph bucket chosen by the number of requests, at width=8, width=16"
COMPANY = "company: an answer depends on what else a step holds, at width=16, prefill=9; alone it is right"
MIXED = "prefill among decodes: attention of a mixed step is another than of decodes alone, at prefill=9"
NOT_ALONE = "; it may differ alone, too: that was not looked at since"
DRIFT = "drift: this engine differs from the baseline when it is alone (device, driver, weights, image)"
RUNS = "run to run: the same request alone gave two answers (atomics, races, HCCL not strict)"


def looked(*, failing: tuple[Cell, ...] = (), passed: tuple[Cell, ...] = (), alone: tuple[str, ...] = ()) -> Looked:
    return Looked(frozenset(failing), frozenset(passed), frozenset(alone))


# (own cell, failing since, passed since, failed while nobody else was served, the hint)
ROWS: tuple[tuple[Cell, tuple[Cell, ...], tuple[Cell, ...], tuple[str, ...], str], ...] = (
    # At the moment of a divergence nothing was looked at since, and nothing is said about it.
    (W16, (), (), (), WIDTH + NOT_ALONE),
    (LAUNCH, (), (), (), TOKENS + NOT_ALONE),
    (PREFILL, (), (), (), MIXED + NOT_ALONE),
    (S02, (), (), ("S02",), DRIFT),
    (S02, (), (S01,), ("S02",), DRIFT),
    (S01, (), (), ("S01",), RUNS),
    (S01, (S02,), (), ("S01", "S02"), RUNS),
    (S02, (), (), (), DRIFT_PERHAPS),
    (S01, (), (), (), RUNS_PERHAPS),
    # It passed alone since: it is the company, with the widths that passed since.
    (W16, (), (S02,), (), WIDTH + "; alone it is right"),
    (W16, (), (S01, S02, W2, W8), (), WIDTH + "; alone it is right; clean since at width=2, width=8"),
    (W16, (), (W2,), (), WIDTH + NOT_ALONE + "; clean since at width=2"),
    (W16, (W8,), (S02, W2), (), WIDTHS + "; alone it is right; clean since at width=2"),
    (W16, (), (S02, OTHER_LAUNCH, PREFILL), (), WIDTH + "; alone it is right; clean since at tokens=255, prefill=9"),
    (W16, (PREFILL,), (S02,), (), COMPANY),
    (LAUNCH, (), (S02, OTHER_LAUNCH), (), TOKENS + "; alone it is right; clean since at tokens=255"),
    # A width that failed since is clean no more, though it has passed since as well.
    (W16, (W8,), (S02, W8), (), WIDTHS + "; alone it is right"),
    # It differs alone, too: drift, whatever ran together.
    (W16, (S02,), (W2,), ("S02",), DRIFT.replace("drift:", NOT_WIDTH)),
    (W16, (S02, W2, PREFILL), (), ("S02",), DRIFT.replace("drift:", NOT_WIDTH)),
    (W16, (S02,), (S02,), ("S02",), DRIFT.replace("drift:", NOT_WIDTH)),
    (LAUNCH, (S02,), (), ("S02",), DRIFT.replace("drift:", "drift, not tokens in one launch:")),
    (S02, (W16,), (), ("S02",), DRIFT),
    (S02, (S02, W16), (), ("S02",), DRIFT),
    (W16, (S01, S02), (), ("S01", "S02"), RUNS.replace("run to run:", "run to run, not batch width:")),
    # What may have had company says less than what surely had none.
    (S01, (S02,), (), ("S02",), DRIFT),
    (W16, (S02,), (), (), DRIFT_PERHAPS),
    # It was not seen again.
    (S02, (), (S02,), ("S02",), DRIFT + "; not seen again"),
    (S01, (), (S01, S02), ("S01",), RUNS + "; not seen again"),
    (W16, (), (S02, W16), (), WIDTH + "; alone it is right; not seen again at width=16"),
    (W16, (S02,), (W16,), ("S02",), DRIFT.replace("drift:", NOT_WIDTH) + "; not seen again at width=16"),
    # Alone it passes since, and something else does not: that is what lasts.
    (S02, (W16,), (S02, W2), ("S02",), WIDTH + "; alone it is right; clean since at width=2"),
    (S01, (S02,), (S01,), ("S01", "S02"), DRIFT),
)  # fmt: skip


@pytest.mark.parametrize(("own", "failing", "passed", "alone", "text"), ROWS)
def test_row_of_the_table(
    own: Cell, failing: tuple[Cell, ...], passed: tuple[Cell, ...], alone: tuple[str, ...], text: str
) -> None:
    assert hint(own, looked(failing=failing, passed=passed, alone=alone)) == text


def states(cells: tuple[Cell, ...]) -> list[Looked]:
    """Return every combination: each cell not looked at, passed, failed, or both; S01 and S02 also while alone."""
    found = []
    for chosen in itertools.product(range(4), repeat=len(cells)):
        failing = tuple(cell for cell, state in zip(cells, chosen, strict=True) if state in {2, 3})
        passed = tuple(cell for cell, state in zip(cells, chosen, strict=True) if state in {1, 3})
        found += [looked(failing=failing, passed=passed, alone=alone) for alone in ((), ("S01",), ("S02",), ALONE)]
    return found


def test_no_combination_claims_what_was_not_looked_at() -> None:
    for own, seen in itertools.product((S01, S02, W16, LAUNCH, PREFILL), states((S01, S02, W2, W16, PREFILL))):
        text = hint(own, seen)
        clean = text.partition("clean since at ")[2].partition(";")[0]
        named = set(filter(None, clean.split(", ")))
        assert named <= {condition for _, condition in seen.clean}, (own, seen, text)
        failed = seen.failing | {own}
        assert not named & {condition for _, condition in failed}, (own, seen, text)
        if "alone it is right" in text:
            assert S02 in seen.clean, (own, seen, text)
        if "not seen again" in text:
            assert own in seen.clean, (own, seen, text)
        if S02 in seen.failing or S01 in seen.failing:
            assert text.startswith(("run to run", "drift")), (own, seen, text)
        elif own[0] in TOGETHER:
            assert not text.startswith(("run to run", "drift")), (own, seen, text)
        if "when it is alone" in text or "alone gave" in text:
            assert {"S01", "S02"} & seen.alone, (own, seen, text)


# What is taken note of ------------------------------------------------------------------------------------------------

GOOD = Observation((1, 2), (0xBF000000, 0xBF000000), "length")
BAD = Observation((1, 9), (0xBF000000, 0xBF000000), "length")
BROKEN = InconclusiveError(Reason.TIMEOUT, "late")


def round_of(cell: Cell, *, kind: str = "None", **observed: Observation | InconclusiveError) -> Round:
    asked = [
        Asked(Reference(name=name, prompt_ids=[1], max_tokens=2, temperature_milli=0, seed=0), GOOD, answer)
        for name, answer in observed.items()
    ]
    return judge(*cell, asked, promise=Promise.TOKENS, witness=Witness(kind=kind, width=1, detail=""))


def test_pass_counts_on_the_reference_that_differed_and_a_failure_on_any() -> None:
    start = Looked()
    assert start.after(round_of(S02, mine=GOOD), "mine") == looked(passed=(S02,))
    assert start.after(round_of(S02, other=GOOD), "mine") == start
    assert start.after(round_of(W8, other=GOOD, mine=GOOD), "mine") == looked(passed=(W8,))
    assert start.after(round_of(W8, other=BAD, mine=GOOD), "mine") == looked(failing=(W8,))
    inconclusive = round_of(W8, other=GOOD, mine=BROKEN)
    assert inconclusive.verdict is Verdict.INCONCLUSIVE
    assert start.after(inconclusive, "mine") == start


def test_failure_is_one_alone_only_where_the_witness_says_so() -> None:
    start = Looked()
    assert start.after(round_of(S02, kind="W6", mine=BAD), "mine") == looked(failing=(S02,), alone=("S02",))
    assert start.after(round_of(S02, mine=BAD), "mine") == looked(failing=(S02,))
    assert start.after(round_of(W8, kind="W6", mine=BAD), "mine") == looked(failing=(W8,))
    assert start.after(round_of(S02, kind="W6", mine=GOOD), "mine") == looked(passed=(S02,))
    assert start.with_witness(round_of(S01, kind="W6", mine=BAD)) == looked(alone=("S01",))
