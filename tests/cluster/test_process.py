"""Several controllers' processes on the real API server: one works, the others stand by; and what one says."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from audit import Audit
from controller_process import WAIT, Controller, Kubectl, make, settle
from detinf_cluster.control_plane import ControlPlane
from detinf_cluster.processes import free_port

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "system:serviceaccount:detinf-system:detinf"
LONG = ("--lease-duration", "3600", "--lease-renew-deadline", "3000")
"""So long that nobody takes over but from one that gives it up."""
SHORT = ("--lease-duration", "4", "--lease-renew-deadline", "3", "--lease-retry-period", "0.5")

Begin = Callable[..., Controller]


@pytest.fixture
def begin(definition: str, account_kubeconfig: Path, tmp_path: Path) -> Iterator[Begin]:
    """Start controllers with the chart's rights, and end what is left of them."""
    assert definition
    running: list[Controller] = []

    def begun(*more: str, kubeconfig: Path = account_kubeconfig, **options: Any) -> Controller:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Controller(folder, kubeconfig, free_port(), *more, **options))
        return running[-1]

    yield begun
    for controller in running:
        controller.end()


@pytest.fixture(autouse=True)
def no_lease(administrator: Kubectl, role: dict[str, Any]) -> None:
    """No lease of an earlier test, whose holder was killed."""
    assert role
    administrator("delete", "lease", "-n", "detinf-system", "detinf", "--ignore-not-found")


def lease(administrator: Kubectl) -> dict[str, Any]:
    """Return what the Lease says."""
    spec: dict[str, Any] = json.loads(administrator("get", "lease", "-n", "detinf-system", "detinf", "-o", "json"))[
        "spec"
    ]
    return spec


def test_standby_is_ready_does_nothing_and_goes_on_where_the_one_before_it_ends(
    kubectl: Kubectl, administrator: Kubectl, begin: Begin
) -> None:
    first, second = begin(*LONG), begin(*LONG)
    first.start()
    first.until("the first to lead", first.leads)
    second.start()
    make(kubectl)
    second.until("the second to stand by", lambda: second.said("standing by"))
    assert (second.leads(), second.looked()) == (False, 0)
    assert second.page("healthz") == "ok\n"
    holder = lease(administrator)["holderIdentity"]
    first.stop()
    second.until("the second to lead", second.leads)
    assert lease(administrator)["holderIdentity"] != holder
    assert lease(administrator)["leaseTransitions"] == 1
    kubectl("delete", "service", "a")
    kubectl("wait", "--for=create", "service/a", WAIT)
    second.stop()
    assert "holderIdentity" not in lease(administrator)


def test_one_that_dies_is_followed_when_its_lease_has_expired(
    kubectl: Kubectl, administrator: Kubectl, begin: Begin
) -> None:
    first, second = begin(*SHORT), begin(*SHORT)
    first.start()
    first.until("the first to lead", first.leads)
    second.start()
    first.end()
    make(kubectl)
    assert second.leads()
    assert lease(administrator)["leaseTransitions"] == 1


def test_one_that_was_stopped_and_goes_on_writes_nothing_and_ends(
    kubectl: Kubectl, control_plane: ControlPlane, begin: Begin, namespace: str
) -> None:
    """It stood still for longer than its lease, and goes on in the middle of whatever it was doing."""
    first, second = begin(*SHORT), begin(*SHORT, kubeconfig=control_plane.kubeconfig)
    first.start()
    make(kubectl)
    settle(kubectl)
    second.start()
    assert first.process
    assert second.process
    first.process.send_signal(signal.SIGSTOP)
    second.until("the second to lead", second.leads)
    # Nobody mends what the first one then wants to mend.
    second.process.send_signal(signal.SIGSTOP)
    audit = Audit(control_plane.audit_log, ACCOUNT)
    before = audit.writes(namespace)
    assert before
    kubectl("delete", "service", "a")
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(60) == 1
    assert first.said("ending")
    assert audit.writes(namespace) == before
    # Whether the second one has missed its own deadline depends on the machine; then this one goes on.
    second.process.send_signal(signal.SIGCONT)
    begin(*SHORT).start()
    kubectl("wait", "--for=create", "service/a", WAIT)


def test_lease_that_is_taken_away_ends_the_process(administrator: Kubectl, begin: Begin) -> None:
    controller = begin()
    controller.start()
    controller.until("it to lead", controller.leads)
    taken = json.dumps({"spec": {"holderIdentity": "somebody"}})
    administrator("patch", "lease", "-n", "detinf-system", "detinf", "--type=merge", "-p", taken)
    assert controller.process
    assert controller.process.wait(60) == 1
    assert [line["why"] for line in controller.lines() if line.get("event") == "ending"] == ["somebody holds the lease"]
    assert lease(administrator)["holderIdentity"] == "somebody"


def test_one_without_the_right_to_the_lease_is_never_ready_and_says_what_is_missing(begin: Begin) -> None:
    """A Deployment then leaves the one that works alone."""
    controller = begin(lease=("--lease-namespace", "detinf-system", "--lease-name", "not-ours"))
    process = controller.begin()
    assert process.wait(60) == 1
    (why,) = [line["why"] for line in controller.lines() if line.get("event") == "ending"]
    assert "cannot read the lease" in why
    assert "grant the rights of the chart's Role" in why


def test_one_without_a_lease_works_and_says_so(kubectl: Kubectl, begin: Begin) -> None:
    controller = begin(lease=())
    controller.start()
    make(kubectl)
    assert controller.said("no lease is held: another controller would work, too")
    controller.stop()


def test_standby_ends_at_a_signal_and_leaves_the_lease_alone(administrator: Kubectl, begin: Begin) -> None:
    first, second = begin(*LONG), begin(*LONG)
    first.start()
    first.until("the first to lead", first.leads)
    second.start()
    holder = lease(administrator)["holderIdentity"]
    second.stop()
    assert lease(administrator)["holderIdentity"] == holder
    assert first.leads()


def test_events_of_watches_give_no_lines_and_what_we_do_does(kubectl: Kubectl, begin: Begin) -> None:
    controller = begin()
    controller.start()
    make(kubectl)
    settle(kubectl)
    for number in range(20):
        kubectl("label", "service", "a", f"example.org/n={number}", "--overwrite")
    controller.until("an event for each", lambda: controller.metric("workqueue_adds_total") >= 20)
    controller.stop()
    lines = controller.lines()
    assert [line["message"] for line in lines if re.search("Handler .* succeeded", line.get("message", ""))] == []
    assert {line["kind"] for line in lines if line.get("event") == "apply"} >= {"StatefulSet", "Service"}
    assert "Initial authentication has finished." in {line.get("message") for line in lines}  # kopf itself is heard


def told(control_plane: ControlPlane) -> list[str]:
    """Return what the command of docs/operations/failures.md prints; its headings are those of the document."""
    text = (ROOT / "docs" / "operations" / "failures.md").read_text(encoding="utf-8")
    section = text[text.index("## Has anybody looked lately?") :]
    command, expected = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[:2]
    path = f"{control_plane.bin}:{os.environ['PATH']}"
    environment = os.environ | {"KUBECONFIG": str(control_plane.kubeconfig), "PATH": path}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
    heads, row = done.stdout.splitlines()
    assert heads.split() == expected.splitlines()[0].split()
    assert len(expected.splitlines()[1].split()) == len(row.split())
    return row.split()


def test_documented_command_says_who_works_and_when_it_last_did(
    administrator: Kubectl, control_plane: ControlPlane, begin: Begin
) -> None:
    controller = begin()
    controller.start()
    controller.until("it to lead", controller.leads)
    who, when = told(control_plane)
    assert who == lease(administrator)["holderIdentity"]
    assert datetime.fromisoformat(when).tzinfo is not None
    controller.until("a later renewal", lambda: told(control_plane) > [who, when])
    controller.stop()
    assert told(control_plane)[0] == "<none>"
