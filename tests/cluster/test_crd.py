"""The resource on a real API server: what it takes, what it refuses and in which words, and how it shows itself."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detinf.api import crd, names

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
STRICT = ("--server-side", "--validate=strict")
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}
HUB = {"repository": "Qwen/Qwen3-8B", "revision": "0123456789abcdef" * 2 + "01234567", "cacheClaimName": "cache"}

Kubectl = Callable[..., str]


def smallest(name: str = "a") -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {"model": {"source": copy.deepcopy(CLAIM)}},
    }


def put(path: str, value: Any) -> dict[str, Any]:
    """Return the smallest resource with one thing changed."""
    resource = smallest()
    *parents, last = path.split(".")
    at = resource
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    return resource


def test_the_definition_is_taken_strictly_and_established(kubectl: Kubectl, definition: str) -> None:
    conditions = json.loads(kubectl("get", definition, "-o", "json"))["status"]["conditions"]
    assert {item["type"]: item["status"] for item in conditions} == {"NamesAccepted": "True", "Established": "True"}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_is_taken_strictly_and_a_second_time_changes_nothing(kubectl: Kubectl, path: Path) -> None:
    first = json.loads(kubectl("apply", *STRICT, "-f", str(path), "-o", "json"))
    second = json.loads(kubectl("apply", *STRICT, "-f", str(path), "-o", "json"))
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert second["metadata"]["generation"] == 1


def test_the_smallest_resource_gets_every_default(kubectl: Kubectl) -> None:
    path = ROOT / "examples" / "minimal.yaml"
    asked = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    assert asked == {"model": {"source": {"persistentVolumeClaim": {"claimName": "models", "path": "Qwen3-8B"}}}}
    stored = json.loads(kubectl("apply", *STRICT, "-f", str(path), "-o", "json"))["spec"]
    assert stored == {
        "promise": "TokensAndLogprobs",
        "model": asked["model"] | {"dtype": "bfloat16", "maxModelLen": 8192},
        "engine": {
            "maxNumSeqs": 32,
            "extraArgs": [],
            "env": [],
            "resources": {"limits": {}, "requests": {}},
            "startupTimeoutSeconds": 3600,
        },
        "parallelism": {"tensor": 1},
        "replicas": 1,
        "topology": {},
        "scheduling": {"resourceName": "huawei.com/Ascend910", "nodeSelector": {}, "tolerations": []},
        "quarantine": {"policy": "Isolate"},
    }


def test_everything_that_the_resource_has_is_taken(kubectl: Kubectl) -> None:
    resource = smallest("whole")
    resource["spec"] = {
        "promise": "Tokens",
        "model": {
            "name": "Qwen/Qwen3-8B",
            "source": {"hostPath": {"path": "/data/models/Qwen3-8B"}},
            "dtype": "float16",
            "maxModelLen": 1_048_576,
        },
        "engine": {
            "profile": "simulated",
            "image": "registry.example:5000/a/b@sha256:" + "0" * 64,
            "maxNumSeqs": 1024,
            "extraArgs": ["--uvicorn-log-level=warning"],
            "env": [{"name": "VLLM_LOGGING_LEVEL", "value": "DEBUG"}],
            "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"cpu": "2.5", "memory": "4Gi"}},
            "startupTimeoutSeconds": 86_400,
        },
        "parallelism": {"tensor": 8},
        "replicas": 256,
        "topology": {
            "chip": "910B4-1",
            "hbmGiB": 64,
            "serverClass": "module-910b-8",
            "driverVersion": "25.5.1",
            "firmwareVersion": "7.8.0.6.201",
        },
        "scheduling": {
            "resourceName": "huawei.com/Ascend910B4-1",
            "nodeSelector": {"kubernetes.io/arch": "arm64", "empty": ""},
            "tolerations": [
                {"operator": "Exists"},
                {"key": "huawei.com/npu", "operator": "Equal", "value": "busy", "effect": "NoSchedule"},
                {"key": "down", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
            ],
            "schedulerName": "volcano",
            "runtimeClassName": "ascend",
            "priorityClassName": "high",
        },
        "quarantine": {"policy": "Report"},
    }
    stored = json.loads(kubectl("apply", *STRICT, "-f", "-", "-o", "json", given=json.dumps(resource)))
    assert stored["spec"] == resource["spec"]


BAD = [
    # Path and value; then what the answer has to name: the field, and the remedy.
    ("spec.model.source", {}, "spec.model.source", "exactly one of persistentVolumeClaim, hostPath"),
    ("spec.model.source", {**CLAIM, "hostPath": {"path": "/a"}}, "spec.model.source", "set one, remove the others"),
    ("spec.model.source", {**CLAIM, "modelScope": HUB}, "spec.model.source", "set one, remove the others"),
    ("spec.model.source", {"huggingFace": HUB, "modelScope": HUB}, "spec.model.source", "exactly one of"),
    (
        "spec.model.source",
        {"huggingFace": HUB | {"revision": "main"}},
        "spec.model.source.huggingFace.revision",
        "must be a full commit, 40 hexadecimal digits",
    ),
    (
        "spec.model.source",
        {"modelScope": HUB | {"revision": "v1.0"}},
        "spec.model.source.modelScope.revision",
        "a branch or a tag moves",
    ),
    (
        "spec.model.source",
        {"huggingFace": HUB | {"repository": "gpt2"}},
        "spec.model.source.huggingFace.repository",
        "must be OWNER/NAME",
    ),
    ("spec.model.source", {"huggingFace": HUB | {"repository": "a/../b"}}, "huggingFace.repository", "OWNER/NAME"),
    ("spec.model.source", {"huggingFace": HUB | {"cacheClaimName": "A b"}}, "cacheClaimName", "lower-case letters"),
    (
        "spec.model.source",
        {"huggingFace": HUB | {"tokenSecretRef": {"name": "hf"}}},
        "spec.model.source.huggingFace.tokenSecretRef.key",
        "Required value",
    ),
    (
        "spec.model.source",
        {"huggingFace": HUB | {"tokenSecretRef": {"name": "hf", "key": "a b"}}},
        "spec.model.source.huggingFace.tokenSecretRef.key",
        "must be a key of the Secret",
    ),
    (
        "spec.model.source",
        {"huggingFace": {key: value for key, value in HUB.items() if key != "cacheClaimName"}},
        "spec.model.source.huggingFace.cacheClaimName",
        "Required value",
    ),
    ("spec.model.source", {"hostPath": {"path": "a/b"}}, "spec.model.source.hostPath.path", "must be the absolute"),
    ("spec.model.source", {"hostPath": {"path": "/a/../b"}}, "spec.model.source.hostPath.path", "without '.', '..'"),
    ("spec.model.source", {"hostPath": {"path": "/"}}, "spec.model.source.hostPath.path", "such as /data/models"),
    ("spec.model.source.persistentVolumeClaim.path", "/a", "persistentVolumeClaim.path", "relative to the claim's"),
    ("spec.model.source.persistentVolumeClaim.path", "a/../../b", "persistentVolumeClaim.path", "without '.', '..'"),
    ("spec.model.source.persistentVolumeClaim.claimName", "My Models", "claimName", "lower-case letters, digits"),
    ("spec.model.dtype", "auto", "spec.model.dtype", '"bfloat16", "float16", "float32"'),
    ("spec.model.name", "-x y", "spec.model.name", "such as qwen3-8b"),
    ("spec.model.maxModelLen", 10, "spec.model.maxModelLen", "greater than or equal to 64"),
    ("spec.engine.maxNumSeqs", 0, "spec.engine.maxNumSeqs", "greater than or equal to 1"),
    ("spec.engine.maxNumSeqs", 2000, "spec.engine.maxNumSeqs", "less than or equal to 1024"),
    ("spec.engine.image", "a b", "spec.engine.image", "without white space"),
    ("spec.engine.env", [{"name": "A-B"}], "spec.engine.env[0].name", "such as VLLM_LOGGING_LEVEL"),
    ("spec.engine.extraArgs", [""], "spec.engine.extraArgs[0]", "at least 1 chars long"),
    ("spec.engine.startupTimeoutSeconds", 5, "spec.engine.startupTimeoutSeconds", "greater than or equal to 30"),
    ("spec.engine.resources.requests", {"memory": "lots"}, "spec.engine.resources.requests", "such as memory: 16Gi"),
    ("spec.engine.resources.limits", {"memory": "-1Gi"}, "spec.engine.resources.limits", "such as memory: 16Gi"),
    (
        "spec.engine.resources",
        {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}},
        "spec.engine.resources.requests",
        "lower the request or raise the limit",
    ),
    (
        "spec.engine.resources.limits",
        {"huawei.com/Ascend910": 8},
        "spec.engine.resources",
        "spec.parallelism.tensor says how many",
    ),
    ("spec.parallelism.tensor", 17, "spec.parallelism.tensor", "less than or equal to 16"),
    ("spec.replicas", -1, "spec.replicas", "greater than or equal to 0"),
    ("spec.topology.serverClass", "card-910b-infer", "spec.topology.serverClass", "use a class such as module-910b-8"),
    ("spec.topology.driverVersion", "25.5.", "spec.topology.driverVersion", "such as 25.5.1"),
    ("spec.scheduling.resourceName", "cpu", "spec.scheduling.resourceName", "such as huawei.com/Ascend910"),
    ("spec.scheduling.resourceName", "huawei.com/Ascend910-2c", "spec.scheduling.resourceName", "must be whole NPUs"),
    ("spec.scheduling.resourceName", "huawei.com/Ascend910-12c.3cpu.32g", "resourceName", "must be whole NPUs"),
    ("spec.scheduling.resourceName", "huawei.com/npu-core", "spec.scheduling.resourceName", "must be whole NPUs"),
    ("spec.scheduling.resourceName", "huawei.com/Ascend910B3-memory", "resourceName", "must be whole NPUs"),
    ("spec.scheduling.nodeSelector", {"a b": "c"}, "spec.scheduling.nodeSelector", "such as kubernetes.io/arch"),
    ("spec.scheduling.nodeSelector", {"a": "b c"}, "spec.scheduling.nodeSelector", "such as kubernetes.io/arch"),
    ("spec.scheduling.tolerations", [{"key": "a", "operator": "Exists", "value": "b"}], "tolerations[0]", "remove the"),
    ("spec.scheduling.tolerations", [{"operator": "Equal"}], "spec.scheduling.tolerations[0]", "name the taint's key"),
    ("spec.scheduling.tolerations", [{"key": "a", "tolerationSeconds": 1}], "tolerations[0]", "set the effect, or"),
    ("spec.promise", "Everything", "spec.promise", '"Tokens", "TokensAndLogprobs"'),
    ("spec.quarantine.policy", "Ignore", "spec.quarantine.policy", '"Isolate", "Report"'),
    ("metadata.name", "a" * 41, "metadata.name", "at most 40 characters"),
    ("metadata.name", "1a", "metadata.name", "a letter first"),
    ("metadata.name", "a.b", "metadata.name", "lower-case letters, digits and '-'"),
    ("spec.modle", {}, "spec.modle", "unknown field"),
    ("spec", {}, "spec.model", "Required value"),
]


@pytest.mark.parametrize(("path", "value", "field", "remedy"), BAD, ids=[f"{n}-{row[0]}" for n, row in enumerate(BAD)])
def test_a_bad_resource_is_refused_with_field_and_remedy(
    kubectl: Kubectl, path: str, value: Any, field: str, remedy: str
) -> None:
    answer = kubectl("create", "--validate=strict", "-f", "-", given=json.dumps(put(path, value)), fails=True)
    assert field in answer
    assert remedy in answer


@pytest.mark.parametrize("name", ["other", None])
def test_a_models_name_that_changes_is_refused(kubectl: Kubectl, name: str | None) -> None:
    resource = put("spec.model.name", "first")
    kubectl("apply", *STRICT, "-f", "-", given=json.dumps(resource))
    resource["spec"]["model"]["name"] = name
    answer = kubectl("replace", "-f", "-", given=json.dumps(resource), fails=True)
    assert "spec.model.name" in answer
    assert "name cannot change" in answer


def test_explain_tells_every_field_of_the_spec(kubectl: Kubectl) -> None:
    kubectl("get", names.PLURAL)  # discovery has the kind from here on
    text = kubectl("explain", f"{names.PLURAL}.spec", "--recursive")
    for name in crd.schema()["properties"]["spec"]["properties"]:
        assert re.search(rf"^\s+{name}\s+<", text, re.MULTILINE), text
    chip = kubectl("explain", f"{names.PLURAL}.spec.topology.chip")
    assert "node label" in chip
    assert "npu-smi" in chip


def test_scale_reads_and_writes_the_replicas(kubectl: Kubectl) -> None:
    kubectl("apply", *STRICT, "-f", "-", given=json.dumps(smallest()))
    status = {"status": {"replicas": 1, "selector": f"{names.LABEL_NAME}=a"}}
    kubectl("patch", names.SINGULAR, "a", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    kubectl("scale", f"{names.SINGULAR}/a", "--current-replicas=1", "--replicas=3")
    scale = json.loads(kubectl("get", names.SINGULAR, "a", "--subresource=scale", "-o", "json"))
    assert scale["spec"]["replicas"] == 3
    assert scale["status"] == {"replicas": 1, "selector": f"{names.LABEL_NAME}=a"}
    assert json.loads(kubectl("get", names.SINGULAR, "a", "-o", "json"))["spec"]["replicas"] == 3


def test_the_status_is_written_through_its_subresource_alone(kubectl: Kubectl) -> None:
    resource = smallest() | {"status": {"url": "http://elsewhere"}}
    stored = json.loads(kubectl("create", "-f", "-", "-o", "json", given=json.dumps(resource)))
    assert "status" not in stored


def test_the_printer_columns_show_the_state(kubectl: Kubectl) -> None:
    resource = put("spec.model.name", "Qwen/Qwen3-8B")
    resource["spec"]["replicas"] = 2
    kubectl("apply", *STRICT, "-f", "-", given=json.dumps(resource))
    condition = {"lastTransitionTime": "2026-11-24T10:00:00Z", "observedGeneration": 1, "message": "m"}
    status = {
        "readyReplicas": 1,
        "model": "Qwen/Qwen3-8B",
        "url": "http://a.ns.svc:8000/v1",
        "revision": "0123456789",
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "Diverged", **condition},
            {"type": "OutputsInvariant", "status": "Unknown", "reason": "Stale", **condition},
        ],
    }
    kubectl("patch", names.SINGULAR, "a", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    head, row = kubectl("get", names.SHORT_NAME).splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "MODEL", "REPLICAS", "READY-REPLICAS", "INVARIANT", "AGE"]
    assert row.split()[:-1] == ["a", "False", "Diverged", "Qwen/Qwen3-8B", "2", "1", "Unknown"]
    head, row = kubectl("get", names.CATEGORY, "-o", "wide").splitlines()
    assert head.split()[-3:] == ["URL", "REVISION", "AGE"]
    assert row.split()[-3:-1] == ["http://a.ns.svc:8000/v1", "0123456789"]


def test_a_condition_of_another_writer_stays(kubectl: Kubectl) -> None:
    kubectl("apply", *STRICT, "-f", "-", given=json.dumps(smallest()))

    def write(manager: str, kind: str) -> None:
        condition = {
            "type": kind,
            "status": "True",
            "reason": "R",
            "message": "m",
            "lastTransitionTime": "2026-11-24T10:00:00Z",
            "observedGeneration": 1,
        }
        manifest = {key: smallest()[key] for key in ("apiVersion", "kind", "metadata")}
        manifest["status"] = {"conditions": [condition]}
        command = ("apply", *STRICT, "--subresource=status", f"--field-manager={manager}", "-f", "-")
        kubectl(*command, given=json.dumps(manifest))

    write("one", "Ready")
    write("two", "SeenByTwo")
    stored = json.loads(kubectl("get", names.SINGULAR, "a", "-o", "json"))
    assert [item["type"] for item in stored["status"]["conditions"]] == ["Ready", "SeenByTwo"]
