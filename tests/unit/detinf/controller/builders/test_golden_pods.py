"""Plan and pod of each resource under ``tests/fixtures/resources``, reviewed as data under ``golden/pods``.

A change on purpose: run with ``DETINF_WRITE_GOLDEN=1``, read the difference, and commit it with the code.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from detinf.api.validation import validate
from detinf.controller import builders
from detinf.controller.builders.pod import pod_spec
from detinf.controller.explain import explain
from detinf.controller.settings import OperatorSettings
from detinf.guard.plan import check_command, read_plan

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[4]
RESOURCES = sorted((ROOT / "tests" / "fixtures" / "resources").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
SETTINGS = OperatorSettings(
    probe_image="localhost/detinf/probe:dev",
    default_profile="simulated",
    profile_images={"vllm-cpu-0.32": "localhost/detinf/vllm-cpu:dev"},
    host_path_prefixes=("/var/lib/detinf/models",),
)
each_resource = pytest.mark.parametrize("path", RESOURCES, ids=[path.stem for path in RESOURCES])


class Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def built(path: Path) -> dict[str, Any]:
    resource = yaml.safe_load(path.read_text(encoding="utf-8"))
    resource["metadata"] |= {"namespace": "inference", "uid": "00000000-0000-4000-8000-000000000001"}
    spec, problems = validate(resource, SETTINGS.rules())
    assert problems == []
    assert spec is not None
    plan = builders.plan_for(spec, SETTINGS)
    assert explain(resource, spec, SETTINGS)
    return {"plan": json.loads(plan.canonical()), "pod": pod_spec(resource, spec, plan, SETTINGS)}


def test_there_are_at_least_twenty_and_the_smallest_resource_is_among_them() -> None:
    assert len(RESOURCES) >= 20
    assert "minimal" in {path.stem for path in EXAMPLES}


@each_resource
def test_plan_and_pod_are_the_reviewed_ones(path: Path) -> None:
    golden = HERE / "golden" / "pods" / path.name
    made = built(path)
    if os.environ.get("DETINF_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(yaml.dump(made, Dumper=Dumper, sort_keys=False, width=110), encoding="utf-8")
        pytest.fail(f"wrote {golden}: read the difference, and run again without DETINF_WRITE_GOLDEN")
    assert made == yaml.safe_load(golden.read_text(encoding="utf-8"))


@each_resource
def test_the_guard_takes_plan_and_command(path: Path, tmp_path: Path) -> None:
    made = built(path)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(made["plan"]), encoding="utf-8")
    command = made["pod"]["containers"][0]["command"]
    check_command(read_plan(plan), command[command.index("--") + 1 :])


def test_the_pods_of_two_resources_differ() -> None:
    pods = {path.stem: json.dumps(built(path), sort_keys=True) for path in RESOURCES}
    assert len(set(pods.values())) == len(pods)
