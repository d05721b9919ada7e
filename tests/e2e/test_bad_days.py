"""Faults of all, refused children, invalid specs and edits without a place: what protects users goes on."""

from __future__ import annotations

import json

import pytest
from bad_scene import TOLD_SECONDS, BadScene, condition_of, looks
from scenario import NAME

from detinf.controller.decide import STEADY_SECONDS
from detinf.controller.quarantine import DRAIN_SECONDS

pytestmark = pytest.mark.e2e
ALL = (f"{NAME}-0-0", f"{NAME}-1-0", f"{NAME}-2-0")
ROUNDS = 3
"""Of the probes, for which is looked whether what must not happen happens."""


@pytest.fixture
def three(trio: BadScene) -> BadScene:
    """Three replicas, Ready and without a fault."""
    trio.settle()
    return trio


def is_told(scene: BadScene, index: int) -> str | None:
    """Return what the status says of a replica's divergence."""
    said = condition_of(scene.status(), "OutputsInvariant")
    words = str(said.get("message", ""))
    return words if said.get("status") == "False" and f"replica {index}" in words else None


def test_fault_of_all_at_once_isolates_nobody_in_several_rounds(three: BadScene) -> None:
    uids = [three.uid(index) for index in range(3)]
    three.fault(0, 1, 2)

    def never_fewer() -> None:
        assert three.endpoints() == list(ALL), three.status()

    for _ in looks(TOLD_SECONDS):
        never_fewer()
        if condition_of(three.status(), "OutputsInvariant").get("reason") == "CommonModeDivergence":
            break
    message = three.says("OutputsInvariant", "False", "CommonModeDivergence", "goes on serving (")
    assert [f"replica {index} diverged" in message for index in range(3)] == [True] * 3 or len(message) == 1024
    assert three.says("Stalled", "True", "CommonModeDivergence")
    interval = three.engine.probe_seconds["widthIntervalSeconds"]
    for _ in looks(ROUNDS * interval):
        never_fewer()
        assert condition_of(three.status(), "OutputsInvariant")["reason"] == "CommonModeDivergence"
    assert [three.uid(index) for index in range(3)] == uids
    evidence = [json.loads(item["data"]["evidence.json"]) for item in three.records("evidence")]
    assert set(uids) <= {item["pod"]["uid"] for item in evidence}
    # Every answer is off since, so nothing was seen to be clean, whatever passed before.
    hints = [item["hint"] for item in evidence]
    assert not [text for text in [message, *hints] if "clean" in text]


def test_replica_that_diverges_while_the_service_was_made_unappliable_is_isolated_and_the_remedy_works(
    three: BadScene,
) -> None:
    three.edit_service(selector={"somebody": "else"})
    try:
        message = three.says("Degraded", "True", "ChildRefused", "Service", "kubectl-edit", "Duplicate value")
        uid = three.uid(1)
        three.fault(1)
        three.story.wait("it to be told", lambda: is_told(three, 1), seconds=TOLD_SECONDS, every=0.3)
        three.until_isolated(1, uid)
        assert three.records("evidence")
        three.until_replaced(1, uid)
    finally:
        message = str(condition_of(three.status(), "Stalled").get("message", message))
        assert three.run_remedy(message) == f"delete service {NAME}"
    three.until_ready()
    service = three.kubectl.object("services", NAME)
    assert service["spec"]["selector"]["detinf.io/name"] == NAME
    assert [port["port"] for port in service["spec"]["ports"]] == [8000]


def test_replica_that_diverges_while_no_record_can_be_made_is_isolated_and_kept_until_one_can(
    three: BadScene,
) -> None:
    uid, before = three.uid(1), len(three.records("evidence"))
    with three.full_quota():
        three.fault(1)
        three.story.wait("it to be told", lambda: is_told(three, 1), seconds=TOLD_SECONDS, every=0.3)
        three.until_isolated(1, uid)
        three.says("Degraded", "True", "ReplicaIsolated", "exceeded quota")
        for _ in looks(DRAIN_SECONDS + 2 * STEADY_SECONDS, every=1.0):
            assert three.uid(1) == uid, "its evidence was in its memory alone, and is lost"
        assert len(three.records("evidence")) == before
    three.until_replaced(1, uid)
    found = [json.loads(item["data"]["evidence.json"])["pod"]["uid"] for item in three.records("evidence")]
    assert uid in found
    three.until_ready()


def test_replica_that_diverges_under_an_invalid_spec_is_isolated_and_replaced(three: BadScene) -> None:
    three.patch({"engine": {"extraArgs": ["--seed", "1"]}})
    try:
        three.says("SpecValid", "False", "InvalidSpec", "spec.engine.extraArgs", "--seed")
        uid = three.uid(1)
        three.fault(1)
        three.story.wait("it to be told", lambda: is_told(three, 1), seconds=TOLD_SECONDS, every=0.3)
        three.until_isolated(1, uid)
        three.until_replaced(1, uid)
        three.story.wait(
            "what runs to serve",
            lambda: "yes" if three.endpoints() == list(ALL) and three.status()["readyReplicas"] == 3 else None,
            seconds=TOLD_SECONDS,
        )
        assert not three.is_ready()
    finally:
        three.patch({"engine": {"extraArgs": None}})
    three.until_ready()


def test_edit_that_no_node_takes_costs_nobody_that_serves_and_names_the_label(three: BadScene) -> None:
    uids = [three.uid(index) for index in range(3)]
    three.patch({"model": {"maxModelLen": 4096}, "scheduling": {"nodeSelector": {"rack": "r9"}}})
    try:
        message = three.says("Progressing", "False", "NoPlace", "rack")
        assert "goes on serving as it is" in message
        three.says("Ready", "False", "NoPlace", "rack")
        three.says("Stalled", "True", "NoPlace")
        for _ in looks(ROUNDS * STEADY_SECONDS):
            assert three.endpoints() == list(ALL)
            assert [three.uid(index) for index in range(3)] == uids
    finally:
        three.patch({"model": {"maxModelLen": None}, "scheduling": None})
    three.until_ready()
    assert [three.uid(index) for index in range(3)] == uids
