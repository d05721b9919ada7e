"""Hardware that is another than the one that was pinned, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detinf.api.types import Spec

DECLARED_AS = {
    "chip": "chip",
    "hbmGiB": "hbm_gi_b",
    "driver": "driver_version",
    "firmware": "firmware_version",
    "link": "server_class",
}
"""Keys of the hardware by the field of ``spec.topology`` that declares them."""
KEYS = (*DECLARED_AS, "instructionSets")
REPORTED_ALONE = ("driver", "firmware")
"""Keys that are no part of the identity where ``spec.topology.drift`` is Warn."""


def differing(spec: Spec, pinned: Mapping[str, Any], seen: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return (what has drifted, what is only reported), each as ``key: old -> new``.

    What ``spec.topology`` declares is no drift: the guard holds the engine against it, and the resource's owner may
    declare something new.

    Args:
        spec: the resource's spec.
        pinned: the hardware of the first baseline.
        seen: the hardware of an engine.
    """
    drifted: list[str] = []
    reported: list[str] = []
    for key in KEYS:
        declared = key in DECLARED_AS and getattr(spec.topology, DECLARED_AS[key]) is not None
        if declared or pinned.get(key) == seen.get(key):
            continue
        words = f"{key}: {pinned.get(key)!r} -> {seen.get(key)!r}"
        alone = spec.topology.drift == "Warn" and key in REPORTED_ALONE
        (reported if alone else drifted).append(words)
    return drifted, reported
