"""The controller's process on a bad way to the real API server: what is lost comes again, without a hot loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from audit import Audit
from bad_way import FAULTS, BadWay, kubeconfig_by
from controller_process import CHILDREN, WAIT, Controller, Kubectl, children, make, settle
from detinf_cluster.control_plane import ControlPlane
from detinf_cluster.processes import free_port

from detinf.api import names
from detinf.controller.app import CHILD_KINDS, WATCH_SECONDS

pytestmark = pytest.mark.cluster

ACCOUNT = "system:serviceaccount:detinf-system:detinf"
WATCHED = len(CHILD_KINDS) + 1


@pytest.fixture(scope="module")
def audit(control_plane: ControlPlane) -> Audit:
    return Audit(control_plane.audit_log, ACCOUNT)


@pytest.fixture(scope="module")
def way(control_plane: ControlPlane) -> Iterator[BadWay]:
    control_plane.authority.issue("bad-way", "bad-way", hosts=["127.0.0.1"])
    with BadWay(control_plane.url, control_plane.pki, "bad-way", free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def controller(
    definition: str, account_kubeconfig: Path, way: BadWay, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controller]:
    assert definition
    folder = tmp_path_factory.mktemp("bad-way")
    running = Controller(folder, kubeconfig_by(way, account_kubeconfig, folder / "kubeconfig"), free_port())
    running.start()
    yield running
    running.end()


@pytest.fixture(autouse=True)
def good_again(way: BadWay) -> Iterator[None]:
    yield
    way.every = 0
    way.treat_watches("pass")


def test_bad_way_leads_to_the_same_end(
    kubectl: Kubectl, controller: Controller, way: BadWay, audit: Audit, namespace: str
) -> None:
    """Errors, delays, half answers, answers that are lost after the deed; watches that end, and that are too old."""
    way.every = 9
    make(kubectl)
    way.treat_watches("gone")
    kubectl("scale", "detinf/a", "--replicas=3")
    kubectl("wait", "--for=create", "statefulset/a-2", WAIT)
    kubectl("scale", "detinf/a", "--replicas=2")
    kubectl("wait", "--for=delete", "statefulset/a-2", WAIT)
    way.treat_watches("drop")
    kubectl("patch", "statefulset", "a-0", "--type=merge", "-p", '{"spec": {"replicas": 3}}')
    kubectl("wait", "--for=jsonpath={.spec.replicas}=1", "statefulset/a-0", WAIT)
    kubectl("delete", "service", "a")
    kubectl("wait", "--for=create", "service/a", WAIT)
    settle(kubectl)
    controller.until("each of the faults", lambda: set(FAULTS) <= set(way.spoilt))
    seen = children(kubectl)
    way.every = 0
    way.treat_watches("pass")
    # On a good way there is nothing left to do.
    controller.look_again(audit, namespace, 2)
    before = audit.writes(namespace)
    controller.look_again(audit, namespace, 3)
    assert audit.writes(namespace) == before
    assert children(kubectl) == seen
    assert controller.failures(namespace), "the bad way was not felt"
    kubectl("delete", "detinf/a", "--wait=true")
    kubectl("wait", "--for=delete", "-l", f"{names.LABEL_NAME}=a", f"{CHILDREN},pods", WAIT)


@pytest.mark.parametrize("how", ["drop", "gone"])
def test_watches_that_end_at_once_are_begun_anew_at_a_measured_pace(
    kubectl: Kubectl, controller: Controller, way: BadWay, audit: Audit, namespace: str, how: str
) -> None:
    make(kubectl)
    way.treat_watches(how)
    began = time.monotonic()
    watches = way.seen["watch"]
    controller.look_again(audit, namespace, 3)
    controller.until("watches that end", lambda: way.seen["watch"] >= watches + 3 * WATCHED)
    # Each kind once a second, whatever the machine's speed; one more may have been under way at either end.
    assert way.seen["watch"] - watches <= WATCHED * ((time.monotonic() - began) / WATCH_SECONDS + 2)


def test_api_server_that_refuses_watches_for_long_is_heard_again(
    kubectl: Kubectl, controller: Controller, way: BadWay
) -> None:
    refused = way.spoilt["500"]
    way.treat_watches("500")
    # After five attempts kopf gave up once, and the process went on deaf.
    controller.until("six attempts of each watch", lambda: way.spoilt["500"] >= refused + 6 * WATCHED, seconds=240)
    way.treat_watches("pass")
    make(kubectl)


def test_controller_whose_watch_dies_ends_and_does_not_live_on_deaf(controller: Controller, way: BadWay) -> None:
    assert controller.process
    way.treat_watches("fatal")
    assert controller.process.wait(120) != 0
