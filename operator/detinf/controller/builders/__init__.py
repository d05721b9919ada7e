"""From a resource to its children: pure functions, one module per child.

Manifests are built from scratch and never from what was read, so that we own exactly the fields that we mean.
"""

from detinf.controller.builders.children import children_without_plan, desired_children, plan_for
from detinf.controller.builders.delivery import delivery
from detinf.controller.builders.disruption_budget import disruption_budget
from detinf.controller.builders.plan_config_map import plan_config_map
from detinf.controller.builders.probe_settings import probe_settings
from detinf.controller.builders.records import baseline_record, candidate_record, evidence_record, references_record
from detinf.controller.builders.services import pods_service, serving_service, url
from detinf.controller.builders.stateful_set import stateful_sets

__all__ = [
    "baseline_record",
    "candidate_record",
    "children_without_plan",
    "delivery",
    "desired_children",
    "disruption_budget",
    "evidence_record",
    "plan_config_map",
    "plan_for",
    "pods_service",
    "probe_settings",
    "references_record",
    "serving_service",
    "stateful_sets",
    "url",
]
