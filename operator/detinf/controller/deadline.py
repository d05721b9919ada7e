"""How long a change may take without getting any further, as a Deployment's progress deadline.

There is no field for it: an engine may load for ``spec.engine.startupTimeoutSeconds``, and an attempt at the gate may
take the chart's ``gateTimeoutSeconds``; whoever got no further for both together will not.
"""

from __future__ import annotations

from detinf.api.conditions import Reason, Type
from detinf.api.types import Spec
from detinf.controller import pods
from detinf.controller.observed import Observed


def limit_seconds(spec: Spec, gate_timeout_seconds: int) -> int:
    """Return how long nothing may get any further."""
    return spec.engine.startup_timeout_seconds + gate_timeout_seconds


def last_progress(observed: Observed) -> float | None:
    """Return when something got further last, in Unix seconds: a pod came, or became ready; None where nothing did.

    The change itself counts, too: it is when ``Progressing`` became True.
    """
    times = [item["metadata"]["creationTimestamp"] for item in observed.pods]
    times += [pods.condition(item, "Ready").get("lastTransitionTime") for item in observed.pods]
    progressing = next((item for item in observed.conditions if item.get("type") == Type.PROGRESSING), {})
    if progressing.get("status") == "True":
        times.append(progressing.get("lastTransitionTime"))
    elif progressing.get("reason") != Reason.PROGRESS_DEADLINE_EXCEEDED:
        return None  # it begins now
    return max((pods.parse_time(item) for item in times if item), default=None)


def is_overdue(observed: Observed, spec: Spec, *, now: float, gate_timeout_seconds: int) -> bool:
    """Return whether nothing got any further for too long."""
    since = last_progress(observed)
    return since is not None and now - since > limit_seconds(spec, gate_timeout_seconds)
