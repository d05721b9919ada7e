"""The controller's own process on the real API server, with the rights that the chart gives it and no others.

There is no node here, so pods stay Pending: what is looked at is what the controller does to its children.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from audit import Audit, granted
from controller_process import CHILDREN, WAIT, Controller, Kubectl, children, make, resource, settle
from detinf_cluster.control_plane import ControlPlane
from detinf_cluster.processes import free_port

from detinf.api import names

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
Ask = Callable[..., tuple[int, dict[str, Any]]]
ACCOUNT = "system:serviceaccount:detinf-system:detinf"


@pytest.fixture(scope="module")
def audit(control_plane: ControlPlane) -> Audit:
    return Audit(control_plane.audit_log, ACCOUNT)


@pytest.fixture(scope="module")
def controller(
    definition: str, account_kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Controller]:
    assert definition
    running = Controller(tmp_path_factory.mktemp("controller"), account_kubeconfig, free_port())
    running.start()
    yield running
    running.stop()


def test_settled_resource_is_not_written_and_not_by_a_restarted_controller(
    kubectl: Kubectl, controller: Controller, audit: Audit, namespace: str
) -> None:
    make(kubectl)
    settle(kubectl)
    controller.look_again(audit, namespace, 3)
    before = audit.writes(namespace)
    assert before
    controller.look_again(audit, namespace, 6)
    assert audit.writes(namespace) == before
    controller.stop()
    controller.start()
    controller.look_again(audit, namespace, 4)
    assert audit.writes(namespace) == before
    assert controller.failures(namespace) == []


def test_child_that_was_edited_by_hand_comes_back(kubectl: Kubectl, controller: Controller) -> None:
    assert controller.process
    make(kubectl)
    port = '{"spec": {"ports": [{"port": 8000, "name": "http", "targetPort": 1}]}}'
    kubectl("patch", "service", "a", "--type=merge", "-p", port)
    kubectl("wait", "--for=jsonpath={.spec.ports[0].targetPort}=http", "service/a", WAIT)
    kubectl("patch", "statefulset", "a-0", "--type=merge", "-p", '{"spec": {"replicas": 3}}')
    kubectl("wait", "--for=jsonpath={.spec.replicas}=1", "statefulset/a-0", WAIT)
    kubectl("label", "configmap", names.delivery_name("a"), f"{names.LABEL_NAME}=other", "--overwrite")
    kubectl(
        "wait", "--for=jsonpath={.metadata.labels.detinf\\.io/name}=a", f"configmap/{names.delivery_name('a')}", WAIT
    )


def test_child_that_was_deleted_by_hand_comes_back(kubectl: Kubectl, controller: Controller) -> None:
    assert controller.process
    make(kubectl)
    for child, uid in children(kubectl).items():
        kubectl("delete", child, "--wait=true", "--cascade=foreground")
        kubectl("wait", "--for=create", child, WAIT)
        assert children(kubectl)[child] != uid
    assert len(children(kubectl)) >= 6


def test_fields_of_another_manager_survive_a_change(
    kubectl: Kubectl, controller: Controller, audit: Audit, namespace: str
) -> None:
    make(kubectl)
    theirs = ("--field-manager=somebody", "--overwrite")
    kubectl("annotate", "service", "a", "example.org/cost-centre=17", *theirs)
    kubectl("label", "statefulset", "a-0", "example.org/team=rl", *theirs)
    kubectl("apply", "--server-side", "-f", "-", given=resource(engine={"maxNumSeqs": 16}))
    kubectl("wait", "--for=jsonpath={.status.observedGeneration}=2", "detinf/a", WAIT)
    controller.look_again(audit, namespace, 3)
    assert "17" in kubectl("get", "service", "a", "-o", "jsonpath={.metadata.annotations}")
    assert "rl" in kubectl("get", "statefulset", "a-0", "-o", "jsonpath={.metadata.labels}")


def test_fewer_replicas_take_the_surplus_away(kubectl: Kubectl, controller: Controller) -> None:
    assert controller.process
    make(kubectl)
    kubectl("scale", "detinf/a", "--replicas=1")
    kubectl("wait", "--for=delete", "statefulset/a-1", WAIT)
    assert "StatefulSet/a-0" in children(kubectl)


def test_deleted_resource_takes_its_children_along_and_no_others(
    kubectl: Kubectl, administrator: Kubectl, controller: Controller, audit: Audit, namespace: str
) -> None:
    """Two resources of one name in two namespaces, and a second one beside: neither notices."""
    other = f"{namespace}-other"
    administrator("create", "namespace", other)
    elsewhere = functools.partial(kubectl, "--namespace", other)
    make(kubectl)
    make(kubectl, "b")
    make(elsewhere)
    before = [children(elsewhere), children(kubectl, "b")]
    kubectl("delete", "detinf/a", "--wait=true")
    kubectl("wait", "--for=delete", "-l", f"{names.LABEL_NAME}=a", f"{CHILDREN},pods", WAIT)
    controller.look_again(audit, namespace, 3, "b")
    controller.look_again(audit, other, 3)
    assert children(kubectl) == {}
    assert [children(elsewhere), children(kubectl, "b")] == before
    # A namespace with a resource in it ends: there is no finalizer, and nothing is made anew in it.
    administrator("delete", "namespace", other, "--wait=true", "--timeout=120s")
    assert controller.failures(namespace) == []
    assert controller.failures(other) == []


def test_invalid_resource_is_told_so_once_and_left_alone(
    kubectl: Kubectl, controller: Controller, audit: Audit, namespace: str
) -> None:
    kubectl("apply", "--server-side", "-f", "-", given=resource(engine={"profile": "vllm-ascend-0.18"}))
    kubectl("wait", "--for=condition=SpecValid=False", "detinf/a", WAIT)
    make(kubectl, "b")  # the queue goes on
    controller.look_again(audit, namespace, 3, "b")
    assert children(kubectl) == {}
    written = [line.partition("?")[0] for line in audit.writes(namespace)]
    about = [line.rpartition(f"/{namespace}/")[2] for line in written]
    assert [line for line in about if re.search("/a(-|/|$)", line)] == [f"{names.PLURAL}/a/status"]
    assert controller.failures(namespace) == []


def test_controller_was_refused_nothing_and_used_what_the_chart_grants(
    controller: Controller, audit: Audit, role: dict[str, Any]
) -> None:
    assert controller.looked()
    assert audit.refused() == []
    assert audit.used() <= granted(role)
    # Without a kubelet there is no report, and so nothing to patch on pods and no record, and nothing serves that would
    # wait for a place; tests/e2e has the equality.
    missing = granted(role) - audit.used()
    unused = {("pods", "patch"), ("pods", "delete"), ("configmaps", "delete"), ("nodes", "list"), NEVER_ASKED}
    assert missing <= unused


NEVER_ASKED = ("deterministicinferences/finalizers", "update")
"""No request: an admission plug-in that not every cluster has asks whether we may block our owner's deletion."""
IMPOSSIBLE = (
    *(("secrets", verb) for verb in ("get", "list", "watch", "create", "patch")),
    *(("pods", verb) for verb in ("create", "update")),
    *((f"pods/{what}", "create") for what in ("exec", "attach", "portforward", "eviction", "ephemeralcontainers")),
    *(("nodes", verb) for verb in ("patch", "update", "delete")),
    *(("deterministicinferences.detinf.io", verb) for verb in ("create", "update", "patch", "delete")),
    *(("clusterroles.rbac.authorization.k8s.io", verb) for verb in ("create", "bind", "escalate")),
    *(("rolebindings.rbac.authorization.k8s.io", verb) for verb in ("create", "patch")),
    *(("serviceaccounts", verb) for verb in ("create", "impersonate")),
    *((what, "create") for what in ("serviceaccounts/token", "namespaces", "persistentvolumes", "deployments.apps")),
    *((what, "impersonate") for what in ("users", "groups")),
    *(("customresourcedefinitions.apiextensions.k8s.io", verb) for verb in ("create", "patch", "delete")),
    *(("mutatingwebhookconfigurations.admissionregistration.k8s.io", verb) for verb in ("create", "patch")),
)


def allowed(ask: Ask, what: str, verb: str) -> bool:
    """Ask the API server whether the chart's account may do something in any namespace."""
    name, _, subresource = what.partition("/")
    resource, _, group = name.partition(".")
    attributes = {"resource": resource, "group": group, "verb": verb, "subresource": subresource}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": ACCOUNT, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes},
    }
    status, answer = ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert status == 201, answer
    return bool(answer["status"]["allowed"])


def test_chart_account_cannot_do_what_no_operator_of_engines_needs(
    ask: Ask, definition: str, role: dict[str, Any]
) -> None:
    assert definition
    assert role
    assert allowed(ask, "pods", "delete")  # the question has force
    assert allowed(ask, "deterministicinferences.detinf.io/status", "patch")
    assert [(what, verb) for what, verb in IMPOSSIBLE if allowed(ask, what, verb)] == []
