"""The children of the examples on a real API server: taken strictly, and a second time without a write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from detinf.api import names
from detinf.api.validation import validate
from detinf.cluster.port import Manifest
from detinf.controller import builders
from detinf.controller.builders.quantity import canonical_quantity
from detinf.controller.settings import OperatorSettings
from detinf.documents import Baseline, Candidate, Evidence, References, seal

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ROOT / "tests" / "fixtures" / "documents"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
GOLDEN = sorted((ROOT / "tests" / "fixtures" / "resources").glob("*.yaml"))
SETTINGS = OperatorSettings(
    probe_image="localhost/detinf/probe:dev",
    default_profile="simulated",
    profile_images={"vllm-cpu-0.32": "localhost/detinf/vllm-cpu:dev"},
    host_path_prefixes=("/var/lib/detinf/models",),
)
APPLY = ("apply", "--server-side", "--validate=strict", f"--field-manager={names.FIELD_MANAGER}", "-f", "-")

Kubectl = Callable[..., str]


def apply(kubectl: Kubectl, manifest: Manifest) -> Any:
    return json.loads(kubectl(*APPLY, "-o", "json", given=json.dumps(manifest)))


def apply_all(kubectl: Kubectl, manifests: list[Manifest]) -> Any:
    """Apply manifests; return what is stored of each."""
    return apply(kubectl, {"apiVersion": "v1", "kind": "List", "items": manifests})["items"]


def applied_resource(kubectl: Kubectl, path: Path) -> Manifest:
    """Return an example as the API server stored it, defaults and uid included."""
    return dict(apply(kubectl, yaml.safe_load(path.read_text(encoding="utf-8"))))


def missing(stored: Any, wanted: Any, path: str = "") -> list[str]:
    """Return what of a manifest the API server stored otherwise: each would be written again for ever."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        return [found for key in wanted for found in missing(stored.get(key), wanted[key], f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(stored, list) and len(wanted) == len(stored):
        pairs = enumerate(zip(stored, wanted, strict=True))
        return [found for index, pair in pairs for found in missing(*pair, f"{path}[{index}]")]
    # What is False is not stored, and is as it is wanted without.
    same = stored == wanted or (stored is None and wanted is False)
    return [] if same else [f"{path}: {stored!r} is stored for {wanted!r}"]


def children_of(resource: Manifest) -> list[Manifest]:
    spec, problems = validate(resource, SETTINGS.rules())
    assert problems == []
    assert spec is not None
    entries = {names.REFERENCES_KEY: seal((DOCUMENTS / "references.json").read_bytes())}
    plan, indices = builders.plan_for(spec, SETTINGS), range(spec.replicas)
    return builders.desired_children(resource, spec, plan, SETTINGS, entries=entries, indices=indices)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_every_child_is_taken_strictly_and_a_second_time_changes_nothing(kubectl: Kubectl, path: Path) -> None:
    resource = applied_resource(kubectl, path)
    children = children_of(resource)
    kinds = [child["kind"] for child in children]
    assert kinds.count("StatefulSet") == resource["spec"]["replicas"]
    for child, first, second in zip(children, apply_all(kubectl, children), apply_all(kubectl, children), strict=True):
        assert missing(first, child) == []
        # A StatefulSet's status is written by its own controller meanwhile; its spec is ours.
        assert second["metadata"].get("generation") == first["metadata"].get("generation")
        if child["kind"] not in {"StatefulSet", "PodDisruptionBudget"}:
            assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_the_children_of_every_golden_resource_are_applied_strictly(kubectl: Kubectl) -> None:
    assert len(GOLDEN) >= 20
    for path in GOLDEN:
        children = children_of(applied_resource(kubectl, path))
        stored = apply_all(kubectl, children)
        assert [found for pair in zip(stored, children, strict=True) for found in missing(*pair)] == [], path.stem


QUANTITIES = (
    *(0, 1, 2, 1000, 1024, 1_000_000, "0", "0Mi", "0.0", "1", "1.0", "1.5", "0.5", "2.50", "1000", "1024", "100m"),
    *("1000m", "1500m", "1k", "1000k", "1.5k", "999M", "1M", "10G", "1T", "1P", "1E", "1Ki", "1024Ki", "1.5Ki"),
    *("0.5Ki", "0.5Mi", "1.5Gi", "1000Mi", "1024Mi", "4096Mi", "0.1Gi", "1Ti", "1Pi", "1Ei", "0.001", "0.0001"),
)


def test_quantities_are_spelled_as_the_api_server_stores_them(kubectl: Kubectl) -> None:
    spelled = {f"example.org/q{index}": str(value) for index, value in enumerate(QUANTITIES)}
    manifest = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "spelling"},
        "spec": {"hard": {f"requests.{name}": value for name, value in spelled.items()}},
    }
    stored = apply(kubectl, manifest)["spec"]["hard"]
    expected = {name: canonical_quantity(value) for name, value in spelled.items()}
    assert {name: stored[f"requests.{name}"] for name in spelled} == expected


def test_a_resource_with_every_spelling_has_children_that_equal_what_is_stored(kubectl: Kubectl) -> None:
    manifest = yaml.safe_load((ROOT / "examples" / "minimal.yaml").read_text(encoding="utf-8"))
    manifest["spec"]["engine"] = {
        "resources": {
            "requests": {"cpu": "0.50", "memory": "1024Mi", "ephemeral-storage": "1.5Gi"},
            "limits": {"cpu": 2, "memory": "2048Mi"},
        }
    }
    manifest["spec"]["scheduling"] = {
        "nodeSelector": {"zone": ""},
        "tolerations": [{"key": "", "operator": "Exists", "value": "", "effect": "NoExecute", "tolerationSeconds": 0}],
        "schedulerName": "volcano",
        "runtimeClassName": "ascend",
        "priorityClassName": "high",
    }
    children = children_of(dict(apply(kubectl, manifest)))
    assert [
        found for pair in zip(apply_all(kubectl, children), children, strict=True) for found in missing(*pair)
    ] == []


def pod_of(kubectl: Kubectl, path: Path) -> Manifest:
    """Return the pod of an example's first replica, as its StatefulSet would create it."""
    # A pod needs its namespace's service account, which the controller manager creates a moment after the namespace.
    kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    children = children_of(applied_resource(kubectl, path))
    template = next(child for child in children if child["kind"] == "StatefulSet")["spec"]["template"]
    metadata = template["metadata"] | {"name": "tried"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_pod_of_a_replica_is_taken_by_the_api_server(kubectl: Kubectl, path: Path) -> None:
    pod = pod_of(kubectl, path)
    kubectl("create", "--validate=strict", "--dry-run=server", "-f", "-", given=json.dumps(pod))


def test_a_replica_with_a_claim_runs_in_a_restricted_namespace(kubectl: Kubectl, namespace: str) -> None:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    pod = pod_of(kubectl, ROOT / "examples" / "minimal.yaml")
    kubectl("create", "--validate=strict", "--dry-run=server", "-f", "-", given=json.dumps(pod))
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    answer = kubectl("create", "--dry-run=server", "-f", "-", given=json.dumps(pod), fails=True)
    assert "allowPrivilegeEscalation" in answer


def test_records_are_taken_and_never_change(kubectl: Kubectl) -> None:
    resource = applied_resource(kubectl, ROOT / "examples" / "simulated.yaml")
    records = [
        builders.references_record(resource, References.parse((DOCUMENTS / "references.json").read_bytes())),
        builders.baseline_record(resource, Baseline.parse((DOCUMENTS / "baseline.json").read_bytes())),
        builders.candidate_record(resource, Candidate.parse((DOCUMENTS / "candidate.json").read_bytes())),
        builders.evidence_record(resource, Evidence.parse((DOCUMENTS / "evidence.json").read_bytes())),
    ]
    for record in records:
        apply(kubectl, record)
        changed = record | {"data": {"other.json": "{}"}}
        answer = kubectl(*APPLY, given=json.dumps(changed), fails=True)
        assert "field is immutable when `immutable` is set" in answer
