"""``<name>-baselines``: how references and baselines reach the probes.

It exists before the pods, because a pod's template cannot name a ConfigMap that comes later, and the fingerprint that
a baseline belongs to is only known when the engine has attested.
"""

from __future__ import annotations

from collections.abc import Mapping

from detinf.api import names
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, config_map, name_of


def delivery(resource: Resource, entries: Mapping[str, str]) -> Manifest:
    """Return the delivery ConfigMap.

    Args:
        resource: the owner.
        entries: sealed documents (``documents.seal``) by ``names.REFERENCES_KEY`` and ``names.baseline_key``. All of
            them, always: what is left out is removed.
    """
    return config_map(
        resource,
        names.delivery_name(name_of(resource)),
        entries,
        labels={names.LABEL_DOCUMENT: "baselines"},
        immutable=False,
    )
