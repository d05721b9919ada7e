"""Which image a replica runs, as its kubelet tells it: a tag names one image today and another one tomorrow.

Nothing inside a container tells its image, so the guard cannot hold it, and the fingerprint does not know it. The
kubelet tells it in ``status.containerStatuses[].imageID``. The first baseline of a revision pins it, and a replica of
the same revision with another one is another engine, whatever its fingerprint says.

Forms of an imageID, by runtime (kubelet's and CRI's sources): ``REPOSITORY@sha256:<manifest>`` where the image was
pulled; ``sha256:<configuration>`` or the bare digits where it was loaded into the node and has no digest in a registry;
``docker-pullable://`` and ``docker://`` before either (cri-dockerd); empty until the container was started. The digest
alone counts: a mirror has the same image under another name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from detinf.api import names
from detinf.api.types import Spec
from detinf.cluster.port import Manifest
from detinf.controller import pods
from detinf.controller.observed import Replica
from detinf.documents import Baseline
from detinf.guard.canonical import short

DIGEST = re.compile(r"(?:.*@)?(?:[a-z0-9]+:)?([0-9a-f]{64})")
LONGEST = 512
"""Characters of an imageID that are kept; a reference of 255 and a digest are less."""


def image_id(pod: Manifest | None) -> str | None:
    """Return the imageID of the engine's container, as the kubelet tells it; None where it tells none yet."""
    told = None if pod is None else pods.container_status(pod, names.ENGINE_CONTAINER).get("imageID")
    return told[:LONGEST] if isinstance(told, str) and told.strip() else None


def same_image(one: str, other: str) -> bool:
    """Return whether two imageIDs have one digest; what has no digest is compared as it is."""
    return _digest(one) == _digest(other)


def _digest(told: str) -> str:
    plain = told.rpartition("://")[2]
    match = DIGEST.fullmatch(plain)
    return match[1] if match else plain


def is_pinned_by_digest(pod: Manifest) -> bool:
    """Return whether the engine's image is named by its digest, which every runtime verifies."""
    containers = pod.get("spec", {}).get("containers") or []
    image = next((item.get("image", "") for item in containers if item.get("name") == names.ENGINE_CONTAINER), "")
    return "@sha256:" in str(image)


class Pins:
    """By revision, the imageID of the first baseline that knows its own."""

    def __init__(self, baselines: Iterable[Baseline]) -> None:
        """Take the baselines on record, oldest first."""
        self._by_revision: dict[str, str] = {}
        for baseline in baselines:
            self.add(baseline)

    def add(self, baseline: Baseline) -> None:
        """Pin what a baseline was agreed with; the first one of a revision counts."""
        if baseline.plan_digest is not None and baseline.image_id is not None:
            self._by_revision.setdefault(short(baseline.plan_digest), baseline.image_id)

    def of(self, revision: str | None) -> str | None:
        """Return the imageID that a revision is pinned to."""
        return self._by_revision.get(revision or "")

    def differs(self, pod: Manifest | None, revision: str | None) -> bool:
        """Return whether a pod runs another image than its revision is pinned to."""
        pinned, told = self.of(revision), image_id(pod)
        if pod is None or pinned is None or told is None or is_pinned_by_digest(pod):
            return False
        return not same_image(pinned, told)


@dataclass(frozen=True)
class Images:
    """What is said, and done, about replicas that run another image than their revision's first baseline."""

    kept_out: Mapping[int, str] = field(default_factory=dict)
    """Replicas that do not serve for it, and why."""
    reported: Mapping[int, str] = field(default_factory=dict)
    """Replicas that serve with it, since ``spec.topology.drift`` is Warn."""


def images(pins: Pins, spec: Spec, replicas: Sequence[Replica]) -> Images:
    """Return what follows from the images that the replicas run."""
    found = {
        item.index: words(str(pins.of(item.revision)), str(image_id(item.pod)))
        for item in replicas
        if pins.differs(item.pod, item.revision)
    }
    return Images(reported=found) if spec.topology.drift == "Warn" else Images(kept_out=found)


def words(pinned: str, told: str) -> str:
    """Return what differs, with both images, and what to do about it."""
    said = f"its image is {told}, the first baseline of its revision ran {pinned}"
    if ("@" in pinned) != ("@" in told):
        said += " (one was pulled and the other loaded into its node: their digests cannot be compared)"
    plain = pinned.rpartition("://")[2]
    name = plain if "@sha256:" in plain else "NAME@sha256:DIGEST, from a registry"
    return f"{said}; name the image by its digest: spec.engine.image: {name}"
