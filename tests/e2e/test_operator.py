"""The operator itself on the real kubelet: what cannot start ends nobody, and each revision keeps its own settings."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from detinf_cluster.build import binary
from detinf_cluster.lifecycle import Cluster
from place import RELEASE
from rendered_chart import CHART
from scenario import MODELS, NAME, Scene

from detinf.controller.settings import parse

pytestmark = pytest.mark.e2e

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/detinf-system/leases/{RELEASE}"
CONTRADICTION = {
    "name": "site",
    "inherits": "simulated",
    "allowedFlags": [{"flag": "--seed", "reason": "somebody asked for it"}],
}
"""What no schema can say of a profile: the flag is one of the plan's own."""
REFUSED = "allowedFlags: --seed is locked too"


@pytest.fixture
def helm(node: Cluster, scene: Scene) -> Callable[..., str]:
    """Run helm on the node's cluster; what it prints."""

    def run(*arguments: str, values: dict[str, Any] | None = None) -> str:
        command = [str(binary("helm")), *arguments, "--namespace", scene.operator.namespace]
        environment = os.environ | {"KUBECONFIG": str(node.kubeconfig)}
        given = json.dumps(values or {})
        done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def works(scene: Scene) -> tuple[str, str]:
    """Return which pod works, and when it last said so."""
    spec = json.loads(scene.operator.get(LEASE) or "{}").get("spec", {})
    return spec.get("holderIdentity", ""), spec["renewTime"]


def words_of_ended(scene: Scene) -> dict[str, str]:
    """Return what a container of each controller said before it ended."""
    return {
        pod["metadata"]["name"]: state["terminated"]["message"]
        for pod in scene.operator.objects("pods", "app.kubernetes.io/name=detinf-controller")
        for status in pod.get("status", {}).get("containerStatuses", [])
        for state in (status.get("state", {}), status.get("lastState", {}))
        if "message" in state.get("terminated", {})
    }


def looked_at(scene: Scene) -> None:
    """Apply a resource without replicas, and wait until somebody has looked at it."""
    manifest = copy.deepcopy(scene.engine.manifest)
    manifest["spec"]["replicas"] = 0
    scene.kubectl.apply(manifest)
    scene.kubectl("wait", "--for=condition=SpecValid", f"detinf/{NAME}", "--timeout=60s", timeout=90)
    scene.kubectl("delete", "detinf", NAME, "--wait=true")


def test_settings_that_a_controller_was_started_with_can_be_read(scene: Scene) -> None:
    text = (CHART.parents[1] / "docs" / "operations" / "operator.md").read_text(encoding="utf-8")
    (command,) = (line for line in text.splitlines() if "jsonpath" in line)
    _, *arguments = shlex.split(command)
    settings = parse(yaml.safe_load(scene.operator.run(*arguments)))
    assert settings.default_profile == scene.engine.name
    assert settings.host_path_prefixes == (MODELS,)


def test_controller_that_refuses_its_settings_ends_nobody_and_the_last_good_one_comes_back(
    without_resource: Scene, helm: Callable[..., str]
) -> None:
    scene = without_resource
    first, when = works(scene)
    installed = json.loads(helm("get", "values", RELEASE, "--output", "json"))["engine"].get("profiles", [])
    profiles = {"engine": {"profiles": [*installed, CONTRADICTION]}}
    helm("upgrade", RELEASE, str(CHART), "--reuse-values", "--values", "-", values=profiles)
    ended = scene.story.wait("the new one to say why not", lambda: words_of_ended(scene) or None, seconds=120)
    assert REFUSED in " ".join(ended.values())
    assert first not in ended
    scene.story.wait("a later renewal", lambda: "yes" if works(scene) > (first, when) else None, seconds=60)
    assert works(scene)[0] == first
    looked_at(scene)
    # A pod of the last good revision that is evicted, or whose node goes: it is made anew, with its own settings.
    scene.operator("delete", "pod", first, "--wait=true", timeout=150)
    scene.story.wait(
        "another of the last good revision to work",
        lambda: "yes" if works(scene)[0] not in {"", first, *words_of_ended(scene)} else None,
        seconds=120,
    )
    looked_at(scene)
    second = works(scene)[0]
    helm("rollback", RELEASE)
    scene.operator("rollout", "status", "deployment", "--timeout=120s", timeout=150)
    scene.story.wait("one to be left", lambda: "yes" if scene.controllers() == 1 else None, seconds=90)
    assert works(scene)[0] == second  # the rollback is the revision that worked all the time
    looked_at(scene)
