"""The books of a boot: which divergences are kept, and what is said about them later."""

from __future__ import annotations

import pytest

from detinf.api.types import Promise
from detinf.documents import Plan, PlanAttestation, PlanEnvironment, PlanModel, PlanTopology, PodIdentity, Reference
from detinf.probe.attested import Attested
from detinf.probe.books import MOST_FURTHER, Books
from detinf.probe.exported import Exported
from detinf.probe.observation import Observation
from detinf.probe.verdict import Asked, Round, judge

PLAN = Plan(
    profile="simulated",
    image="none",
    model=PlanModel(path="/m", dtype="bfloat16", max_model_len=4096, max_num_seqs=32),
    arguments=[],
    environment=PlanEnvironment(set_variables={}),
    topology=PlanTopology(devices=0),
    attestation=PlanAttestation(processes=["guard"]),
)
ATTESTED = Attested("b" * 32, 0, PLAN, PLAN.digest(), "sha256:" + "0" * 64, 1000, ())
GOOD = Observation((1, 2), (0xBF000000, 0xBF000000), "length")
BAD = Observation((1, 9), (0xBF000000, 0xBF000000), "length")


@pytest.fixture
def books() -> Books:
    pod = PodIdentity(namespace="n", name="p", uid="u")
    return Books(ATTESTED, pod, Exported(), lambda: Promise.TOKENS_AND_LOGPROBS)


def round_of(relation: str, condition: str, **observed: Observation) -> Round:
    asked = [
        Asked(Reference(name=name, prompt_ids=[1], max_tokens=2, temperature_milli=0, seed=0), GOOD, answer)
        for name, answer in observed.items()
    ]
    return judge(relation, condition, asked, promise=Promise.TOKENS)


def test_first_divergence_stays_and_those_of_other_cells_follow_in_their_order(books: Books) -> None:
    assert (books.evidence, books.further, books.hint()) == (None, [], None)
    cells = [("S03", "width=8"), ("S03", "width=16"), ("S02", "solo"), ("S05", "prefill=9"), ("S04", "tokens=257")]
    for relation, condition in cells:
        for name in ("first", "second"):
            books.keep([round_of(relation, condition, **{name: BAD})])
    assert books.evidence is not None
    kept = [(item.relation, item.condition, item.reference) for item in (books.evidence, *books.further)]
    assert kept == [(*cell, "first") for cell in cells[: 1 + MOST_FURTHER]]


def test_hint_of_a_divergence_knows_nothing_of_what_passed_before_it(books: Books) -> None:
    books.keep([round_of("S03", "width=2", mine=GOOD)])
    books.keep([round_of("S02", "solo", mine=GOOD)])
    books.keep([round_of("S03", "width=16", mine=BAD)])
    assert books.evidence is not None
    assert "width=2" not in books.evidence.hint
    assert "alone it is right" not in books.evidence.hint
    assert books.hint() is None


def test_hint_is_amended_by_what_is_looked_at_later_and_the_evidence_is_not(books: Books) -> None:
    books.keep([round_of("S03", "width=16", mine=BAD)])
    assert books.evidence is not None
    first = books.evidence
    assert books.in_doubt() == "mine"
    books.keep([round_of("S02", "solo", other=GOOD)])
    assert books.hint() is None  # another reference may be right alone for ever
    assert books.in_doubt() == "mine"
    books.keep([round_of("S02", "solo", mine=GOOD), round_of("S01", "solo", mine=GOOD)])
    assert books.in_doubt() is None
    books.keep([round_of("S03", "width=2", mine=GOOD, other=GOOD)])
    assert (books.hint() or "").endswith("at width=16; alone it is right; clean since at width=2")
    books.keep([round_of("S02", "solo", other=BAD)])
    assert (books.hint() or "").startswith("drift")
    assert books.evidence == first


def test_what_came_of_the_same_answers_counts_with_the_divergence(books: Books) -> None:
    """Asked twice: S01 and S02 are of the same two answers, in this order."""
    books.keep([round_of("S01", "solo", mine=BAD), round_of("S02", "solo", mine=BAD)])
    assert books.evidence is not None
    assert (books.evidence.relation, books.evidence.hint.partition(",")[0]) == ("S01", "run to run")
    assert [item.relation for item in books.further] == ["S02"]
    assert books.further[0].hint.startswith("run to run")
    assert books.looked.failing == {("S02", "solo")}
    assert books.in_doubt() == "mine"  # the fault may have come between the two
    books.keep([round_of("S01", "solo", mine=GOOD), round_of("S02", "solo", mine=BAD)])
    assert books.in_doubt() is None
    assert (books.hint() or "").startswith("drift")


def test_drift_whose_answer_was_the_same_twice_is_told_as_such(books: Books) -> None:
    books.keep([round_of("S01", "solo", mine=GOOD), round_of("S02", "solo", mine=BAD)])
    assert books.evidence is not None
    assert (books.evidence.relation, books.evidence.hint.partition(",")[0]) == ("S02", "drift")
    assert books.looked.passed == {("S01", "solo")}


def test_evidence_of_a_cell_that_never_passed_says_so(books: Books) -> None:
    books.keep([round_of("S03", "width=2", mine=GOOD)])
    books.keep([round_of("S03", "width=16", mine=BAD)])
    assert books.evidence is not None
    assert (books.evidence.clean_unix, books.evidence.answered) == (None, None)
    books.keep([round_of("S03", "width=2", mine=BAD)])
    assert books.further[0].clean_unix is not None
