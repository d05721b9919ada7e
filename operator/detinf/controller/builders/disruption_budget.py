"""The PodDisruptionBudget: a drain takes one replica at a time."""

from __future__ import annotations

from detinf.api import names
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, metadata, name_of


def disruption_budget(resource: Resource) -> Manifest:
    """Return the budget over all of the resource's pods, whatever their revision.

    A pod that is not ready (starting, isolated) may always be evicted: it serves nobody, and would block a drain.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(resource, name_of(resource)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": names.selector(name_of(resource))},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
