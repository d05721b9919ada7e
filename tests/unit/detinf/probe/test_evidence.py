"""Evidence: compared once more from what is stored, and enough to find the place again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detinf.api.types import Promise
from detinf.documents import (
    Evidence,
    Plan,
    PlanAttestation,
    PlanEnvironment,
    PlanModel,
    PlanTopology,
    PodIdentity,
    Reference,
)
from detinf.probe.attested import Attested
from detinf.probe.digests import digests
from detinf.probe.evidence import confirm
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
POD = PodIdentity(namespace="n", name="p", uid="u")
REFERENCE = Reference(name="margin-03", prompt_ids=[4] * 127, max_tokens=2, temperature_milli=0, seed=0, logprobs=2)
TOP = (((5, 0xBF000000), (6, 0xBF800000)), ((7, 0xBF000000), (8, 0xBF800000)))
GOOD = Observation((5, 7), (0xBF000000, 0xBF000000), "length", TOP)


def evidence_of(observed: Observation, promise: Promise = Promise.TOKENS_AND_LOGPROBS) -> tuple[Round, Evidence | None]:
    asked = [Asked(REFERENCE, GOOD, observed)]
    outcome = judge("S03", "width=8", asked, promise=promise)
    found = confirm(outcome, promise=promise, attested=ATTESTED, pod=POD, references_digest="r", hint="there", now=7)
    return outcome, found


@pytest.mark.parametrize(
    ("observed", "observable", "position", "same"),
    [
        (replace(GOOD, token_ids=(5, 9)), "token", 1, set()),
        (replace(GOOD, logprob_bits=(0xBF000000, 0xBF000003)), "logprob", 1, {"ids"}),
        (replace(GOOD, top=(TOP[0], ((7, 0xBF000000), (8, 0xBF800001)))), "top", 1, {"ids", "logprobs"}),
        (replace(GOOD, finish_reason="stop"), "finish", 2, set()),
    ],
)
def test_difference_of_any_observable_is_confirmed_from_its_document(
    observed: Observation, observable: str, position: int, same: set[str]
) -> None:
    _, found = evidence_of(observed)
    assert found is not None
    again = Evidence.parse(found.canonical())
    assert (again.observable, again.position, again.reference) == (observable, position, "margin-03")
    assert again.sequence_position == 127 + position
    assert again.expected_digests == digests(REFERENCE.prompt_ids, GOOD)
    assert again.observed_digests == digests(REFERENCE.prompt_ids, observed)
    named = {
        name
        for name in ("ids", "logprobs", "top")
        if getattr(again.expected_digests, name) == getattr(again.observed_digests, name)
    }
    assert named == same


def test_evidence_names_node_and_devices_and_without_npus_has_none() -> None:
    assert evidence_of(replace(GOOD, finish_reason="stop"))[1].devices is None
    boards = {"4": {"Serial Number": "2102X", "PCIe Bus Info": "0000:C5:00.0"}}
    asked = [Asked(REFERENCE, GOOD, replace(GOOD, finish_reason="stop"))]
    found = confirm(
        judge("S02", "solo", asked, promise=Promise.TOKENS),
        promise=Promise.TOKENS,
        attested=replace(ATTESTED, boards=boards),
        pod=POD,
        references_digest="r",
        hint="there",
        now=7,
        node="node-a",
    )
    assert found is not None
    assert (found.node, found.devices) == ("node-a", boards)


def test_equal_answers_are_no_evidence() -> None:
    assert evidence_of(GOOD)[1] is None


def test_difference_that_is_not_in_the_stored_answers_is_not_confirmed() -> None:
    outcome, _ = evidence_of(replace(GOOD, token_ids=(5, 9)))
    assert outcome.finding is not None
    other = replace(outcome, finding=replace(outcome.finding, asked=replace(outcome.finding.asked, observed=GOOD)))
    arguments = {"attested": ATTESTED, "pod": POD, "references_digest": "r", "hint": "there", "now": 7}
    assert confirm(other, promise=Promise.TOKENS, **arguments) is None
