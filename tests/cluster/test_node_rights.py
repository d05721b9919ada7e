"""The rights to look for a place: the nodes, and everybody's pods on them, to be listed and nothing more."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from detinf_cluster.build import binary
from rendered_chart import settings

from detinf.controller.settings import parse

pytestmark = pytest.mark.cluster

CHART = Path(__file__).resolve().parents[2] / "charts" / "deterministic-inference"
OPERATOR_NAMESPACE = "detinf-system"
ACCOUNTS = f"system:serviceaccount:{OPERATOR_NAMESPACE}"
Ask = Callable[..., tuple[int, dict[str, Any]]]
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")


def rendered(template: str, *values: str, release: str = "detinf") -> list[dict[str, Any]]:
    command = [str(binary("helm")), "template", release, str(CHART), "--namespace", OPERATOR_NAMESPACE]
    given = itertools.chain.from_iterable(("--set", value) for value in values)
    text = subprocess.run(
        [*command, *given, "--show-only", f"templates/{template}.yaml"], check=True, capture_output=True, text=True
    ).stdout
    return [item for item in yaml.safe_load_all(text) if item]


def verbs(ask: Ask, resource: str, account: str = f"{ACCOUNTS}:detinf", namespace: str = "") -> set[str]:
    """Ask the API server what an account may do."""
    found = set()
    for verb in VERBS:
        attributes = {"resource": resource, "verb": verb, "namespace": namespace}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": account, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes},
        }
        status, answer = ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        assert status == 201, answer
        found |= {verb} if answer["status"]["allowed"] else set()
    return found


def test_charts_account_may_list_nodes_and_nothing_else_of_them(ask: Ask, role: dict[str, Any]) -> None:
    assert role
    assert verbs(ask, "nodes") == {"list"}


@pytest.fixture
def narrow(administrator: Callable[..., str], namespace: str, role: dict[str, Any]) -> Iterator[str]:
    """The chart in a release that watches one namespace; its account."""
    assert role  # the namespace of the operator is there
    made = yaml.safe_dump_all(rendered("rbac", f"watchNamespace={namespace}", release="narrow"))
    administrator("apply", "--server-side", "--validate=strict", "-f", "-", given=made)
    yield f"{ACCOUNTS}:narrow"
    administrator("delete", "-f", "-", given=made)


def test_account_with_one_namespace_sees_all_places_and_touches_its_own_alone(
    ask: Ask, narrow: str, namespace: str
) -> None:
    assert verbs(ask, "nodes", narrow) == {"list"}
    assert verbs(ask, "pods", narrow) == {"list"}
    assert verbs(ask, "pods", narrow, "default") == {"list"}
    assert verbs(ask, "pods", narrow, namespace) == {"list", "watch", "patch", "delete"}
    assert verbs(ask, "configmaps", narrow) == set()


@pytest.mark.parametrize("watched", ["", "inference"], ids=["all namespaces", "one namespace"])
def test_chart_that_is_not_to_read_nodes_grants_nothing_and_says_so_to_the_controller(watched: str) -> None:
    values = ("topology.readNodes=false", f"watchNamespace={watched}")
    roles = [item for item in rendered("rbac", *values) if item["kind"] in {"Role", "ClusterRole"}]
    (role,) = (item for item in roles if not item["metadata"]["name"].endswith("-lease"))
    assert "nodes" not in {resource for rule in role["rules"] for resource in rule["resources"]}
    assert parse(settings({"watchNamespace": watched, "topology": {"readNodes": False}})).read_nodes is False
    assert parse(settings({"watchNamespace": watched})).read_nodes is True
