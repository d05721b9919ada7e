"""All children of a resource at the wanted revision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from detinf.api.types import Spec
from detinf.cluster.port import Manifest
from detinf.controller.builders.delivery import delivery
from detinf.controller.builders.disruption_budget import disruption_budget
from detinf.controller.builders.parts import Resource
from detinf.controller.builders.plan_config_map import plan_config_map
from detinf.controller.builders.probe_settings import probe_settings
from detinf.controller.builders.services import pods_service, serving_service
from detinf.controller.builders.stateful_set import stateful_sets
from detinf.controller.settings import OperatorSettings
from detinf.documents import Plan
from detinf.engines import catalogue
from detinf.engines.plan import build_plan
from detinf.topology.expected import expected_topology


def plan_for(spec: Spec, settings: OperatorSettings) -> Plan:
    """Return the plan of a valid spec.

    Raises:
        LookupError: where the profile or the image is missing, which validation would have said.
    """
    choice = catalogue.choose(
        spec, default_profile=settings.default_profile, images=settings.profile_images, profiles=settings.profiles
    )
    topology = expected_topology(spec, uses_devices=choice.profile.uses_devices)
    return build_plan(spec, choice.profile, choice.image, topology)


def desired_children(
    resource: Resource,
    spec: Spec,
    plan: Plan,
    settings: OperatorSettings,
    *,
    entries: Mapping[str, str],
    indices: Iterable[int],
    restart: str | None = None,
    observing: bool = False,
) -> list[Manifest]:
    """Return every child but the records, in the order to apply them: what a pod mounts comes before the pod.

    Args:
        resource: the resource, with name, namespace and uid.
        spec: its valid spec.
        plan: the plan that every replica is to run (``plan_for``).
        settings: the chart's settings.
        entries: the content of the delivery ConfigMap.
        indices: of the replicas that are to exist.
        restart: the restart that was asked for last.
        observing: whether divergences are only reported.
    """
    return [
        plan_config_map(resource, plan),
        probe_settings(resource, spec, plan, settings, observing=observing),
        *children_without_plan(resource, entries=entries),
        *stateful_sets(resource, spec, plan, settings, indices, restart),
    ]


def children_without_plan(resource: Resource, *, entries: Mapping[str, str]) -> list[Manifest]:
    """Return the children that are the same whatever the spec says."""
    return [
        delivery(resource, entries),
        serving_service(resource),
        pods_service(resource),
        disruption_budget(resource),
    ]
