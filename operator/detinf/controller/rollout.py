"""Which replicas exist, and which pod makes way next.

The controller alone replaces pods (the StatefulSets are OnDelete): one at a time, the worst first, and the next only
when all others serve. A pod that does not serve may always be replaced: it would otherwise block its own mending. One
that serves leaves the Service first, and has time to finish what it was asked (``DRAIN_SECONDS``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from detinf.api import names
from detinf.cluster.port import POD, STATEFUL_SET, Manifest
from detinf.controller import pods
from detinf.controller.actions import Action, Delete
from detinf.controller.applied import is_as_wanted
from detinf.controller.observed import Observed, Replica
from detinf.controller.place import no_place, not_read
from detinf.controller.quarantine import DRAIN_SECONDS
from detinf.documents import Phase


@dataclass
class Leaving:
    """Who makes way."""

    draining: set[int] = field(default_factory=set)
    """Replicas whose pods are, or are to be, out of the Service before they are deleted."""
    deletes: list[Action] = field(default_factory=list)


UNREADY_SECONDS = 60
"""So long a pod that has served must have been unready to be replaced as one that does not serve."""


_DIVERGED, _UNREADY, _DRAINS, _SERVES = range(4)


def _worst_first(replica: Replica) -> tuple[int, int]:
    """Return the order in which replicas make way: diverged ones, unready ones, those that drain, those that serve."""
    if replica.evidence is not None or replica.isolated_boot is not None:
        return _DIVERGED, -replica.index
    if replica.leaves:
        return _DRAINS, -replica.index
    return (_SERVES if replica.ready else _UNREADY), -replica.index


def has_served(replica: Replica) -> bool:
    """Return whether a pod's boot has passed its gate, or may have: its probe is not heard, and its engine runs.

    It may be unready for a moment, and comes back by itself.
    """
    if replica.pod is None:
        return False
    if replica.ready or replica.isolated_boot is not None:
        return True
    return replica.started if replica.report is None else replica.report.phase is Phase.PASSED


def _may_go(replica: Replica, now: float) -> bool:
    """Return whether a pod that is unready, and does not leave, is one that does not serve."""
    if replica.pod is None or not has_served(replica):
        return True
    since = pods.unready_since(replica.pod)
    return since is not None and now - since >= UNREADY_SECONDS


def wanted_indices(observed: Observed, replicas: int, revision: str) -> list[int]:
    """Return the indices that are to exist: the best of those that do, and the lowest free ones for what is missing.

    Whose StatefulSet has the wanted revision is on its way, and is not given up for one that serves an older one: that
    stays until the other serves (``surplus``).
    """

    def goodness(replica: Replica) -> tuple[bool, bool, int, int]:
        rank, place = _worst_first(replica)
        wanted = pods.label(replica.stateful_set or {"metadata": {}}, names.LABEL_REVISION) == revision
        # Who drains and who serves are alike here, or the choice would change when somebody begins to drain.
        return rank > _DIVERGED, wanted, min(rank, _DRAINS), place

    best = sorted((item for item in observed.replicas if item.stateful_set is not None), key=goodness, reverse=True)
    kept = [replica.index for replica in best][:replicas]
    free = (index for index in range(replicas + len(kept)) if index not in kept)
    return sorted([*kept, *(next(free) for _ in range(replicas - len(kept)))])


def drained(replica: Replica, now: float) -> bool:
    """Return whether nobody is sent to a replica any more, and those who were had time to be answered."""
    if replica.pod is None or (not replica.ready and not replica.leaves):
        return True
    since = pods.unready_since(replica.pod)
    return replica.leaves and since is not None and now - since >= DRAIN_SECONDS


def _serves(replica: Replica, kept_out: Collection[int]) -> bool:
    """Return whether users are sent to a replica and go on being: its pod is ready, and nothing takes it out."""
    return replica.ready and not replica.leaves and replica.index not in kept_out


def surplus(
    observed: Observed,
    indices: list[int],
    revision: str,
    restart: str | None,
    now: float,
    kept_out: Collection[int] = (),
) -> Leaving:
    """Return the StatefulSets that are not to exist; their pods go with them.

    One that serves stays until those that are kept serve as they are wanted.
    """
    kept = [replica for replica in observed.replicas if replica.index in indices]
    kept_serve = all(_serves(item, kept_out) and not is_old(item, revision, restart) for item in kept)
    kept_serve = kept_serve and len(kept) == len(indices)
    leaving = Leaving()
    for replica in observed.replicas:
        found = replica.stateful_set
        if found is None or replica.index in indices:
            continue
        serves = replica.ready and not replica.leaves
        if serves and not kept_serve and replica.evidence is None:
            continue
        if replica.ready or replica.leaves:
            leaving.draining.add(replica.index)
        if drained(replica, now):
            name, uid = found["metadata"]["name"], pods.uid_of(found)
            leaving.deletes.append(Delete(STATEFUL_SET, observed.namespace, name, uid, "fewer replicas are wanted"))
    return leaving


def keeps_runtime(live: Manifest | None, wanted: Manifest) -> bool:
    """Return whether a StatefulSet is left as it is: the same revision, and another version of our own parts.

    An upgrade of the operator must not restart engines; a restart that somebody asked for brings the new parts.
    """
    if live is None or wanted["kind"] != STATEFUL_SET.kind:
        return False
    same = pods.label(live, names.LABEL_REVISION) == pods.label(wanted, names.LABEL_REVISION)
    asked = _restart_of(live) != _restart_of(wanted)
    return same and not asked and pods.label(live, names.LABEL_RUNTIME) != pods.label(wanted, names.LABEL_RUNTIME)


def _restart_of(stateful_set: Manifest) -> str | None:
    return pods.annotation(stateful_set["spec"]["template"], names.ANNOTATION_RESTART)


def without_place(
    observed: Observed, wanted: Iterable[Manifest], revision: str, restart: str | None
) -> dict[int, str | None]:
    """Return why replicas that serve are left as they are: what would replace them has no place.

    None instead of words where nobody has looked at the nodes yet.

    Args:
        observed: what was gathered.
        wanted: the children at the wanted revision.
        revision: that is wanted.
        restart: the restart that was asked for last.
    """
    sets = {pods.index_of(child): child for child in wanted if child["kind"] == STATEFUL_SET.kind}
    return {
        replica.index: _no_place(observed, replica, sets[replica.index]["spec"]["template"])
        for replica in observed.replicas
        if has_served(replica)
        and replica.index in sets
        # What is no part of the plan replaces no pod, but one that dies comes back with it.
        and (is_old(replica, revision, restart) or not is_as_wanted(observed, sets[replica.index]))
    }


def _no_place(observed: Observed, replica: Replica, template: Manifest) -> str | None:
    """Return why there is no place; an empty text where there is one, None where nobody has looked."""
    if observed.places is None:
        return None
    if observed.places.unread is not None:
        return not_read(observed.places.unread)
    try:
        words = no_place(template, replica.pod, observed.places.nodes, observed.places.pods)
    except ValueError as error:
        return f"a place cannot be told: {error}"
    return words or ""


def is_old(replica: Replica, revision: str, restart: str | None) -> bool:
    """Return whether a replica's pod is to be replaced: another revision, or a restart was asked for since."""
    if replica.pod is None:
        return False
    return replica.revision != revision or (
        restart is not None and pods.annotation(replica.pod, names.ANNOTATION_RESTART) != restart
    )


def replaced_pods(
    observed: Observed,
    indices: list[int],
    revision: str,
    restart: str | None,
    now: float,
    held: Collection[int] = (),
    kept_out: Collection[int] = (),
) -> Leaving:
    """Return the pods that are older than their StatefulSet, as far as they may go now.

    Args:
        observed: what was gathered.
        indices: of the replicas that are to exist.
        revision: that is wanted.
        restart: the restart that was asked for last, None where none was.
        now: Unix seconds.
        held: replicas that stay as they are, since what would replace them has no place.
        kept_out: replicas that do not serve for the image that they run.
    """
    replicas = [replica for replica in observed.replicas if replica.index in indices]
    old = [
        replica
        for replica in replicas
        if is_old(replica, revision, restart)
        and replica.index not in held
        and replica.stateful_set is not None
        and pods.label(replica.stateful_set, names.LABEL_REVISION) == revision
        and (restart is None or _restart_of(replica.stateful_set) == restart)
    ]
    going = [replica for replica in old if replica.leaves or (not replica.ready and _may_go(replica, now))]
    if not going and len(replicas) == len(indices) and all(_serves(item, kept_out) for item in replicas):
        going = sorted(old, key=_worst_first)[:1]
    why = f"revision {revision} is wanted" if restart is None else f"revision {revision}, restarted, is wanted"
    return Leaving(
        draining={replica.index for replica in going if replica.ready or replica.leaves},
        deletes=[
            Delete(POD, observed.namespace, replica.pod["metadata"]["name"], pods.uid_of(replica.pod), why)
            for replica in going
            if replica.pod is not None and drained(replica, now)
        ],
    )
