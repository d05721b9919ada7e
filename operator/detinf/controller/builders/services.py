"""The Services: one that users send requests to, and the headless one that governs the StatefulSets."""

from __future__ import annotations

from detinf.api import names
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, metadata, name_of
from detinf.guard import layout


def serving_service(resource: Resource, *, revision: str | None = None) -> Manifest:
    """Return the Service that users send requests to.

    It selects every pod of the resource; readiness decides which of them get requests, so that one judgement holds for
    Services, disruption budgets and StatefulSets alike.

    Args:
        resource: the owner.
        revision: where given, pods of this revision alone (a roll-out that changes outputs).
    """
    pinned = {names.LABEL_REVISION: revision} if revision else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(resource, name_of(resource)),
        "spec": {
            "type": "ClusterIP",
            # Said though it is the default: a hand that sets it sends users to isolated engines.
            "publishNotReadyAddresses": False,
            "selector": names.selector(name_of(resource)) | pinned,
            "ports": [{"name": "http", "port": layout.ENGINE_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def pods_service(resource: Resource) -> Manifest:
    """Return the headless Service: a name for each pod, ready or not."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(resource, names.headless_service_name(name_of(resource))),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.selector(name_of(resource)),
            "ports": [
                {"name": "http", "port": layout.ENGINE_PORT, "targetPort": "http", "protocol": "TCP"},
                {"name": "probe", "port": layout.PROBE_PORT, "targetPort": "probe", "protocol": "TCP"},
            ],
        },
    }


def url(resource: Resource) -> str:
    """Return where to send requests, inside the cluster."""
    return f"http://{name_of(resource)}.{resource['metadata']['namespace']}.svc:{layout.ENGINE_PORT}/v1"
