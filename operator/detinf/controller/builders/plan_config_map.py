"""The plan's ConfigMap: immutable, named by its digest."""

from __future__ import annotations

from detinf.api import names
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, config_map, name_of
from detinf.documents import Plan
from detinf.engines.plan import revision_of
from detinf.guard import layout


def plan_config_map(resource: Resource, plan: Plan) -> Manifest:
    """Return the ConfigMap that guard and probe read the plan from."""
    revision = revision_of(plan)
    return config_map(
        resource,
        names.plan_name(name_of(resource), revision),
        {layout.PLAN_PATH.rpartition("/")[2]: plan.canonical().decode()},
        labels={names.LABEL_DOCUMENT: Plan.KIND, names.LABEL_REVISION: revision},
        immutable=True,
    )
