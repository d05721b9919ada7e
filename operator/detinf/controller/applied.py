"""Whether a child is as it is wanted: in steady state nothing is applied."""

from __future__ import annotations

from typing import Any

from detinf.api import names
from detinf.cluster.port import Manifest
from detinf.controller.actions import name_of
from detinf.controller.observed import Observed
from detinf.guard.canonical import digest, short

ANNOTATION_APPLIED = f"{names.GROUP}/applied"
"""Digest of what was applied: shows that something we no longer want is still there, which a comparison cannot."""


def is_as_wanted(observed: Observed, child: Manifest) -> bool:
    """Return whether a child of ours is there and has everything that is wanted of it (``marked``)."""
    live = observed.children.get(name_of(child))
    return live is not None and _contains(live, child)


def marked(child: Manifest) -> Manifest:
    """Return a child with the digest of itself."""
    annotations = {ANNOTATION_APPLIED: short(digest(child))}
    return child | {"metadata": child["metadata"] | {"annotations": annotations}}


def _contains(live: Any, wanted: Any) -> bool:
    """Return whether everything wanted is there; what others added may be there too."""
    if isinstance(wanted, dict):
        # The API server leaves out what is False.
        return isinstance(live, dict) and all(_contains(live.get(key, False), wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        same_length = isinstance(live, list) and len(live) == len(wanted)
        return same_length and all(_contains(left, right) for left, right in zip(live, wanted, strict=True))
    return bool(live == wanted)
