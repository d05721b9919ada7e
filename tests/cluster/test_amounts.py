"""Resources of a container: what the tests take for Kubernetes' rule is what the real API server does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from container_resources import AMOUNTS, refused_by_kubernetes
from hypothesis import HealthCheck, Phase, given, settings

from detinf.api.amounts import problems
from detinf.api.types import ResourceAmounts, Spec
from detinf.controller.builders.pod import engine_resources
from detinf.controller.builders.quantity import parse
from detinf.engines.catalogue import PROFILES

pytestmark = pytest.mark.cluster


def answer(ask: Callable[..., Any], namespace: str, resources: dict[str, Any]) -> str:
    """Return what the API server says of a pod with these resources; an empty text where it takes it."""
    pod = {
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "engine", "image": "i", "resources": resources}]},
    }
    status, said = ask("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
    return "" if status == 201 else str(said["message"])


@settings(
    deadline=None,
    max_examples=150,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(requests=AMOUNTS, limits=AMOUNTS)
def test_rule_of_the_tests_is_the_api_servers_and_what_we_let_pass_is_taken(
    ask: Callable[..., Any], namespace: str, requests: dict[str, Any], limits: dict[str, Any]
) -> None:
    given_ = {"requests": requests, "limits": limits}
    # The API server completes requests from limits before it looks.
    whole = {"requests": limits | requests, "limits": limits}
    said = answer(ask, namespace, given_)
    assert bool(refused_by_kubernetes(whole)) == bool(said), said
    above = any(name in limits and parse(value) > parse(limits[name]) for name, value in requests.items())
    if above or problems(ResourceAmounts.model_validate(given_)):
        return
    spec = Spec.model_validate(
        {"model": {"source": {"persistentVolumeClaim": {"claimName": "m"}}}, "engine": {"resources": given_}}
    )
    for profile in ("vllm-ascend-0.23", "vllm-cpu-0.32"):
        assert answer(ask, namespace, engine_resources(spec, PROFILES[profile])) == ""
