"""Carrying out a decision: in order, and only what changes something."""

from __future__ import annotations

from typing import Any

import structlog

from detinf.api import names
from detinf.cluster.port import ClusterApi, ConflictError, ForbiddenError, InvalidError, NamespaceEndsError
from detinf.controller.actions import Apply, Create, Delete
from detinf.controller.decide import Decision
from detinf.controller.events import event
from detinf.controller.observed import Observed
from detinf.controller.status import refused_status

log = structlog.get_logger()


async def carry_out(api: ClusterApi, observed: Observed, decision: Decision, *, now: float, instance: str) -> None:
    """Carry out a decision.

    Events come first: their names are derived from what they say, so that one which is said again is said once, while
    one that came after its cause would be lost with a controller that is killed in between.

    Raises:
        ClusterError: where a request was not carried out; what came before it stays, and the next pass resumes.
    """
    try:
        for notice in decision.notices:
            await api.create(event(observed, notice, now=now, instance=instance))
        try:
            for action in decision.actions:
                await _carry_out(api, action)
        except (InvalidError, ForbiddenError) as error:
            await _tell(api, observed, refused_status(observed, decision.status, error, now=now))
            raise
        await _tell(api, observed, decision.status)
    except NamespaceEndsError as error:
        # What is in a namespace goes in any order: the resource may be the last to go.
        log.info("namespace ends", error=str(error))
    except ConflictError as error:
        # Another object of that name: a re-created namesake. The next pass sees it.
        log.info("conflict", error=str(error))


async def _tell(api: ClusterApi, observed: Observed, status: dict[str, Any] | None) -> None:
    """Write the status; None, or what is there already, is not written."""
    if status is None or status == dict(observed.old_status):
        return
    await api.apply_status(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": observed.name, "namespace": observed.namespace, "uid": observed.uid},
            "status": status,
        }
    )


async def _carry_out(api: ClusterApi, action: Apply | Create | Delete) -> None:
    match action:
        case Apply(manifest):
            log.info("apply", kind=manifest["kind"], name=manifest["metadata"]["name"])
            await api.apply(manifest)
        case Create(manifest):
            log.info("create", kind=manifest["kind"], name=manifest["metadata"]["name"])
            await api.create(manifest)
        case Delete(kind, namespace, name, uid, why):
            log.info("delete", kind=kind.kind, name=name, why=why)
            await api.delete(kind, namespace, name, uid=uid)
