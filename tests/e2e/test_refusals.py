"""What cannot be right does not serve, and the condition says why in words that help."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from scenario import NAME, Scene

pytestmark = pytest.mark.e2e


def apply(scene: Scene, **topology: Any) -> None:
    manifest = copy.deepcopy(scene.engine.manifest)
    manifest["spec"]["replicas"] = 1
    manifest["spec"]["topology"] |= topology
    scene.kubectl.apply(manifest)


def words(scene: Scene, condition: str, *parts: str) -> str:
    """Wait until a condition is False and says all of this."""

    def said() -> str | None:
        found = scene.kubectl.condition("detinf", NAME, condition)
        message = str(found.get("message", ""))
        return message if found.get("status") == "False" and all(part in message for part in parts) else None

    return scene.story.wait(f"{condition}: {parts}", said, seconds=120)


def test_other_firmware_than_the_plan_is_refused_by_the_guard(without_resource: Scene) -> None:
    apply(without_resource, firmwareVersion="7.9.9")
    words(without_resource, "ReplicasAvailable", "firmware version is '7.8.0.6.201'", "the plan says '7.9.9'")
    assert not without_resource.endpoints()


def test_sick_device_is_refused_by_the_guard(without_resource: Scene, node: Any) -> None:
    facts = node.folder / "npu/usr/local/dcmi/simulated.json"
    healthy = facts.read_text(encoding="utf-8")
    sick = json.loads(healthy) | {"health": {str(index): "Alarm" for index in range(8)}}
    facts.write_text(json.dumps(sick), encoding="utf-8")
    try:
        apply(without_resource)
        words(without_resource, "ReplicasAvailable", "is Alarm", "repair or replace")
    finally:
        facts.write_text(healthy, encoding="utf-8")


def test_chip_that_no_node_has_is_pending_in_the_schedulers_words(without_resource: Scene) -> None:
    apply(without_resource, chip="910B9")
    words(without_resource, "ReplicasAvailable", "Unschedulable", "node affinity/selector")


def test_folder_that_is_not_allowed_is_an_invalid_spec(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"]["model"]["source"] = {"hostPath": {"path": "/etc"}}
    without_resource.kubectl.apply(manifest)
    words(without_resource, "SpecValid", "spec.model.source.hostPath.path", "'/etc'", "models.hostPathPrefixes")
    assert not without_resource.kubectl.items("get", "statefulsets")


def test_model_that_is_not_there_is_refused_by_the_guard(without_resource: Scene) -> None:
    manifest = copy.deepcopy(without_resource.engine.manifest)
    manifest["spec"]["replicas"] = 1
    # A folder of the node that exists and holds no model.
    manifest["spec"]["model"]["source"] = {"hostPath": {"path": "/var/lib/detinf/models"}}
    without_resource.kubectl.apply(manifest)
    words(without_resource, "ReplicasAvailable", "config.json", "spec.model.source")
