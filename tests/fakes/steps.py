"""One look of the controller after the other, on the in-memory cluster, and what there is to be seen after it."""

from __future__ import annotations

from typing import Any

from fleet import Fleet
from journeys import NAME, NAMESPACE, SETTINGS, resource

from detinf.api import names
from detinf.cluster.port import ClusterError, ForbiddenError, InvalidError
from detinf.controller.carry_out import carry_out
from detinf.controller.decide import decide
from detinf.controller.gather import gather, with_places
from detinf.controller.quarantine import DRAIN_SECONDS
from detinf.controller.retries import Retries


def fleet_with(**spec: Any) -> Fleet:
    fleet = Fleet()
    fleet.api.put(resource(**spec))
    return fleet


async def reconcile(fleet: Fleet) -> bool:
    """Reconcile once; return whether anything was written."""
    before = len(fleet.api.writes)
    observed = await gather(fleet.api, fleet, NAMESPACE, NAME)
    if observed is not None:
        decision = decide(observed, SETTINGS, fleet.now)
        if decision.wants_places:
            observed = await with_places(fleet.api, observed)
            decision = decide(observed, SETTINGS, fleet.now)
        retries = Retries(lambda: fleet.now)
        await carry_out(fleet.api, observed, decision, now=fleet.now, instance="test", retries=retries)
    return len(fleet.api.writes) > before


async def settle(fleet: Fleet, passes: int = 120) -> None:
    """Reconcile and let time pass until nothing is written for several passes."""
    quiet = 0
    for _ in range(passes):
        quiet = 0 if await reconcile(fleet) else quiet + 1
        fleet.tick()
        if quiet > DRAIN_SECONDS / 2 + 2:  # nothing is written while somebody drains
            return
    raise AssertionError(f"it does not settle; last writes: {fleet.api.writes[-10:]}")


async def isolate(fleet: Fleet) -> None:
    """See a divergence, ask its peers, and act on what they say."""
    await reconcile(fleet)
    fleet.tick()
    await reconcile(fleet)


def status(fleet: Fleet) -> dict[str, Any]:
    return dict(fleet.api.objects[names.KIND, NAMESPACE, NAME]["status"])


def condition(fleet: Fleet, kind: str) -> dict[str, Any]:
    return next(item for item in status(fleet)["conditions"] if item["type"] == kind)


def records(fleet: Fleet, document: str) -> list[str]:
    return [
        item["metadata"]["name"]
        for (kind, _, _), item in fleet.api.objects.items()
        if kind == "ConfigMap" and item["metadata"]["labels"].get(names.LABEL_DOCUMENT) == document
    ]


def events(fleet: Fleet) -> list[str]:
    return sorted(item["reason"] for (kind, _, _), item in fleet.api.objects.items() if kind == "Event")


QUOTA = ForbiddenError("403", status=403, words="exceeded quota: q, requested: count/configmaps=1, limited: 20")
HAND = InvalidError("422", status=422, words='Service "a" is invalid: spec.ports[1].name: Duplicate value: "http"')
NO_ANSWER = ClusterError("timed out")


def refuse(fleet: Fleet, error: ClusterError, *about: tuple[str, str]) -> None:
    """Let the API server refuse to make or change some objects, by kind and a part of the name; ``()`` allows all."""
    port = fleet.api
    allowed = type(port).apply, type(port).create

    async def apply(manifest: dict[str, Any]) -> Any:
        _check(manifest)
        return await allowed[0](port, manifest)

    async def create(manifest: dict[str, Any]) -> Any:
        _check(manifest)
        return await allowed[1](port, manifest)

    def _check(manifest: dict[str, Any]) -> None:
        for kind, part in about:
            if manifest["kind"] == kind and part in manifest["metadata"]["name"]:
                raise error

    port.apply, port.create = apply, create  # type: ignore[method-assign]


def label(fleet: Fleet, pod: str) -> str:
    """Return the serving label of a pod."""
    return str(fleet.api.objects["Pod", NAMESPACE, pod]["metadata"]["labels"][names.LABEL_SERVING])
