"""What status says of one replica, from its pod and its probe's report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detinf.controller.observed import Replica
from detinf.controller.replica_state import replica_state
from detinf.documents import Phase, Report

ROOT = Path(__file__).resolve().parents[4]


def replica_in(phase: Phase, *, pod_ready: bool) -> Replica:
    document = json.loads((ROOT / "tests/fixtures/documents/report.json").read_text(encoding="utf-8"))
    report = Report.parse(json.dumps(document | {"phase": str(phase), "evidence": None}).encode())
    conditions = [{"type": "Ready", "status": str(pod_ready)}]
    pod = {"metadata": {"name": "a-0-0", "uid": "1", "labels": {}}, "status": {"conditions": conditions}}
    return Replica(0, None, pod, report)


@pytest.mark.parametrize("phase", list(Phase))
def test_every_phase_of_a_pod_that_is_not_ready_has_a_state(phase: Phase) -> None:
    assert not replica_state(replica_in(phase, pod_ready=False), isolated=False).serves


def test_replica_does_not_start_again_between_its_gate_and_its_readiness() -> None:
    told = [
        replica_state(replica_in(phase, pod_ready=ready), isolated=False).state
        for phase, ready in ((Phase.GATING, False), (Phase.PASSED, False), (Phase.PASSED, True))
    ]
    assert told == ["Gating", "Gating", "Serving"]


@pytest.mark.parametrize("where", ["state", "lastState"])
def test_engine_that_ended_once_is_not_shown_as_being_created(where: str) -> None:
    engine = {"name": "engine", "started": False, "restartCount": 1, where: {"terminated": {"exitCode": 0}}}
    conditions = [{"type": "PodScheduled", "status": "True"}]
    pod = {
        "metadata": {"name": "a-0-0", "uid": "1"},
        "status": {"conditions": conditions} | {"containerStatuses": [engine]},
    }
    state = replica_state(Replica(0, None, pod, None))
    assert (state.state, state.words) == ("Starting", "its engine ended with exit code 0 and is started again")
