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
    kubectl("apply", *STRICT, "-f", str(path))
    # The second request stores the default of the status, which a create cannot; the controller is there before.
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
        "topology": {"drift": "Strict"},
        "scheduling": {"resourceName": "huawei.com/Ascend910", "nodeSelector": {}, "tolerations": []},
        "probe": {},
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
            "drift": "Warn",
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
        "probe": {"mode": "Observe"},
        "quarantine": {"policy": "Report"},
    }
    stored = json.loads(kubectl("apply", *STRICT, "-f", "-", "-o", "json", given=json.dumps(resource)))
    assert stored["spec"] == resource["spec"]


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
    # Nobody has looked at it yet, and tools that go by the generation know.
    assert stored["status"] == {"observedGeneration": -1}


def test_the_printer_columns_show_the_state(kubectl: Kubectl) -> None:
    resource = put("spec.model.name", "Qwen/Qwen3-8B")
    resource["spec"]["replicas"] = 2
    kubectl("apply", *STRICT, "-f", "-", given=json.dumps(resource))
    condition = {"lastTransitionTime": "2026-11-24T10:00:00Z", "observedGeneration": 1, "message": "m"}
    status = {
        "readyReplicas": 1,
        "mode": "Observe",
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
    assert head.split() == ["NAME", "READY", "REASON", "MODEL", "REPLICAS", "SERVING", "INVARIANT", "MODE", "AGE"]
    assert row.split()[:-1] == ["a", "False", "Diverged", "Qwen/Qwen3-8B", "2", "1", "Unknown", "Observe"]
    head, row = kubectl("get", names.CATEGORY, "-o", "wide").splitlines()
    assert head.split()[-4:] == ["URL", "REVISION", "AGE", "MESSAGE"]
    assert row.split()[-4:-2] == ["http://a.ns.svc:8000/v1", "0123456789"]
    assert row.split()[-1] == "m"


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
