"""The StatefulSet of one replica: one pod, which the controller alone replaces.

One StatefulSet for each replica, because a StatefulSet of all of them would choose for itself which pod is replaced
first and which one a smaller number of replicas leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detinf.api import names
from detinf.api.types import Spec
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, metadata, name_of
from detinf.controller.builders.pod import pod_spec
from detinf.controller.settings import OperatorSettings
from detinf.documents import Plan, PlanTopology
from detinf.engines.plan import build_plan, revision_of
from detinf.guard.canonical import digest, short

SAMPLE: Resource = {"metadata": {"name": "sample", "namespace": "sample", "uid": "sample"}}
SAMPLE_SPEC = Spec.model_validate({"model": {"source": {"persistentVolumeClaim": {"claimName": "sample"}}}})


def runtime_of(profile: str, settings: OperatorSettings) -> str:
    """Return the short digest of our own part of a pod: the images of probe and guard, and the shape that we give it.

    It is the digest of the pod that one and the same sample resource gets. What users ask for, such as resources or
    tolerations, is not in it: a new version of the operator must not restart engines, while a change of the resource
    must not be held back.
    """
    plan = build_plan(SAMPLE_SPEC, settings.profiles[profile], "sample", PlanTopology(devices=1))
    return short(digest(pod_spec(SAMPLE, SAMPLE_SPEC, plan, settings)))


def stateful_sets(
    resource: Resource,
    spec: Spec,
    plan: Plan,
    settings: OperatorSettings,
    indices: Iterable[int],
    restart: str | None = None,
) -> list[Manifest]:
    """Return the StatefulSets of these replicas at the plan's revision; their pods differ by their names alone.

    Args:
        resource: the owner.
        spec: its valid spec.
        plan: what the pods run.
        settings: the chart's settings.
        indices: of the replicas.
        restart: the restart that was asked for last (``names.ANNOTATION_RESTART``).
    """
    pod = pod_spec(resource, spec, plan, settings)
    version = {
        names.LABEL_REVISION: revision_of(plan),
        names.LABEL_RUNTIME: runtime_of(plan.profile, settings),
    }
    annotations = {} if restart is None else {"annotations": {names.ANNOTATION_RESTART: restart}}
    return [_stateful_set(resource, pod, version, annotations, index) for index in indices]


def _stateful_set(
    resource: Resource, pod: dict[str, Any], version: dict[str, str], annotations: dict[str, Any], index: int
) -> Manifest:
    name = name_of(resource)
    identity = names.selector(name) | {names.LABEL_REPLICA: str(index)}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(resource, names.replica_name(name, index), {names.LABEL_REPLICA: str(index)} | version),
        "spec": {
            "replicas": 1,
            "serviceName": names.headless_service_name(name),
            "podManagementPolicy": "Parallel",
            # Only the controller replaces a pod, and a pod that waits unready can still take a new revision.
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": identity},
            "template": {
                "metadata": {
                    "labels": names.common_labels(name)
                    | identity
                    | version
                    # Serving does not depend on a living controller: only a finding takes this label away.
                    | {names.LABEL_SERVING: "true"},
                    **annotations,
                },
                "spec": pod,
            },
        },
    }
