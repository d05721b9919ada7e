"""What the step trace proves: launches and mixes that took place, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from detinf.guard.trace import Own, Step
from detinf.probe.reasons import Reason
from detinf.probe.trace import Window
from detinf.probe.traced import decoding, launched, mixed

COHORT, OTHER = b"cohort-1", b"cohort-2"


def own(number: int, tokens: int = 1, computed: int = 0, *, prefill: bool = True, cohort: bytes = COHORT) -> Own:
    return Own(cohort, number, prefill, tokens, computed)


def decode(number: int) -> Own:
    return own(number, 1, 50, prefill=False)


def window(*steps: tuple[int, list[Own]] | tuple[int, list[Own], int], complete: bool = True) -> Window:
    """Return a window of steps: their tokens, our own requests in them, and how many decodes tenants had."""
    listed = []
    for index, (tokens, held, *tenants) in enumerate(steps):
        prefills = sum(item.prefill for item in held)
        decodes = len(held) - prefills + sum(tenants)
        listed.append(Step(index, index, tokens, len(held), prefills, decodes, 0, 0, 0, tuple(held)))
    return Window(tuple(listed), complete)


WHOLE = (257, [own(0, 128), own(1, 129)])


@pytest.mark.parametrize(
    ("seen", "condition"),
    [
        (window((900, []), WHOLE, (2, [decode(0), decode(1)])), "tokens=257"),
        # Tenants' tokens were in the launch, too: kernels saw 300.
        (window((300, WHOLE[1])), "tokens>256"),
        (window((600, WHOLE[1])), "tokens>512"),
        (window((20_000, WHOLE[1])), "tokens>8192"),
        # What was seen was seen, whatever else was overwritten.
        (window(WHOLE, complete=False), "tokens=257"),
        (window((128, [own(0, 128)]), (129, [own(1, 129)])), None),
        (window((257, [own(0, 128), own(1, 129, cohort=OTHER)])), None),
        (window((256, [own(0, 127), own(1, 129)]), (1, [own(0, 1, 127)])), None),
        (window((257, [own(0, 128, 128), own(1, 129)])), None),
        (window((257, [decode(0), own(1, 129)])), None),
        (window(), None),
    ],
)
def test_launch_is_what_one_step_held_of_whole_prompts(seen: Window, condition: str | None) -> None:
    proof = launched(seen, COHORT, prompts=[128, 129])
    assert (proof.condition, proof.proven) == (condition, condition is not None)
    assert proof.missing is Reason.NOT_BATCHED
    # In company it is a launch of another size.
    assert (proof.proven and proof.as_wanted) == (condition == "tokens=257")


ALONE = [(2, [decode(0), decode(1)]), (64, [own(2, 64)]), (2, [decode(0), decode(1)])]


@pytest.mark.parametrize(
    ("steps", "condition", "missing"),
    [
        ([(65, [decode(0), own(2, 64)])], "prefill=64", Reason.NOT_BATCHED),
        # Of a prompt in parts the part counts that ran among decodes.
        ([(48, [own(2, 48)]), (17, [decode(1), own(2, 16, 48)])], "prefill=16", Reason.NOT_BATCHED),
        # Tenants' decodes are company, too, but nobody compares theirs.
        ([(65, [own(2, 64)], 1)], None, Reason.NOT_BATCHED),
        (ALONE, None, Reason.NOT_MIXED),
        (ALONE[:2], None, Reason.NOT_BATCHED),
        (ALONE[1:], None, Reason.NOT_BATCHED),
        ([], None, Reason.NOT_BATCHED),
    ],
)
def test_mix_is_a_prefill_in_a_step_of_own_decodes(
    steps: Sequence[Any], condition: str | None, missing: Reason
) -> None:
    proof = mixed(window(*steps), COHORT, joining=2)
    assert (proof.condition, proof.proven, proof.missing) == (condition, condition is not None, missing)


def test_gap_is_no_proof_that_a_prefill_was_alone() -> None:
    assert mixed(window(*ALONE, complete=False), COHORT, joining=2).missing is Reason.NOT_BATCHED


def test_preempted_decodes_are_no_proof_that_a_prefill_is_never_mixed() -> None:
    seen = window(*ALONE)
    steps = (seen.steps[0], replace(seen.steps[1], preemptions=2), seen.steps[2])
    assert mixed(Window(steps, complete=True), COHORT, joining=2).missing is Reason.NOT_BATCHED


class Growing:
    """A trace that grows between two looks."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.read = 0

    def position(self) -> int | None:
        return len(self.steps)

    def since(self, position: int) -> Window | None:
        self.read += len(self.steps) - position
        return Window(tuple(self.steps[position:]), complete=True)


def test_decodes_are_noticed_when_they_are_there_and_no_step_is_read_twice() -> None:
    trace = Growing()
    look = decoding(trace, 0, COHORT)
    answers = []
    for held in ([own(0, 64)], [own(0, 1, 64, prefill=False, cohort=OTHER)], [decode(0)], []):
        trace.steps += window((1, held)).steps
        answers.append(look())
    assert answers == [False, False, True, False]
    assert trace.read == 4
