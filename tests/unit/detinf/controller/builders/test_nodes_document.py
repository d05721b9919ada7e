"""The site profile and the resource that docs/operations/nodes.md shows do what it says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from detinf.api.validation import validate
from detinf.controller import builders
from detinf.controller.builders.pod import pod_spec
from detinf.controller.settings import OperatorSettings
from detinf.documents import Plan
from detinf.engines.catalogue import with_site

ROOT = Path(__file__).resolve().parents[5]
TEXT = (ROOT / "docs/operations/nodes.md").read_text(encoding="utf-8")
VALUES, RESOURCE = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
OURS = OperatorSettings(probe_image="localhost/detinf/probe:dev", host_path_prefixes=("/var/lib/detinf/models",))
SITE = replace(OURS, profiles=with_site(VALUES["engine"]["profiles"]))


def built(settings: OperatorSettings) -> tuple[Plan, dict[str, Any]]:
    """Return plan and pod of the example, on nodes as the document's."""
    resource = yaml.safe_load((ROOT / "examples/vllm-ascend.yaml").read_text(encoding="utf-8"))
    resource["metadata"] |= {"namespace": "inference", "uid": "00000000-0000-4000-8000-000000000001"}
    resource["spec"]["scheduling"] = resource["spec"].get("scheduling", {}) | RESOURCE["spec"]["scheduling"]
    spec, problems = validate(resource, settings.rules())
    assert spec is not None, problems
    plan = builders.plan_for(spec, settings)
    return plan, pod_spec(resource, spec, plan, settings)


def host_paths(pod: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["hostPath"]["path"] for item in pod["volumes"] if "hostPath" in item}


def test_site_profile_of_the_document_mounts_npu_smi_where_the_nodes_have_it_and_joins_their_group() -> None:
    pod = built(SITE)[1]
    assert pod["securityContext"]["supplementalGroups"] == [1001]
    assert host_paths(pod) == host_paths(built(OURS)[1]) | {"npu-smi": "/usr/local/sbin/npu-smi"}
    mounts = {item["name"]: item["mountPath"] for item in pod["containers"][0]["volumeMounts"]}
    assert mounts["npu-smi"] == "/usr/local/sbin/npu-smi"


def test_resource_of_the_document_asks_for_whole_npus_under_their_other_name() -> None:
    limits = built(SITE)[1]["containers"][0]["resources"]["limits"]
    assert [name for name in limits if name.startswith("huawei.com/")] == ["huawei.com/Ascend910B3"]


def test_another_path_or_group_is_no_other_plan() -> None:
    assert built(SITE)[0] == built(OURS)[0]
