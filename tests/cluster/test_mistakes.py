"""Mistakes that people make in a resource, and the words they get.

Each twice: from the real API server under strict validation, and from the controller where an older schema let it in.
The controller says the same, or its own words; ``LATER`` marks what it carries out all the same, because the API server
refuses a child of it in its own words (tests/cluster/test_trouble.py), or because it does no harm.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detinf.api import crd, names
from detinf.controller.actions import Outcome
from detinf.controller.decide import decide
from detinf.controller.observed import Observed
from detinf.controller.settings import OperatorSettings

Ask = Callable[..., tuple[int, dict[str, Any]]]
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}
HOST = {"hostPath": {"path": "/data/m"}}
HUB = {"repository": "Qwen/Qwen3-8B", "revision": "0123456789abcdef" * 2 + "01234567", "cacheClaimName": "cache"}
NO_CACHE = {key: value for key, value in HUB.items() if key != "cacheClaimName"}
TOKEN = {"tokenSecretRef": {"name": "hf"}}
BAD_KEY = {"tokenSecretRef": {"name": "hf", "key": "a b"}}
SETTINGS = OperatorSettings(probe_image="probe:1", default_profile="simulated", host_path_prefixes=("/data",))
LATER = None
SAME = "the same words"
SOURCE, ENGINE, SCHEDULING, TOPOLOGY = "spec.model.source", "spec.engine", "spec.scheduling", "spec.topology"
RESOURCES, CLAIM_PATH = "spec.engine.resources", "spec.model.source.persistentVolumeClaim"
TOLERATION = "spec.scheduling.tolerations[0]"


@dataclass(frozen=True)
class Mistake:
    """One thing set wrong in the smallest resource."""

    path: str
    value: Any
    field: str
    """What both answers name."""
    words: str
    """What the API server's answer says."""
    past: str | None = SAME
    """What the controller says of a resource that an older schema let in."""


MISTAKES = [
    # Where the model is.
    Mistake(SOURCE, {}, SOURCE, "exactly one of persistentVolumeClaim, hostPath", "set exactly one of"),
    Mistake(SOURCE, {**CLAIM, **HOST}, SOURCE, "set one, remove the others", "set exactly one of"),
    Mistake(SOURCE, {**CLAIM, "modelScope": HUB}, SOURCE, "set one, remove the others", "set exactly one of"),
    Mistake(SOURCE, {"huggingFace": HUB, "modelScope": HUB}, SOURCE, "exactly one of", "set exactly one of"),
    Mistake(SOURCE, {"huggingFace": HUB | {"revision": "main"}}, f"{SOURCE}.huggingFace.revision", "full commit"),
    Mistake(SOURCE, {"modelScope": HUB | {"revision": "v1.0"}}, f"{SOURCE}.modelScope.revision", "a full commit"),
    Mistake(SOURCE, {"huggingFace": HUB | {"repository": "gpt2"}}, f"{SOURCE}.huggingFace.repository", "OWNER/NAME"),
    Mistake(SOURCE, {"huggingFace": HUB | {"repository": "a/../b"}}, "huggingFace.repository", "OWNER/NAME"),
    Mistake(SOURCE, {"huggingFace": HUB | {"cacheClaimName": "A b"}}, "cacheClaimName", "lower-case letters"),
    Mistake(SOURCE, {"huggingFace": {**HUB, **TOKEN}}, "tokenSecretRef.key", "Required value", "is missing: add it"),
    Mistake(SOURCE, {"huggingFace": {**HUB, **BAD_KEY}}, "tokenSecretRef.key", "must be a key of the Secret"),
    Mistake(SOURCE, {"huggingFace": NO_CACHE}, "cacheClaimName", "Required value", "is missing: add it"),
    Mistake(SOURCE, None, SOURCE, "Required value", "is missing: add it"),
    Mistake(SOURCE, "models/Qwen3-8B", SOURCE, "must be of type object", "use a map"),
    Mistake(SOURCE, {"hostPath": {}}, f"{SOURCE}.hostPath.path", "Required value", "is missing: add it"),
    Mistake(
        SOURCE,
        {"hostPath": {"path": "a/b"}},
        f"{SOURCE}.hostPath.path",
        "must be the absolute path",
        "an absolute path",
    ),
    Mistake(
        SOURCE,
        {"hostPath": {"path": "/a/../b"}},
        f"{SOURCE}.hostPath.path",
        "without '.', '..'",
        "without '.' and '..'",
    ),
    Mistake(
        SOURCE, {"hostPath": {"path": "/"}}, f"{SOURCE}.hostPath.path", "such as /data/models", "an allowed prefix"
    ),
    Mistake(
        SOURCE, {"hostPath": {"path": "/data:/etc"}}, f"{SOURCE}.hostPath.path", "'//' or ':'", "an allowed prefix"
    ),
    Mistake(f"{CLAIM_PATH}.path", "/a", f"{CLAIM_PATH}.path", "relative to the claim's root"),
    Mistake(f"{CLAIM_PATH}.path", "a/../../b", f"{CLAIM_PATH}.path", "without '.', '..'"),
    Mistake(f"{CLAIM_PATH}.claimName", "My Models", f"{CLAIM_PATH}.claimName", "lower-case letters, digits"),
    Mistake(f"{CLAIM_PATH}.claimName", "", f"{CLAIM_PATH}.claimName", "at least 1 chars", "at least 1 character"),
    Mistake(CLAIM_PATH, {"path": "m"}, f"{CLAIM_PATH}.claimName", "Required value", "is missing: add it"),
    Mistake(f"{CLAIM_PATH}.claim", "models", f"{CLAIM_PATH}.claim", "unknown field", LATER),
    # What is served.
    Mistake("spec.model.dtype", "auto", "spec.model.dtype", '"bfloat16", "float16", "float32"', "one of 'bfloat16'"),
    Mistake("spec.model.dtype", "bf16", "spec.model.dtype", 'Unsupported value: "bf16"', "one of 'bfloat16'"),
    Mistake("spec.model.name", "-x y", "spec.model.name", "such as qwen3-8b"),
    Mistake("spec.model.name", "a" * 129, "spec.model.name", "may not be more than 128", "at most 128 characters"),
    Mistake("spec.model.name", 3, "spec.model.name", "must be of type string", "a text; quote it"),
    Mistake("spec.model.maxModelLen", 10, "spec.model.maxModelLen", "greater than or equal to 64", "use 64 or more"),
    Mistake("spec.model.maxModelLen", "8k", "spec.model.maxModelLen", "must be of type integer", "use a whole number"),
    Mistake("spec.model.maxModelLen", 8192.5, "spec.model.maxModelLen", "must be of type integer", "a whole number"),
    Mistake("spec.model", {}, SOURCE, "Required value", "is missing: add it"),
    Mistake("spec", {}, "spec.model", "Required value", "is missing: add it"),
    Mistake("spec.modle", {}, "spec.modle", "unknown field", LATER),
    # How the engine runs.
    Mistake(f"{ENGINE}.profile", "", f"{ENGINE}.profile", "at least 1 chars", "at least 1 character"),
    Mistake(f"{ENGINE}.maxNumSeqs", 0, f"{ENGINE}.maxNumSeqs", "greater than or equal to 1", "use 1 or more"),
    Mistake(f"{ENGINE}.maxNumSeqs", 2000, f"{ENGINE}.maxNumSeqs", "less than or equal to 1024", "use 1024 or less"),
    Mistake(f"{ENGINE}.image", "a b", f"{ENGINE}.image", "without white space"),
    Mistake(f"{ENGINE}.env", [{"name": "A-B"}], f"{ENGINE}.env[0].name", "such as VLLM_LOGGING_LEVEL", "does not know"),
    Mistake(f"{ENGINE}.env", {"A": "b"}, f"{ENGINE}.env", "unknown field", "use a list"),
    Mistake(f"{ENGINE}.env", [{"name": "A", "value": 1}], f"{ENGINE}.env[0].value", "of type string", "quote it"),
    Mistake(f"{ENGINE}.extraArgs", [""], f"{ENGINE}.extraArgs[0]", "at least 1 chars", "at least 1 character"),
    Mistake(f"{ENGINE}.extraArgs", "--seed=1", f"{ENGINE}.extraArgs", "must be of type array", "use a list"),
    Mistake(f"{ENGINE}.image", ["a"], f"{ENGINE}.image", "must be of type string", "a text"),
    Mistake(f"{ENGINE}.startupTimeoutSeconds", 5, f"{ENGINE}.startupTimeoutSeconds", "equal to 30", "use 30 or more"),
    Mistake(
        f"{RESOURCES}.requests",
        {"memory": "lots"},
        f"{RESOURCES}.requests",
        "such as memory: 16Gi",
        "a quantity, such as 16Gi",
    ),
    Mistake(
        f"{RESOURCES}.limits",
        {"memory": "-1Gi"},
        f"{RESOURCES}.limits",
        "such as memory: 16Gi",
        "a quantity, such as 16Gi",
    ),
    Mistake(
        f"{RESOURCES}.limits",
        {"memory": "16 GB"},
        f"{RESOURCES}.limits",
        "such as memory: 16Gi",
        "a quantity, such as 16Gi",
    ),
    Mistake(f"{RESOURCES}.limits", ["16Gi"], f"{RESOURCES}.limits", "must be of type object", "use a map"),
    Mistake(
        RESOURCES,
        {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}},
        f"{RESOURCES}.requests",
        "lower the request or raise the limit",
        LATER,
    ),
    Mistake(
        f"{RESOURCES}.limits",
        {"huawei.com/Ascend910": 8},
        RESOURCES,
        "spec.parallelism.tensor says how many",
        LATER,
    ),
    # How many, and on what.
    Mistake("spec.parallelism.tensor", 17, "spec.parallelism.tensor", "less than or equal to 16", "use 16 or less"),
    Mistake("spec.parallelism.tensor", 0, "spec.parallelism.tensor", "greater than or equal to 1", "use 1 or more"),
    Mistake("spec.parallelism.pipeline", 2, "spec.parallelism.pipeline", "unknown field", LATER),
    Mistake("spec.parallelism", 8, "spec.parallelism", "must be of type object", "use a map"),
    Mistake("spec.replicas", -1, "spec.replicas", "greater than or equal to 0", "use 0 or more"),
    Mistake("spec.replicas", 257, "spec.replicas", "less than or equal to 256", "use 256 or less"),
    Mistake("spec.replicas", "two", "spec.replicas", "must be of type integer", "use a whole number"),
    Mistake(
        "spec",
        {"model": {"source": CLAIM}, "topology": {"serverClass": "module-910b-8"}, "parallelism": {"tensor": 16}},
        "spec.parallelism.tensor",
        "such a node has 8 NPUs",
        "8 NPUs",
    ),
    Mistake(f"{TOPOLOGY}.serverClass", "card-910b-infer", f"{TOPOLOGY}.serverClass", "such as module-910b-8"),
    Mistake(f"{TOPOLOGY}.serverClass", "8 NPUs", f"{TOPOLOGY}.serverClass", "the node label accelerator-type"),
    Mistake(f"{TOPOLOGY}.driverVersion", "25.5.", f"{TOPOLOGY}.driverVersion", "such as 25.5.1"),
    Mistake(f"{TOPOLOGY}.driverVersion", 25.5, f"{TOPOLOGY}.driverVersion", "must be of type string", "quote it"),
    Mistake(f"{TOPOLOGY}.firmwareVersion", "v 7", f"{TOPOLOGY}.firmwareVersion", "such as 7.8.0.6.201"),
    Mistake(f"{TOPOLOGY}.chip", "910B3 ", f"{TOPOLOGY}.chip", "as npu-smi prints it"),
    Mistake(f"{TOPOLOGY}.hbmGiB", "64Gi", f"{TOPOLOGY}.hbmGiB", "must be of type integer", "use a whole number"),
    # Where it runs.
    Mistake(f"{SCHEDULING}.resourceName", "cpu", f"{SCHEDULING}.resourceName", "such as huawei.com/Ascend910"),
    Mistake(f"{SCHEDULING}.resourceName", "huawei.com/Ascend910-2c", "resourceName", "must be whole NPUs"),
    Mistake(f"{SCHEDULING}.resourceName", "huawei.com/Ascend910-12c.3cpu.32g", "resourceName", "must be whole NPUs"),
    Mistake(f"{SCHEDULING}.resourceName", "huawei.com/npu-core", "resourceName", "must be whole NPUs"),
    Mistake(f"{SCHEDULING}.resourceName", "huawei.com/Ascend910B3-memory", "resourceName", "must be whole NPUs"),
    Mistake(f"{SCHEDULING}.nodeSelector", {"a b": "c"}, f"{SCHEDULING}.nodeSelector", "kubernetes.io/arch", LATER),
    Mistake(f"{SCHEDULING}.nodeSelector", {"a": "b c"}, f"{SCHEDULING}.nodeSelector", "kubernetes.io/arch", LATER),
    Mistake(f"{SCHEDULING}.nodeSelector", {"a": True}, f"{SCHEDULING}.nodeSelector", "must be of type string", "quote"),
    Mistake(f"{SCHEDULING}.nodeSelector", ["a=b"], f"{SCHEDULING}.nodeSelector", "must be of type object", "a map"),
    Mistake(
        f"{SCHEDULING}.tolerations",
        [{"key": "a", "operator": "Exists", "value": "b"}],
        TOLERATION,
        "remove the value, or use operator Equal",
        LATER,
    ),
    Mistake(f"{SCHEDULING}.tolerations", [{"operator": "Equal"}], TOLERATION, "name the taint's key", LATER),
    Mistake(f"{SCHEDULING}.tolerations", [{"key": "a", "tolerationSeconds": 1}], TOLERATION, "set the effect", LATER),
    Mistake(f"{SCHEDULING}.tolerations", [{"key": "a b"}], f"{TOLERATION}.key", "such as example.org/npu"),
    Mistake(
        f"{SCHEDULING}.tolerations", [{"key": "a", "effect": "No"}], f"{TOLERATION}.effect", '"NoExecute"', "one of"
    ),
    Mistake(f"{SCHEDULING}.tolerations", {"key": "a"}, f"{SCHEDULING}.tolerations", "unknown field", "a list"),
    # What is promised.
    Mistake("spec.promise", "Everything", "spec.promise", '"Tokens", "TokensAndLogprobs"', "one of 'Tokens'"),
    Mistake("spec.quarantine.policy", "Ignore", "spec.quarantine.policy", '"Isolate", "Report"', "one of 'Isolate'"),
    Mistake("spec.quarantine", "Isolate", "spec.quarantine", "must be of type object", "use a map"),
    # Its name.
    Mistake("metadata.name", "a" * 41, "metadata.name", "at most 40 characters", "create it anew"),
    Mistake("metadata.name", "1a", "metadata.name", "a letter first", "create it anew"),
    Mistake("metadata.name", "a-0-pods", "metadata.name", "not end in -pods", "create it anew"),
    Mistake("metadata.name", "a.b", "metadata.name", "lower-case letters, digits and '-'", "create it anew"),
]


def resource(path: str = "metadata.name", value: Any = "a") -> dict[str, Any]:
    """Return the smallest resource with one thing changed."""
    manifest: dict[str, Any] = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "a"},
        "spec": {"model": {"source": copy.deepcopy(CLAIM)}},
    }
    *parents, last = path.split(".")
    at = manifest
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    return manifest


def name_of(mistake: Mistake) -> str:
    return f"{mistake.path.removeprefix('spec.')}={json.dumps(mistake.value)}"


def test_table_has_no_row_twice_and_enough_of_them() -> None:
    assert len({name_of(mistake) for mistake in MISTAKES}) == len(MISTAKES) >= 40


@pytest.mark.cluster
@pytest.mark.parametrize("mistake", MISTAKES, ids=name_of)
def test_mistake_is_refused_with_field_and_remedy(ask: Ask, definition: str, mistake: Mistake) -> None:
    """What kubectl prints behind its own ``Error from server``; ``--validate=strict`` is its default, too."""
    assert definition
    path = f"/apis/{names.API_VERSION}/namespaces/default/{names.PLURAL}?fieldValidation=Strict"
    status, answer = ask("POST", path, resource(mistake.path, mistake.value))
    assert status in {400, 422}, answer
    assert mistake.field in answer["message"]
    assert mistake.words in answer["message"]


def decided(manifest: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], bool]:
    """Decide until nothing changes; return the conditions, and whether the spec is to be carried out."""
    manifest["metadata"] |= {"namespace": "ns", "uid": "u", "generation": 1}
    first = decide(Observed(manifest), SETTINGS, 1_800_000_000.0)
    status, _ = first.tell(Outcome())
    assert status is not None
    again = decide(Observed(manifest | {"status": status}), SETTINGS, 1_800_000_100.0)
    assert again.tell(Outcome()) == (None, [])
    assert (again.first, again.records, again.then) == (first.first, first.records, first.then)
    assert (first.requeue_seconds is None) == (not first.then)
    return {item["type"]: item for item in status["conditions"]}, bool(first.then)


@pytest.mark.parametrize("mistake", MISTAKES, ids=name_of)
def test_mistake_that_an_older_schema_let_in_is_told_once_and_left_alone(mistake: Mistake) -> None:
    conditions, carried_out = decided(resource(mistake.path, copy.deepcopy(mistake.value)))
    if mistake.past is LATER:
        assert carried_out
        assert conditions["SpecValid"]["status"] == "True"
        return
    assert not carried_out
    assert conditions["SpecValid"]["status"] == conditions["Ready"]["status"] == "False"
    message = conditions["SpecValid"]["message"]
    assert mistake.field in message
    assert (mistake.words if mistake.past is SAME else mistake.past) in message
    assert "pydantic" not in message
    assert "Input should" not in message


OWN = [
    # What no schema can know: the resource, and the sentence.
    (
        resource("spec.engine.profile", "vllm-ascend-9.9"),
        "spec.engine.profile is 'vllm-ascend-9.9': this release cannot attest that engine; use one of ",
    ),
    (resource("spec.engine.profile", "vllm-cpu-0.32"), "spec.engine.image is not set: profile vllm-cpu-0.32 has no"),
    (
        resource("spec.model.source", {"hostPath": {"path": "/etc"}}),
        "spec.model.source.hostPath.path is '/etc': use a folder under an allowed prefix (/data)",
    ),
    (
        resource("spec.engine", {"profile": "vllm-cpu-0.32", "image": "i"}) | {},
        None,
    ),
    (
        resource(
            "spec",
            {
                "model": {"source": CLAIM},
                "engine": {"profile": "vllm-cpu-0.32", "image": "i"},
                "parallelism": {"tensor": 2},
                "topology": {"chip": "910B3"},
            },
        ),
        "spec.parallelism.tensor is 2: profile vllm-cpu-0.32 uses no NPUs; use 1; spec.topology.chip is '910B3'",
    ),
]


@pytest.mark.parametrize(("manifest", "sentence"), OWN)
def test_mistake_that_no_schema_can_know_is_told_by_the_controller(
    manifest: dict[str, Any], sentence: str | None
) -> None:
    conditions, carried_out = decided(copy.deepcopy(manifest))
    assert carried_out == (sentence is None)
    if sentence is not None:
        assert sentence in conditions["SpecValid"]["message"]
        assert conditions["Stalled"]["reason"] == "InvalidSpec"


@pytest.mark.parametrize("spec", [None, "text", 7, [], {"model": None}, {"model": []}, {"model": {"source": [CLAIM]}}])
def test_spec_of_another_shape_is_told_and_no_exception(spec: Any) -> None:
    conditions, carried_out = decided(resource("spec", spec))
    assert not carried_out
    assert "apply again" in conditions["SpecValid"]["message"]


def test_several_mistakes_are_told_at_once() -> None:
    manifest = resource("spec.replicas", -1)
    manifest["spec"] |= {"promise": "All", "engine": {"maxNumSeqs": "x"}}
    message = decided(manifest)[0]["SpecValid"]["message"]
    assert [
        field for field in ("spec.replicas", "spec.promise", "spec.engine.maxNumSeqs") if field not in message
    ] == []


def paths(schema: dict[str, Any], path: str) -> list[str]:
    """Return the path of every field of a part."""
    found = [path]
    for name, item in schema.get("properties", {}).items():
        found += paths(item, f"{path}.{name}")
    return found


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(path=st.sampled_from(paths(crd.schema()["properties"]["spec"], "spec")), value=VALUES)
def test_anything_in_any_field_is_decided_on_and_never_an_exception(path: str, value: Any) -> None:
    decided(resource(path, value))
