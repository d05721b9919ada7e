"""Every state that a resource may be in, times every fault that strikes then: data, for the tests that run them all.

Three replicas, of which number 1 is the one that goes wrong where one does. A state is reached before the fault, and
goes on while it strikes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cluster_api import FakeClusterApi, copied
from fleet import Fleet
from interrupted import Done, Interrupted, KilledError
from journeys import NAME, NAMESPACE, RESOURCE_KEY, SETTINGS, change, resource
from steps import HAND, QUOTA, refuse

from detinf.api import names
from detinf.cluster.port import ClusterError
from detinf.controller.exported import Exported
from detinf.controller.reconcile import Reconciler
from detinf.controller.settings import OperatorSettings

REPLICAS = 3
WRONG = f"{NAME}-1-0"
ALL = tuple(f"{NAME}-{index}-0" for index in range(REPLICAS))
OLDER_PROFILES = {name: item for name, item in SETTINGS.profiles.items() if name != "simulated"}


class SlowApi(Interrupted):
    """A port on which every call takes a while, for everybody."""

    def __init__(self, fleet: Fleet, seconds: float) -> None:
        """Let each call take so many seconds."""

        def take(_what: str) -> None:
            fleet.now += seconds

        super().__init__(fleet.api, Done(), before=take)


@dataclass
class World:
    """A fleet, and the controller that looks after it."""

    fleet: Fleet
    settings: OperatorSettings = SETTINGS
    port: Any = None
    restarts: bool = False
    """Whether each look is a new controller's."""
    others: list[OperatorSettings] = field(default_factory=list)
    """Settings of controllers that take turns with it."""
    killed_at: int | None = None
    """The call of the next look before which the controller is killed; that many at most."""
    failures: int = 0
    exported: Exported = field(default_factory=Exported)
    _reconciler: Reconciler | None = None

    async def look(self) -> bool:
        """Let the controller look once; return whether it lived to see the end of it."""
        fleet = self.fleet
        if self.others:
            self.others.append(self.settings)
            self.settings = self.others.pop(0)
            self._reconciler = None
        port = self.port or fleet.api
        if self.killed_at is not None:
            port = self._killing(port, self.killed_at)
        if self._reconciler is None or self.restarts or self.killed_at is not None:
            self._reconciler = Reconciler(
                port,
                fleet,
                self.settings,
                self.exported,
                instance="t",
                now=lambda: fleet.now,
                monotonic=lambda: fleet.now,
            )
        try:
            await self._reconciler.reconcile((NAMESPACE, NAME))
        except KilledError:
            self.killed_at, self._reconciler = None, None
            return False
        except ClusterError:
            self.failures += 1
        return True

    def _killing(self, port: FakeClusterApi, at: int) -> Interrupted:
        count = [0]

        def before(_what: str) -> None:
            count[0] += 1
            if count[0] >= at:
                raise KilledError

        return Interrupted(port, Done(), before=before)

    async def looks(self, number: int, seconds: float = 2.0) -> None:
        """Let the controller look so often, with so much time after each."""
        for _ in range(number):
            await self.look()
            self.fleet.tick(seconds)

    # What there is to be seen ----------------------------------------------------------------------------------------

    @property
    def status(self) -> Mapping[str, Any]:
        """The resource's status."""
        return dict(self.fleet.api.objects[RESOURCE_KEY].get("status", {}))

    def condition(self, kind: str) -> Mapping[str, Any]:
        """Return a condition; empty where it is not there."""
        return next((item for item in self.status.get("conditions", []) if item["type"] == kind), {})

    def state(self, index: int) -> Mapping[str, Any]:
        """Return what the status says of a replica."""
        return next((item for item in self.status.get("replicaStates", []) if item["index"] == index), {})

    def pod(self, name: str) -> Mapping[str, Any] | None:
        """Return a pod, or None."""
        return self.fleet.api.objects.get(("Pod", NAMESPACE, name))

    def serving(self) -> list[str]:
        """Return the pods that users are sent to."""
        return [
            pod["metadata"]["name"]
            for pod in self.fleet.pods()
            if pod["status"]["conditions"][0]["status"] == "True"
            and "deletionTimestamp" not in pod["metadata"]
            and pod["metadata"]["labels"].get(names.LABEL_SERVING) != "false"
        ]

    def recorded(self, boot: str) -> bool:
        """Return whether there is evidence of a boot."""
        return any(
            item["metadata"].get("labels", {}).get(names.LABEL_DOCUMENT) == "evidence"
            and item["metadata"]["labels"].get(names.LABEL_BOOT) == boot
            for item in self.fleet.api.objects.values()
        )

    def boot(self, pod_name: str) -> str | None:
        """Return the boot of a pod's engine."""
        pod = self.pod(pod_name)
        life = self.fleet.lives.get(pod["metadata"]["uid"]) if pod is not None else None
        return None if life is None else str(life["boot"])


@dataclass(frozen=True)
class State:
    """What the resource is in when the fault strikes."""

    name: str
    enter: Callable[[World], Awaitable[None]]
    unrecorded: bool = False
    """Whether evidence cannot be stored meanwhile: then the status says why."""


async def settled(world: World, replicas: int = REPLICAS) -> None:
    """All serve."""
    await world.looks(25)
    assert len(world.serving()) == replicas, world.status


async def starting(world: World) -> None:
    """Replica 2 was just made."""
    change(world.fleet, replicas=2)
    await world.looks(25)
    change(world.fleet, replicas=REPLICAS)
    world.fleet.late[f"{NAME}-2-0"] = 1000.0
    await world.looks(3)


async def gating(world: World) -> None:
    """Replica 2 restarted and is at its gate."""
    await settled(world)
    world.fleet.gating.add(f"{NAME}-2-0")
    world.fleet.restart(f"{NAME}-2-0")
    await world.looks(2)


async def qualifying(world: World) -> None:
    """Replica 2 has another fingerprint, and its answers are not agreed yet."""
    change(world.fleet, topology={"drift": "Warn"})
    await settled(world)
    refuse(world.fleet, QUOTA, ("ConfigMap", "-candidate-"), ("ConfigMap", "-baseline-"))
    world.fleet.identical = {"chip", "driver"}
    world.fleet.hardware[f"{NAME}-2-0"] = {"driver": "25.9"}
    world.fleet.restart(f"{NAME}-2-0")
    await world.looks(3)


async def rolling_out(world: World) -> None:
    """A change of the plan has begun: replica 0 makes way."""
    await settled(world)
    model = resource()["spec"]["model"] | {"maxModelLen": 4096}
    change(world.fleet, model=model)
    await world.looks(2)


async def scaling(world: World) -> None:
    """A fourth replica is on its way."""
    await settled(world)
    world.fleet.late[f"{NAME}-3-0"] = 1000.0
    change(world.fleet, replicas=REPLICAS + 1)
    await world.looks(2)


async def invalid_spec(world: World) -> None:
    """A typing error stands in the spec."""
    await settled(world)
    change(world.fleet, engine={"extraArgs": ["--seed", "1"]})
    await world.looks(2)


async def child_refused(world: World) -> None:
    """A hand made the Service unappliable."""
    await settled(world)
    service = copied(world.fleet.api.objects["Service", NAMESPACE, NAME])
    service["spec"]["selector"] = {"somebody": "else"}
    world.fleet.api.put(service)
    refuse(world.fleet, HAND, ("Service", NAME))
    await world.looks(5)


async def quota_full(world: World) -> None:
    """No ConfigMap can be made."""
    await settled(world)
    refuse(world.fleet, QUOTA, ("ConfigMap", ""))
    await world.looks(2)


async def restarting(world: World) -> None:
    """Each look is a new controller's, and the first one is killed half-way."""
    await settled(world)
    world.restarts, world.killed_at = True, 9


async def upgrade_failing(world: World) -> None:
    """A controller of another version, which does not know the profile, takes turns with this one."""
    await settled(world)
    world.others = [replace(SETTINGS, probe_image="probe:2", profiles=OLDER_PROFILES)]


async def slow(world: World) -> None:
    """The API server takes half a second for each call."""
    await settled(world)
    world.port = SlowApi(world.fleet, 0.5)
    world._reconciler = None


async def replica_isolated(world: World) -> None:
    """Replica 0 diverged before, and drains."""
    await settled(world)
    world.fleet.answers[f"{NAME}-0-0"] = 7
    world.fleet.tick()
    await world.looks(3)
    assert world.state(0)["state"] == "Isolated", world.status


async def baseline_missing(world: World) -> None:
    """Somebody deleted the baseline's record and emptied the delivery."""
    await settled(world)
    for key, item in list(world.fleet.api.objects.items()):
        if item["metadata"].get("labels", {}).get(names.LABEL_DOCUMENT) == "baseline":
            world.fleet.api.remove(*key)
    world.fleet.api.remove("ConfigMap", NAMESPACE, names.delivery_name(NAME))
    await world.looks(2)


STATES = [
    State("starting", starting),
    State("gating", gating),
    State("qualifying", qualifying),
    State("settled", settled),
    State("rolling out", rolling_out),
    State("scaling", scaling),
    State("invalid spec", invalid_spec),
    State("child refused", child_refused),
    State("quota full", quota_full, unrecorded=True),
    State("controller restarting", restarting),
    State("controller's upgrade failing", upgrade_failing),
    State("API server slow", slow),
    State("replica isolated", replica_isolated),
    State("baseline missing", baseline_missing),
]


@dataclass(frozen=True)
class Strike:
    """What strikes."""

    name: str
    strike: Callable[[World], None]
    wrong: tuple[str, ...] = (WRONG,)
    """Pods that answer wrong since."""
    gated: bool = False
    """Whether a gate stands before what is wrong: then nobody ever gets an answer of it."""


def one(world: World) -> None:
    """Replica 1 answers wrong."""
    world.fleet.answers[WRONG] = 1


def everybody(world: World) -> None:
    """All answer wrong, and their probes meet it in different cells."""
    world.fleet.answers |= {ALL[0]: 1, ALL[1]: 1}
    world.fleet.in_batch[ALL[2]] = 1


def while_starting(world: World) -> None:
    """Replica 1 restarts, and is wrong from its beginning."""
    world.fleet.answers[WRONG] = 1
    if world.pod(WRONG) is not None:
        world.fleet.restart(WRONG)


def engine_dies(world: World) -> None:
    """Replica 1 answers wrong, and the engine of replica 0 dies."""
    one(world)
    if world.pod(ALL[0]) is not None and world.boot(ALL[0]) is not None:
        world.fleet.restart(ALL[0])


def probe_dies(world: World) -> None:
    """Replica 1 answers wrong, and the probe of replica 0 is away."""
    one(world)
    world.fleet.probeless.add(ALL[0])


def node_dies(world: World) -> None:
    """Replica 1 answers wrong, and the node of replica 0 is lost."""
    one(world)
    if world.pod(ALL[0]) is not None:
        world.fleet.lose_node(ALL[0])


STRIKES = [
    Strike("one replica", one),
    Strike("all", everybody, wrong=ALL),
    Strike("while starting", while_starting, gated=True),
    Strike("an engine dies", engine_dies),
    Strike("a probe dies", probe_dies),
    Strike("a node dies", node_dies),
]
