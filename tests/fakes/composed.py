"""Several things that happen to one resource at once: what tests of that have in common."""

from __future__ import annotations

from typing import Any

from cluster_api import copied
from fleet import Fleet
from journeys import RESOURCE_KEY, resource
from matrix import World, settled

from detinf.api import names
from detinf.cluster.port import ClusterError

MODEL = resource()["spec"]["model"] | {"maxModelLen": 4096}
AWAY = ClusterError("500: etcdserver: request timed out", status=500)


def serving(fleet: Fleet) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in fleet.pods()
        if pod["status"]["conditions"][0]["status"] == "True"
        and pod["metadata"]["labels"].get(names.LABEL_SERVING) != "false"
    ]


def restart(fleet: Fleet, when: str = "2027-01-15T08:00:00Z") -> None:
    asked = copied(fleet.api.objects[RESOURCE_KEY])
    asked["metadata"]["annotations"] = {names.ANNOTATION_RESTART: when}
    fleet.api.put(asked)


def unlist(fleet: Fleet, error: ClusterError, *kinds: str, everywhere: bool = False) -> None:
    listed = type(fleet.api).list

    async def list_(kind: Any, **options: Any) -> Any:
        if kind.kind in kinds and (not everywhere or options.get("namespace") is None):
            raise error
        return await listed(fleet.api, kind, **options)

    fleet.api.list = list_  # type: ignore[method-assign]


async def look(world: World, seconds: float = 2.0) -> None:
    await world.look()
    world.fleet.tick(seconds)


async def world_of(replicas: int = 2, **spec: Any) -> World:
    world = World(Fleet())
    world.fleet.api.put(resource(replicas=replicas, **spec))
    await settled(world, replicas=replicas)
    return world
