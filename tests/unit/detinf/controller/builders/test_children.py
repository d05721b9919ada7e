"""The children of the examples, reviewed as data under ``golden/``.

A change on purpose: run with ``DETINF_WRITE_GOLDEN=1``, read the difference, and commit it with the code.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from detinf.api import names
from detinf.api.types import Spec
from detinf.api.validation import validate
from detinf.cluster.port import Manifest
from detinf.controller import builders
from detinf.controller.settings import OperatorSettings
from detinf.documents import Baseline, Candidate, Evidence, Plan, ProbeSettings, References
from detinf.engines import catalogue
from detinf.engines.plan import revision_of
from detinf.guard import layout
from detinf.guard.plan import Plan as GuardPlan
from detinf.guard.plan import check_command, read_plan
from detinf_sim.cli import parser

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[4]
EXAMPLES = ["minimal", "simulated", "vllm-ascend", "vllm-cpu", "hugging-face", "modelscope"]
DOCUMENTS = ROOT / "tests" / "fixtures" / "documents"
SETTINGS = OperatorSettings(
    probe_image="localhost/detinf/probe:dev",
    default_profile="simulated",
    profile_images={"vllm-cpu-0.32": "localhost/detinf/vllm-cpu:dev"},
    host_path_prefixes=("/var/lib/detinf/models",),
)


def example(name: str) -> Manifest:
    manifest: Manifest = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))
    manifest["metadata"] |= {"namespace": "inference", "uid": "00000000-0000-4000-8000-000000000001"}
    return manifest


def valid(resource: Manifest, settings: OperatorSettings = SETTINGS) -> tuple[Spec, Plan]:
    spec, problems = validate(resource, settings.rules())
    assert problems == []
    assert spec is not None
    return spec, builders.plan_for(spec, settings)


def children(resource: Manifest, settings: OperatorSettings = SETTINGS) -> list[Manifest]:
    spec, plan = valid(resource, settings)
    return builders.desired_children(resource, spec, plan, settings, entries={}, indices=range(spec.replicas))


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = of_kind(manifests, "StatefulSet")[0]["spec"]["template"]["spec"]
    return pod


def containers(pod: Manifest) -> dict[str, Manifest]:
    return {item["name"]: item for item in [*pod["initContainers"], *pod["containers"]]}


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_children_are_the_reviewed_ones(name: str) -> None:
    built = children(example(name))
    golden = HERE / "golden" / f"{name}.yaml"
    if os.environ.get("DETINF_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(yaml.dump_all(built, Dumper=Dumper, sort_keys=False, width=110), encoding="utf-8")
        pytest.fail(f"wrote {golden}: read the difference, and run again without DETINF_WRITE_GOLDEN")
    assert built == list(yaml.safe_load_all(golden.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_child_belongs_to_the_resource_and_is_waited_for_by_who_deletes_it_in_the_foreground(name: str) -> None:
    resource = example(name)
    for child in children(resource):
        metadata = child["metadata"]
        assert metadata["namespace"] == "inference"
        assert names.selector(resource["metadata"]["name"]).items() <= metadata["labels"].items()
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (resource["metadata"]["uid"], True)
        assert owner["blockOwnerDeletion"] is True


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_pod_mounts_is_applied_before_the_pod(name: str) -> None:
    built = children(example(name))
    first_pod = next(place for place, item in enumerate(built) if item["kind"] == "StatefulSet")
    earlier = {item["metadata"]["name"] for item in built[:first_pod] if item["kind"] == "ConfigMap"}
    mounted = {volume["configMap"]["name"] for volume in pod_of(built)["volumes"] if "configMap" in volume}
    assert mounted == earlier
    assert not any(volume["configMap"].get("optional") for volume in pod_of(built)["volumes"] if "configMap" in volume)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_guard_takes_the_command_that_the_pod_gives_it(name: str, tmp_path: Path) -> None:
    built = children(example(name))
    plan_map = next(item for item in of_kind(built, "ConfigMap") if "plan.json" in item["data"])
    path = tmp_path / "plan.json"
    path.write_text(plan_map["data"]["plan.json"], encoding="utf-8")
    plan: GuardPlan = read_plan(path)
    command = containers(pod_of(built))[names.ENGINE_CONTAINER]["command"]
    assert command[: command.index("--")] == ["python3", layout.GUARD_DIR, "--plan", layout.PLAN_PATH]
    check_command(plan, command[command.index("--") + 1 :])


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_simulated_engine_takes_the_command_too(name: str) -> None:
    command = containers(pod_of(children(example(name))))[names.ENGINE_CONTAINER]["command"]
    options = parser().parse_args(command[command.index("vllm") + 1 :])
    assert (options.host, options.port) == ("::", layout.ENGINE_PORT)
    assert options.served_model_name == example(name)["metadata"]["name"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_container_sets_nothing_that_the_plan_pins(name: str) -> None:
    spec, plan = valid(example(name))
    del spec
    engine = containers(pod_of(children(example(name))))[names.ENGINE_CONTAINER]
    pinned = {*plan.environment.set_variables, *plan.environment.unset}
    assert pinned.isdisjoint(item["name"] for item in engine["env"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_pod_is_what_a_restricted_namespace_takes_apart_from_its_host_path(name: str) -> None:
    pod = pod_of(children(example(name)))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in containers(pod).values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    host_paths = [volume for volume in pod["volumes"] if "hostPath" in volume]
    mounts = [mount for item in containers(pod).values() for mount in item["volumeMounts"]]
    assert all(mount["readOnly"] for mount in mounts if mount["name"] in {volume["name"] for volume in host_paths})


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_mount_has_its_volume_and_every_volume_its_mount(name: str) -> None:
    pod = pod_of(children(example(name)))
    mounted = {mount["name"] for item in containers(pod).values() for mount in item["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_probe_reads_attestations_and_writes_its_state_alone() -> None:
    probe = containers(pod_of(children(example("minimal"))))[names.PROBE_CONTAINER]
    writable = {mount["mountPath"] for mount in probe["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {layout.STATE_DIR, "/tmp"}
    assert probe["restartPolicy"] == "Always"
    assert not {"startupProbe", "livenessProbe", "readinessProbe"} & probe.keys()


def test_readiness_sits_on_the_engine_and_asks_the_probe() -> None:
    engine = containers(pod_of(children(example("minimal"))))[names.ENGINE_CONTAINER]
    assert engine["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": layout.PROBE_PORT}
    assert engine["readinessProbe"]["failureThreshold"] == 3
    assert "livenessProbe" not in engine


@pytest.mark.parametrize(("seconds", "attempts"), [(30, 15), (31, 16), (3600, 1800)])
def test_the_engine_gets_all_of_its_time_to_load(seconds: int, attempts: int) -> None:
    resource = example("minimal")
    resource["spec"]["engine"] = {"startupTimeoutSeconds": seconds}
    probe = containers(pod_of(children(resource)))[names.ENGINE_CONTAINER]["startupProbe"]
    assert (probe["failureThreshold"], probe["periodSeconds"]) == (attempts, 2)


def test_a_hubs_model_is_cached_in_its_claim_with_the_token_on_the_engine_alone() -> None:
    built = children(example("hugging-face"))
    pod = pod_of(built)
    claim = next(volume for volume in pod["volumes"] if volume["name"] == "model")
    assert claim == {"name": "model", "persistentVolumeClaim": {"claimName": "model-cache"}}
    mounts = {name: [m for m in item["volumeMounts"] if m["name"] == "model"] for name, item in containers(pod).items()}
    mount = {"name": "model", "mountPath": "/models/huggingface"}
    assert {name: found for name, found in mounts.items() if found} == {names.ENGINE_CONTAINER: [mount]}
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]
    tokens = {
        name: entry["valueFrom"]
        for name, item in containers(pod).items()
        for entry in item.get("env", [])
        if entry["name"] == "HF_TOKEN"
    }
    assert tokens == {names.ENGINE_CONTAINER: {"secretKeyRef": {"name": "hugging-face", "key": "token"}}}
    plan_map = next(item for item in of_kind(built, "ConfigMap") if "plan.json" in item["data"])
    assert not any(word in plan_map["data"]["plan.json"] for word in ("model-cache", "hugging-face", "HF_TOKEN"))


def test_a_public_repository_has_no_token() -> None:
    engine = containers(pod_of(children(example("modelscope"))))[names.ENGINE_CONTAINER]
    variables = {item["name"]: item for item in engine["env"]}
    assert "MODELSCOPE_API_TOKEN" not in variables
    assert variables["MODELSCOPE_CACHE"]["value"] == "/models/modelscope"


def test_a_model_that_is_there_needs_no_group_and_no_token() -> None:
    for name in ("minimal", "simulated"):
        pod = pod_of(children(example(name)))
        assert "fsGroup" not in pod["securityContext"]
        assert not any("secretKeyRef" in str(item) for item in containers(pod).values())


def test_topology_and_devices_reach_plan_scheduler_and_container() -> None:
    resource = example("simulated")
    _, plan = valid(resource)
    pod = pod_of(children(resource))
    assert (plan.topology.devices, plan.topology.chip, plan.topology.link) == (4, "910B3", "HCCS")
    assert pod["nodeSelector"] == {"node.kubernetes.io/npu.chip.name": "910B3", "accelerator-type": "module-910b-8"}
    resources = containers(pod)[names.ENGINE_CONTAINER]["resources"]
    assert resources["limits"] == {"huawei.com/Ascend910": "4"}
    assert resources["requests"]["huawei.com/Ascend910"] == "4"


def test_an_engine_without_devices_asks_for_none_and_adds_the_boot_through_the_middleware() -> None:
    engine = containers(pod_of(children(example("vllm-cpu"))))[names.ENGINE_CONTAINER]
    assert engine["resources"] == {"requests": dict(catalogue.PROFILES["vllm-cpu-0.32"].default_requests)}
    assert engine["command"][-2:] == ["--middleware", "detinf.guard.middleware.RequestFilter"]


def test_scheduling_and_resources_are_taken_over() -> None:
    resource = example("minimal")
    resource["spec"]["scheduling"] = {
        "resourceName": "huawei.com/Ascend910B3",
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "npu", "operator": "Exists", "tolerationSeconds": 5, "effect": "NoExecute"}],
        "schedulerName": "volcano",
        "runtimeClassName": "ascend",
        "priorityClassName": "high",
    }
    resource["spec"]["engine"] = {"resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"memory": "8Gi"}}}
    pod = pod_of(children(resource))
    assert pod["tolerations"] == [{"key": "npu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}]
    assert (pod["schedulerName"], pod["runtimeClassName"], pod["priorityClassName"]) == ("volcano", "ascend", "high")
    assert pod["nodeSelector"] == {"zone": "a"}
    assert containers(pod)[names.ENGINE_CONTAINER]["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi", "huawei.com/Ascend910B3": "1"},
        "limits": {"memory": "8Gi", "huawei.com/Ascend910B3": "1"},
    }


def test_the_labels_of_a_replica_tell_revision_and_runtime_and_start_it_serving() -> None:
    resource = example("simulated")
    _, plan = valid(resource)
    sets = of_kind(children(resource), "StatefulSet")
    assert [item["metadata"]["name"] for item in sets] == ["sim-8b-0", "sim-8b-1"]
    for index, item in enumerate(sets):
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert item["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert labels[names.LABEL_REPLICA] == str(index)
        assert labels[names.LABEL_REVISION] == revision_of(plan)
        assert labels[names.LABEL_SERVING] == "true"
        assert item["metadata"]["labels"][names.LABEL_RUNTIME] == labels[names.LABEL_RUNTIME]


def runtime(resource: Manifest, settings: OperatorSettings) -> tuple[str, str]:
    labels = of_kind(children(resource, settings), "StatefulSet")[0]["metadata"]["labels"]
    return labels[names.LABEL_REVISION], labels[names.LABEL_RUNTIME]


def changed_settings() -> Iterator[OperatorSettings]:
    values = {"probe_image": "probe:2", "image_pull_policy": "Always", "image_pull_secrets": ("mirror",)}
    for name, value in values.items():
        yield OperatorSettings(**{**SETTINGS.__dict__, name: value})


def test_another_probe_image_changes_the_runtime_and_not_the_revision() -> None:
    resource = example("simulated")
    revision, before = runtime(resource, SETTINGS)
    for settings in changed_settings():
        assert runtime(resource, settings)[0] == revision
        assert runtime(resource, settings)[1] != before


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {"profile": "simulated", "resources": {"requests": {"cpu": "3"}}}},
        {"scheduling": {"tolerations": [{"operator": "Exists"}]}},
        {"replicas": 5},
        {"promise": "Tokens"},
    ],
)
def test_what_the_user_changes_beside_the_plan_is_not_taken_for_a_new_runtime(change: dict[str, Any]) -> None:
    resource = example("simulated")
    before = runtime(resource, SETTINGS)
    resource["spec"] |= change
    assert runtime(resource, SETTINGS) == before


def test_the_service_selects_every_pod_and_on_request_one_revision() -> None:
    resource = example("minimal")
    labels = of_kind(children(resource), "StatefulSet")[0]["spec"]["template"]["metadata"]["labels"]
    selector = builders.serving_service(resource)["spec"]["selector"]
    assert selector.items() <= labels.items()
    assert names.LABEL_REVISION not in selector
    pinned = builders.serving_service(resource, revision="0123456789")["spec"]["selector"]
    assert pinned == selector | {names.LABEL_REVISION: "0123456789"}
    assert builders.url(resource) == "http://qwen3-8b.inference.svc:8000/v1"


def test_the_settings_document_says_what_the_resource_asks_for() -> None:
    resource = example("vllm-cpu")
    resource["spec"]["promise"] = "Tokens"
    resource["spec"]["model"]["name"] = "tiny-model"
    resource["spec"]["engine"]["maxNumSeqs"] = 24
    settings_map = next(item for item in children(resource) if "probe-settings.json" in item.get("data", {}))
    document = ProbeSettings.parse(settings_map["data"]["probe-settings.json"])
    assert (document.promise, document.served_model_name) == ("Tokens", "tiny-model")
    assert document.gate.widths == [2, 8, 16, 24]


def test_a_delivery_holds_exactly_the_entries_that_it_is_given() -> None:
    resource = example("minimal")
    manifest = builders.delivery(resource, {"references": "sealed"})
    assert manifest["metadata"]["name"] == names.delivery_name("qwen3-8b")
    assert manifest["data"] == {"references": "sealed"}
    assert "immutable" not in manifest


def test_records_are_immutable_hold_the_bytes_and_are_found_by_their_labels() -> None:
    resource = example("simulated")
    references = References.parse((DOCUMENTS / "references.json").read_bytes())
    baseline = Baseline.parse((DOCUMENTS / "baseline.json").read_bytes())
    candidate = Candidate.parse((DOCUMENTS / "candidate.json").read_bytes())
    evidence = Evidence.parse((DOCUMENTS / "evidence.json").read_bytes())
    records = {
        "references": builders.references_record(resource, references),
        "baseline": builders.baseline_record(resource, baseline),
        "candidate": builders.candidate_record(resource, candidate),
        "evidence": builders.evidence_record(resource, evidence),
    }
    for kind, record in records.items():
        assert record["immutable"] is True
        assert record["metadata"]["labels"][names.LABEL_DOCUMENT] == kind
        assert record["data"] == {f"{kind}.json": (DOCUMENTS / f"{kind}.json").read_text(encoding="utf-8")}
    for kind in ("candidate", "evidence"):
        assert records[kind]["metadata"]["labels"][names.LABEL_BOOT] == candidate.boot
        assert records[kind]["metadata"]["labels"][names.LABEL_REVISION] == candidate.plan_digest[7:17]
    assert records["references"]["metadata"]["name"] == f"sim-8b-references-{references.digest()[7:17]}"


def test_names_of_the_longest_resource_fit_what_they_name() -> None:
    resource = example("simulated")
    resource["metadata"]["name"] = "a" * names.MAX_NAME_LENGTH
    resource["spec"]["replicas"] = 256
    for child in children(resource):
        limit = 253 if child["kind"] in {"ConfigMap", "PodDisruptionBudget"} else 63
        assert len(child["metadata"]["name"]) <= limit
        assert all(len(value) <= 63 for value in child["metadata"]["labels"].values())
        if child["kind"] == "StatefulSet":
            # Kubernetes labels the pod with <name>-<10 characters>, and names it <name>-0.
            assert len(child["metadata"]["name"]) + 11 <= 63


def test_no_replicas_leave_everything_but_the_pods() -> None:
    resource = example("minimal")
    resource["spec"]["replicas"] = 0
    assert [child["kind"] for child in children(resource)] == [
        *["ConfigMap"] * 3,
        *["Service"] * 2,
        "PodDisruptionBudget",
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_engine_works_in_a_folder_that_it_can_write_and_under_a_name_that_its_image_knows(name: str) -> None:
    pod = pod_of(children(example(name)))
    engine, users = containers(pod)[names.ENGINE_CONTAINER], containers(pod)[names.USERS_CONTAINER]
    mounts = {item["mountPath"]: item for item in engine["volumeMounts"]}
    assert not mounts[engine["workingDir"]].get("readOnly")
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert "emptyDir" in volumes[mounts[engine["workingDir"]]["name"]]
    # The init container is of the engine's own image, and writes what is mounted.
    assert users["image"] == engine["image"]
    (written,) = (item for item in users["volumeMounts"] if not item.get("readOnly"))
    assert users["command"][-1] == written["mountPath"]
    for file in ("passwd", "group"):
        assert mounts[f"/etc/{file}"] == {
            "name": written["name"],
            "mountPath": f"/etc/{file}",
            "readOnly": True,
            "subPath": file,
        }
    # It comes behind the probe: that an image cannot be pulled is no reason to have no report.
    order = [item["name"] for item in pod["initContainers"]]
    assert order == [names.GUARD_INSTALL_CONTAINER, names.PROBE_CONTAINER, names.USERS_CONTAINER]
