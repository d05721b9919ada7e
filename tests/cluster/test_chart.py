"""The chart's values: what the controller would refuse, helm refuses, before anything is changed in a cluster.

A value that Helm takes and the controller does not would end in a controller that cannot start.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from rendered_chart import RefusedError, manifests, settings, template

from detinf.controller.settings import OperatorSettings, SettingsError, parse
from detinf.engines import catalogue

pytestmark = pytest.mark.cluster

FACT = {"field": "spec.promise", "values": ["Tokens"], "reason": "because of it", "remedy": "do it otherwise"}
SOURCE = {"source": "document somewhere | words"}


def site(*profiles: dict[str, Any], **engine: Any) -> dict[str, Any]:
    return {"engine": {"profiles": list(profiles), **engine}}


def at(path: str, value: Any) -> dict[str, Any]:
    """Return values with one thing set."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


SECONDS = [
    "probe.soloIntervalSeconds",
    "probe.widthIntervalSeconds",
    "probe.staleAfterSeconds",
    "probe.gateTimeoutSeconds",
]
MISTAKES = [
    # Values that helm refuses by their form, and their words.
    *((at(path, value), path.rpartition(".")[2]) for path in SECONDS for value in (0, 86_401, "15s", 1.5, None)),
    (at("image.pullPolicy", "Sometimes"), "one of 'Always', 'IfNotPresent', 'Never'"),
    (at("image.pullPolicy", None), "missing property 'pullPolicy'"),
    (at("image.pullSecrets", ["mirror"]), "/image/pullSecrets/0"),
    (at("image.pullSecrets", [{"nam": "mirror"}]), "'nam' not allowed"),
    (at("image.pullSecrets", [{"name": ""}]), "/image/pullSecrets/0/name"),
    (at("image.pullSecrets", None), "missing property 'pullSecrets'"),
    (at("topology.nodeLabels", {"chips": "x"}), "'chips' not allowed"),
    (at("topology.nodeLabels", {"chip": 910}), "/topology/nodeLabels/chip"),
    *(
        (at("models.hostPathPrefixes", [path]), "/models/hostPathPrefixes/0")
        for path in ("data", "/", "//", "/..", "/data/..", "/data/../etc", "/data//x", "/.", "", 7, None)
    ),
    (at("models.hostPathPrefixes", "/data"), "/models/hostPathPrefixes"),
    (at("models.hostPathPrefixes", None), "missing property 'hostPathPrefixes'"),
    (at("engine.defaultProfile", 7), "/engine/defaultProfile"),
    (at("engine.defaultProfile", None), "missing property 'defaultProfile'"),
    (at("engine.images", {"simulated": ""}), "/engine/images/simulated"),
    (at("engine.images", ["simulated"]), "/engine/images"),
    (at("engine.images", None), "missing property 'images'"),
    (at("engine.profiles", {"name": "x"}), "/engine/profiles"),
    (at("engine.profiles", None), "missing property 'profiles'"),
    (site({"inherits": "simulated"}), "missing property 'name'"),
    (site({"name": "A b", "inherits": "simulated"}), "/engine/profiles/0/name"),
    (site({"name": "x", "inherits": "simulated", "imagee": "a"}), "'imagee' not allowed"),
    (site({"name": "x", "inherits": "simulated", "usesDevices": "maybe"}), "/engine/profiles/0/usesDevices"),
    (site({"name": "x", "inherits": "simulated", "gateWidths": 2}), "/engine/profiles/0/gateWidths"),
    (site({"name": "x", "inherits": "simulated", "refused": [FACT]}), "missing property 'source'"),
    (site({"name": "x", "inherits": "simulated", "refused": [FACT | SOURCE | {"why": ""}]}), "'why' not allowed"),
    (site({"name": "x", "inherits": "simulated", "metrics": {"stepz": "a"}}), "'prefixCacheHits'"),
    (site({"name": "x", "inherits": "simulated", "hostPaths": [{"name": "a"}]}), "/engine/profiles/0/hostPaths/0"),
    # What needs two values at once: the templates say it, in the controller's words.
    (at("engine.defaultProfile", "simulatd"), "engine profile 'simulatd' is unknown; there are simulated, vllm-ascend"),
    (at("engine.defaultProfile", "base"), "engine profile 'base' is unknown"),
    (at("engine.images", {"simulatd": "a:1"}), "engine profile 'simulatd' is unknown"),
    (site({"name": "x", "inherits": "nobody"}), "profile x: inherits 'nobody', which is none of base, simulated"),
    (site({"name": "x", "inherits": "x"}), "profile x: inherits"),
    (site({"name": "x", "inherits": "y"}, {"name": "y", "inherits": "x"}), "inherits from itself by way of"),
    (site({"name": "simulated", "abstract": True}, defaultProfile="simulated"), "'simulated' is unknown"),
]
CHART_ALONE = [
    (at("engin.defaultProfile", "simulated"), "'engin' not allowed"),
    (at("probe.interval", 3), "'interval' not allowed"),
    (at("image.controller.repository", ""), "/image/controller/repository"),
    (at("image.probe", {"tag": "", "digest": ""}), "/image/probe"),
    (at("image.probe.digest", "sha256:0"), "/image/probe/digest"),
    (at("topology.nodeLabels", {"driver": None}), "missing property 'driver'"),  # an empty one is meant
    (at("watchNamespace", "A_b"), "/watchNamespace"),
    (at("replicas", -1), "/replicas"),
    (at("admissionPolicy.enabled", "yes"), "/admissionPolicy/enabled"),
]
"""What would not reach the controller."""


def name_of(value: Any) -> str | None:
    return str(value)[:80] if isinstance(value, dict) else None


@pytest.mark.parametrize(("values", "words"), [*MISTAKES, *CHART_ALONE], ids=name_of)
def test_mistake_in_the_values_is_refused_by_helm_with_its_place(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        template(values)
    assert words in str(refused.value)


@pytest.mark.parametrize(("values", "words"), MISTAKES, ids=name_of)
def test_mistake_in_the_values_is_one_that_the_controller_would_not_start_with(
    values: dict[str, Any], words: str
) -> None:
    """Else helm would refuse what is good."""
    assert words
    with pytest.raises((SettingsError, RefusedError)):
        parse(settings(values, "--skip-schema-validation"))


GOOD: list[dict[str, Any]] = [
    {},
    {"global": {"anything": 1}},
    at("image.pullSecrets", [{"name": "mirror"}]),
    at("image.probe", {"repository": "r", "digest": "sha256:" + "0" * 64}),
    at("models.hostPathPrefixes", ["/data", "/a/b.c/", "/.hidden", "/..x", "/with space"]),
    at("topology.nodeLabels", {"chip": "", "serverClass": "", "driver": ""}),
    *(at(path, value) for path in SECONDS for value in (1, 86_400)),
    {"engine": {"defaultProfile": "vllm-cpu-0.32", "images": {"vllm-cpu-0.32": "r.example:5000/a@sha256:x"}}},
    site({"name": "x", "inherits": "simulated", "image": "a:1"}, defaultProfile="x", images={"x": "b:2"}),
    site({"name": "simulated", "inherits": "simulated", "usesDevices": False}),
    site({"name": "vllm-ascend-0.23", "inherits": "vllm-ascend-0.23", "remove": ["spec.model.dtype"]}),
    site({"name": "vllm-ascend-0.23", "inherits": "vllm-ascend-0.23", "refused": [FACT | SOURCE], "image": None}),
    site({"name": "mine", "inherits": "vllm-ascend-0.26rc", "refused": []}),
    site(
        {"name": "part", "abstract": True, "inherits": "vllm-cpu-0.32", "image": "a:1"},
        {"name": "whole", "inherits": "part", "refused": [FACT | SOURCE | {"field": "spec.model.dtype"}]},
        {"name": "vllm-cpu-0.32", "inherits": "simulated", "image": None},
    ),
]


@pytest.mark.parametrize("values", GOOD, ids=name_of)
def test_good_values_are_taken_by_both(values: dict[str, Any]) -> None:
    parse(settings(values))


def test_profile_that_contradicts_itself_is_left_to_the_controllers_start() -> None:
    """No schema can say it; tests/e2e/test_operator.py sees that such a controller ends nobody."""
    flag = {"flag": "--seed", "reason": "somebody asked for it"}
    file = settings(site({"name": "x", "inherits": "simulated", "allowedFlags": [flag]}))
    with pytest.raises(SettingsError, match="--seed is locked too"):
        parse(file)


def test_settings_of_the_values_as_they_come_are_the_controllers_defaults() -> None:
    assert parse(settings({})) == OperatorSettings(probe_image="localhost/detinf/probe:dev")


def literals(values: dict[str, Any]) -> dict[str, Any]:
    """Return what the admission policy knows of the profiles."""
    policy, _ = manifests(values, "--show-only", "templates/admission-policy.yaml")
    variables = {item["name"]: item["expression"] for item in policy["spec"]["variables"]}
    return {name: json.loads(variables[name]) for name in ("known", "withImage", "withNPUs", "refused")}


@pytest.mark.parametrize("values", [item for item in GOOD if "engine" in item], ids=name_of)
def test_profiles_of_the_chart_are_those_of_the_controller(values: dict[str, Any]) -> None:
    """Inherited, replaced and removed facts too: the templates read them as the catalogue does."""
    images = values["engine"].get("images", {})
    profiles = catalogue.with_site(values["engine"].get("profiles", []))
    seen = literals(values)
    assert seen["known"] == sorted(profiles)
    assert seen["withImage"] == sorted(name for name, item in profiles.items() if item.image or name in images)
    assert seen["withNPUs"] == sorted(name for name, item in profiles.items() if item.uses_devices)
    facts = {
        (name, fact.field, fact.values, f"{fact.reason}; {fact.remedy}")
        for name, item in profiles.items()
        for fact in item.refused
    }
    assert {
        (name, fact["field"][0], tuple(fact["values"]), fact["words"][0])
        for fact in seen["refused"]
        for name in fact["profiles"]
    } == facts


def test_profiles_of_this_release_are_those_of_the_code() -> None:
    assert literals({})["known"] == sorted(catalogue.PROFILES)


def test_policy_and_definition_can_be_left_out() -> None:
    kinds = {item["kind"] for item in manifests({"admissionPolicy": {"enabled": False}, "crds": {"enabled": False}})}
    assert kinds == {
        "ServiceAccount",
        *("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
        *("Deployment", "Service"),
    }


def test_one_namespace_to_watch_takes_no_rights_outside_of_it_and_the_operators() -> None:
    values = {"watchNamespace": "models", "topology": {"readNodes": False}}  # places are all over the cluster
    objects = manifests(values, release="r", namespace="operators")
    by_kind = {(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]): item for item in objects}
    assert {key for key in by_kind if "Role" in key[0]} == {
        ("Role", "models", "r"),
        ("RoleBinding", "models", "r"),
        ("Role", "operators", "r-lease"),
        ("RoleBinding", "operators", "r-lease"),
    }
    (rule,) = (rule for rule in by_kind["Role", "operators", "r-lease"]["rules"] if rule["verbs"] != ["create"])
    assert rule["resourceNames"] == ["r"]
    arguments = by_kind["Deployment", "operators", "r"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--namespace=models", "--lease-namespace=operators", "--lease-name=r"} <= set(arguments)
