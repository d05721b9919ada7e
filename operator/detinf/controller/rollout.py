"""Which replicas exist, and which pod makes way next.

The controller alone replaces pods (the StatefulSets are OnDelete): one at a time, the worst first, and the next only
when all others serve. A pod that does not serve may always be replaced: it would otherwise block its own mending.
"""

from __future__ import annotations

from detinf.api import names
from detinf.cluster.port import POD, STATEFUL_SET, Manifest
from detinf.controller import pods
from detinf.controller.actions import Action, Delete
from detinf.controller.observed import Observed, Replica


def _worst_first(replica: Replica) -> tuple[bool, bool, int]:
    return (replica.isolated_boot is None, replica.ready, -replica.index)


def wanted_indices(observed: Observed, replicas: int) -> list[int]:
    """Return the indices that are to exist: the best of those that do, and the lowest free ones for what is missing."""
    best = sorted((item for item in observed.replicas if item.stateful_set is not None), key=_worst_first, reverse=True)
    kept = [replica.index for replica in best][:replicas]
    free = (index for index in range(replicas + len(kept)) if index not in kept)
    return sorted([*kept, *(next(free) for _ in range(replicas - len(kept)))])


def surplus(observed: Observed, indices: list[int]) -> list[Action]:
    """Return the deletion of StatefulSets that are not to exist; their pods go with them."""
    return [
        Delete(
            STATEFUL_SET,
            observed.namespace,
            replica.stateful_set["metadata"]["name"],
            pods.uid_of(replica.stateful_set),
            "fewer replicas are wanted",
        )
        for replica in observed.replicas
        if replica.stateful_set is not None and replica.index not in indices
    ]


def keeps_runtime(live: Manifest | None, wanted: Manifest) -> bool:
    """Return whether a StatefulSet is left as it is: the same revision, and another version of our own parts.

    An upgrade of the operator must not restart engines.
    """
    if live is None:
        return False
    same = pods.label(live, names.LABEL_REVISION) == pods.label(wanted, names.LABEL_REVISION)
    return same and pods.label(live, names.LABEL_RUNTIME) != pods.label(wanted, names.LABEL_RUNTIME)


def replaced_pods(observed: Observed, indices: list[int], revision: str) -> list[Action]:
    """Return the deletion of pods that run another revision than their StatefulSet already has."""
    replicas = [replica for replica in observed.replicas if replica.index in indices]
    old = [
        replica
        for replica in replicas
        if replica.pod is not None
        and replica.revision != revision
        and replica.stateful_set is not None
        and pods.label(replica.stateful_set, names.LABEL_REVISION) == revision
    ]
    others_serve = len(replicas) == len(indices) and all(replica.ready for replica in replicas)
    going = [replica for replica in old if not replica.ready]
    if not going and others_serve:
        going = sorted(old, key=_worst_first)[:1]
    return [
        Delete(
            POD,
            observed.namespace,
            replica.pod["metadata"]["name"],
            pods.uid_of(replica.pod),
            f"revision {revision} is wanted",
        )
        for replica in going
        if replica.pod is not None
    ]
