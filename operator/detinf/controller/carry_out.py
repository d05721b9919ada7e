"""Carrying out a decision: each action on its own, what protects users first, and a status of what was done."""

from __future__ import annotations

from typing import Any

import structlog

from detinf.api import names
from detinf.cluster.port import (
    KINDS,
    ClusterApi,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    Manifest,
    NamespaceEndsError,
    TakenError,
)
from detinf.controller import pods
from detinf.controller.actions import Action, Apply, Create, Delete, Notice, Outcome, Undone
from detinf.controller.decide import Decision
from detinf.controller.events import event
from detinf.controller.observed import Observed
from detinf.controller.retries import Retries

log = structlog.get_logger()


async def carry_out(
    api: ClusterApi, observed: Observed, decision: Decision, *, now: float, instance: str, retries: Retries
) -> Outcome:
    """Carry out a decision; return what became of it.

    Who leaves the Service comes first: no request that takes its time comes before it. An action that fails holds back
    those alone that name it (``after``). The status is made of what was done.

    Events come before what makes the next pass silent about them: what was found before its record, what changed before
    the status. Their names are derived from what they say, so that one which is said again is said once, while one that
    came later would be lost with a controller that is killed in between.

    Raises:
        ClusterError: where the status could not be written; the next pass resumes.
    """
    outcome = Outcome()
    key = (observed.namespace, observed.name)
    # A stranger that is in the way counts, too: when it is gone there is nothing to wait for, or to tell.
    there = {(item["kind"], item["metadata"]["name"]): item for item in observed.strangers} | dict(observed.children)
    try:
        for action in decision.first:
            await _try(api, observed, action, outcome)
        if any(retries.held(key, action, there.get(action.about)) is None for action in decision.records):
            await _say(api, observed, decision.seen, now=now, instance=instance)
        for action in (*decision.records, *decision.then):
            live = there.get(action.about)
            held = retries.held(key, action, live)
            if held is not None and held.owner is not None and not await _is_there(api, held.owner):
                held = None  # what was in the way is gone: what was told of it helped
            if held is None and _unreachable(outcome):
                held = Undone(action, None)
            if held is not None:
                outcome.undone[action.about] = held
                continue
            await _try(api, observed, action, outcome)
            failed = outcome.undone.get(action.about)
            # What the API server did not do for reasons of its own is tried again with the next look.
            if failed is not None and isinstance(failed.error, (InvalidError, ForbiddenError, TakenError)):
                retries.refused(key, failed, live)
        retries.keep(key, set(outcome.refused))
        status, notices = decision.tell(outcome)
        outcome.conditions = list((status or observed.old_status).get("conditions") or [])
        await _say(api, observed, notices, now=now, instance=instance)
        await _tell(api, observed, status)
    except NamespaceEndsError as error:
        # What is in a namespace goes in any order: the resource may be the last to go.
        log.info("namespace ends", error=str(error))
    return outcome


async def _is_there(api: ClusterApi, owner: Manifest) -> bool:
    """Return whether what had a name still has it; where nobody can tell, it has."""
    try:
        found = await _namesake(api, owner)
    except ClusterError:
        return True
    return found is not None and pods.uid_of(found) == pods.uid_of(owner)


async def _namesake(api: ClusterApi, manifest: Manifest) -> Manifest | None:
    """Return what has an object's kind and name now, whatever its labels; None where nothing has."""
    metadata = manifest["metadata"]
    fields = {"metadata.name": metadata["name"]}
    found = await api.list(KINDS[manifest["kind"]], namespace=metadata["namespace"], fields=fields)
    return found[0] if found else None


def _unreachable(outcome: Outcome) -> bool:
    """Return whether the API server does not answer: every further request would wait for its time limit."""
    return any(item.error is not None and item.error.status in {None, 429} for item in outcome.undone.values())


async def _try(api: ClusterApi, observed: Observed, action: Action, outcome: Outcome) -> None:
    """Carry out one action; what stands in its way is kept."""
    if any(item in outcome.undone for item in action.after):
        outcome.undone[action.about] = Undone(action, None)
        return
    try:
        stranger = await _carry_out(api, observed, action)
    except NamespaceEndsError:
        raise
    except ConflictError as error:
        # It went, or another one has its name: the next pass sees it.
        log.info("conflict", error=str(error))
        outcome.undone[action.about] = Undone(action, None)
    except ClusterError as error:
        log.warning("not done", kind=action.about[0], name=action.about[1], error=str(error))
        outcome.undone[action.about] = Undone(action, error)
    else:
        if stranger is None:
            outcome.done.append(action)
            return
        log.warning("name taken", kind=action.about[0], name=action.about[1])
        taken = TakenError(f"{' '.join(action.about)} is not this resource's", status=409)
        outcome.undone[action.about] = Undone(action, taken, stranger)


async def _carry_out(api: ClusterApi, observed: Observed, action: Action) -> Manifest | None:
    """Carry out one action; return what has the name and is not this resource's, where it was left alone for that."""
    match action:
        case Apply(manifest):
            log.info("apply", kind=manifest["kind"], name=manifest["metadata"]["name"])
            try:
                await api.apply(manifest)
            except TakenError:
                return await _apply_to_our_own(api, observed, manifest)
        case Create(manifest):
            log.info("create", kind=manifest["kind"], name=manifest["metadata"]["name"])
            if await api.create(manifest) is None:
                return await _apply_to_our_own(api, observed, manifest)
        case Delete(kind, namespace, name, uid, why):
            log.info("delete", kind=kind.kind, name=name, why=why)
            await api.delete(kind, namespace, name, uid=uid)
    return None


async def _apply_to_our_own(api: ClusterApi, observed: Observed, manifest: Manifest) -> Manifest | None:
    """Apply to what has the name where it is this resource's own and was not listed, such as one without its labels.

    Anything else is returned and left alone.
    """
    found = await _namesake(api, manifest)
    if found is None:
        about = f"{manifest['kind']} {manifest['metadata']['name']}"
        raise ConflictError(f"{about} is not there, and could not be made", status=409)
    if not pods.controlled_by(found, [observed.uid]):
        return found
    if not found["metadata"].get("deletionTimestamp"):
        await api.apply(manifest | {"metadata": manifest["metadata"] | {"uid": pods.uid_of(found)}})
    return None


async def _say(api: ClusterApi, observed: Observed, notices: list[Notice], *, now: float, instance: str) -> None:
    """Create Events; one that is refused or lost keeps nobody in the Service, and nothing from being told."""
    for notice in notices:
        try:
            await api.create(event(observed, notice, now=now, instance=instance))
        except NamespaceEndsError:
            raise
        except ClusterError as error:
            log.warning("event lost", reason=notice.reason, message=notice.message, error=str(error))
            if error.status is None:
                return  # nobody answers: each would wait for its time limit


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
