"""Flows of a resource's life, each with what starts it, what else happens on the way, and what its end looks like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cluster_api import copied
from fleet import Fleet
from interrupted import Done, Interrupted

from detinf.api import names
from detinf.cluster.port import ClusterApi, Kind, Manifest
from detinf.controller.exported import Exported
from detinf.controller.reconcile import Reconciler
from detinf.controller.settings import OperatorSettings

SETTINGS = OperatorSettings(probe_image="probe:1", default_profile="simulated")
NAMESPACE, NAME = "ns", "a"
RESOURCE_KEY = (names.KIND, NAMESPACE, NAME)
EXPORTED = Exported()
LOADING_SECONDS = 3.0
"""Longer than a dead controller's absence, so that it misses no state of a pod."""
QUIET_PASSES = 3
MOST_PASSES = 60


def resource(**spec: Any) -> dict[str, Any]:
    """Return the resource as its user applies it."""
    source = {"persistentVolumeClaim": {"claimName": "models", "path": "m"}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": NAME, "namespace": NAMESPACE, "generation": 1},
        "spec": {"model": {"source": source}, "replicas": 2} | spec,
    }


def change(fleet: Fleet, **spec: Any) -> None:
    """Change the resource's spec as its user does."""
    changed = copied(fleet.api.objects[RESOURCE_KEY])
    changed["spec"] |= spec
    fleet.api.put(changed)


def condition(fleet: Fleet, kind: str) -> str | None:
    """Return what a condition says, or None where it says nothing."""
    status = fleet.api.objects.get(RESOURCE_KEY, {}).get("status", {})
    return next((item["status"] for item in status.get("conditions", []) if item["type"] == kind), None)


def uid_of_pod(fleet: Fleet, name: str) -> str:
    """Return the uid of a pod, or nothing."""
    return str(fleet.api.objects.get(("Pod", NAMESPACE, name), {}).get("metadata", {}).get("uid", ""))


@dataclass(frozen=True)
class Flow:
    """One flow."""

    name: str
    begin: Callable[[Fleet], None]
    """What starts it, on a fleet that has settled (or has no resource yet)."""
    ended: Callable[[Fleet], bool]
    """Whether what is to come has come; its end is where nothing is written any more after that."""
    replicas: int = 2
    """How many replicas have settled before; 0: there is no resource yet."""
    world: Callable[[Fleet], None] = lambda _fleet: None
    """What else happens on the way; called again and again, by what there is."""


def is_ready(fleet: Fleet) -> bool:
    """Whether the resource says that it is Ready, and of its newest generation."""
    found = fleet.api.objects.get(RESOURCE_KEY, {})
    seen = found.get("status", {}).get("observedGeneration")
    return condition(fleet, "Ready") == "True" and seen == found["metadata"]["generation"]


def _create(fleet: Fleet) -> None:
    fleet.api.put(resource())


def _create_with_a_late_replica(fleet: Fleet) -> None:
    fleet.late["a-1-0"] = 7.0
    _create(fleet)


def _diverge(fleet: Fleet) -> None:
    fleet.happened.add(uid_of_pod(fleet, "a-1-0"))
    fleet.answers["a-1-0"] = 1


def _another_pod_is_right(fleet: Fleet) -> None:
    uid = uid_of_pod(fleet, "a-1-0")
    if uid and uid not in fleet.happened:
        fleet.answers.clear()


def _replaced_and_ready(fleet: Fleet) -> bool:
    return not fleet.answers and is_ready(fleet)


def _isolated_pod_restarts_in_place(fleet: Fleet) -> None:
    pod = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]
    if pod["metadata"]["labels"].get(names.LABEL_SERVING) == "false" and "restarted" not in fleet.happened:
        fleet.happened.add("restarted")
        fleet.answers.clear()
        fleet.restart("a-1-0")


def _fail_a_gate(fleet: Fleet) -> None:
    _diverge(fleet)
    fleet.restart("a-1-0")


def _diverge_everywhere(fleet: Fleet) -> None:
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1}


def _diverge_alone(fleet: Fleet) -> None:
    fleet.answers["a-0-0"] = 1


def _is_told_of_a_divergence(fleet: Fleet) -> bool:
    return condition(fleet, "OutputsInvariant") == "False"


def _hands(fleet: Fleet) -> None:
    """Somebody deletes and edits children."""
    fleet.api.remove("Service", NAMESPACE, NAME)
    fleet.api.remove("StatefulSet", NAMESPACE, "a-0")
    baseline = next(
        name
        for (kind, _, name), item in fleet.api.objects.items()
        if kind == "ConfigMap" and item["metadata"]["labels"].get(names.LABEL_DOCUMENT) == "baseline"
    )
    fleet.api.remove("ConfigMap", NAMESPACE, baseline)
    delivery = copied(fleet.api.objects["ConfigMap", NAMESPACE, names.delivery_name(NAME)])
    delivery["data"][names.REFERENCES_KEY] = "somebody's hand"
    fleet.api.put(delivery)


def _break_the_spec(fleet: Fleet) -> None:
    change(fleet, engine={"profile": "no-such-engine"})


def _mend_the_spec(fleet: Fleet) -> None:
    if condition(fleet, "SpecValid") == "False" and "mended" not in fleet.happened:
        fleet.happened.add("mended")
        change(fleet, engine={})


FLOWS = [
    Flow("create", _create, is_ready, replicas=0),
    Flow("create with a late replica", _create_with_a_late_replica, is_ready, replicas=0),
    Flow(
        "change of the plan",
        lambda fleet: change(fleet, model=resource()["spec"]["model"] | {"maxModelLen": 4096}),
        is_ready,
    ),
    Flow("more replicas", lambda fleet: change(fleet, replicas=3), is_ready),
    Flow(
        "fewer replicas",
        lambda fleet: change(fleet, replicas=1),
        lambda fleet: is_ready(fleet) and len(fleet.pods()) == 1,
        replicas=3,
    ),
    Flow("divergence, isolation, replacement", _diverge, _replaced_and_ready, world=_another_pod_is_right),
    Flow("isolation, restart in place", _diverge, _replaced_and_ready, world=_isolated_pod_restarts_in_place),
    Flow("failed gate, replacement", _fail_a_gate, _replaced_and_ready, world=_another_pod_is_right),
    Flow("divergence of all", _diverge_everywhere, lambda fleet: condition(fleet, "OutputsInvariant") == "False"),
    Flow(
        "divergence of one", _diverge_alone, lambda fleet: condition(fleet, "OutputsInvariant") == "False", replicas=1
    ),
    Flow("hands", _hands, is_ready),
    Flow(
        "broken spec, mended",
        _break_the_spec,
        lambda fleet: "mended" in fleet.happened and is_ready(fleet),
        world=_mend_the_spec,
    ),
    Flow("delete", lambda fleet: fleet.api.remove(*RESOURCE_KEY), lambda fleet: RESOURCE_KEY not in fleet.api.objects),
]


class StaleReads:
    """The port, whose reads of some kinds are answered as the cluster was a while ago; writes reach it as it is."""

    def __init__(self, api: ClusterApi, old: ClusterApi, kinds: Collection[str]) -> None:
        """Keep both; ``kinds`` are read from the old one."""
        self.api = api
        self.old = old
        self.kinds = kinds
        self.apply, self.apply_status = api.apply, api.apply_status
        self.create, self.delete = api.create, api.delete

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """See the port."""
        return await (self.old if kind.kind in self.kinds else self.api).get(kind, namespace, name)

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        """See the port."""
        source = self.old if kind.kind in self.kinds else self.api
        return await source.list(kind, namespace=namespace, labels=labels, fields=fields)


@dataclass
class Journey:
    """A flow under way: the cluster, and what was done to it by all of the controller's lives."""

    flow: Flow
    fleet: Fleet
    done: Done

    def copy(self) -> Journey:
        """Return another journey at the same point."""
        done = self.done
        copy = Done(done.calls, list(done.statuses), list(done.deleted), list(done.created))
        return Journey(self.flow, self.fleet.copy(), copy)

    def state(self) -> tuple[object, ...]:
        """Return everything that the rest of the journey, and what is said of it, depends on."""
        done = self.done
        return self.fleet.state(), str(done.statuses), tuple(done.deleted), tuple(done.created)

    async def live(
        self,
        before: Callable[[str], None] = lambda _what: None,
        after: Callable[[str], None] = lambda _what: None,
        *,
        api: ClusterApi | None = None,
    ) -> bool:
        """Be a controller that has just started, for one pass; return whether it wrote anything.

        Args:
            before: see ``Interrupted``.
            after: see ``Interrupted``.
            api: what stands between it and the cluster, where that is not the cluster itself.
        """
        port = Interrupted(api or self.fleet.api, self.done, before, after)
        written = len(self.fleet.api.writes)
        reconciler = Reconciler(port, self.fleet, SETTINGS, EXPORTED, instance="test", now=lambda: self.fleet.now)
        await reconciler.reconcile((NAMESPACE, NAME))
        return len(self.fleet.api.writes) > written

    def pass_time(self, seconds: float = 2.0) -> None:
        """Let time pass for everybody but the controller."""
        self.flow.world(self.fleet)
        self.fleet.tick(seconds)

    async def settle(self) -> None:
        """Look again and again until the end has come and nothing is written any more."""
        quiet = 0
        for _ in range(MOST_PASSES):
            wrote = await self.live()
            self.pass_time()
            quiet = 0 if wrote or not self.flow.ended(self.fleet) else quiet + 1
            if quiet >= QUIET_PASSES:
                return
        raise AssertionError(f"{self.flow.name} does not end; last writes: {self.fleet.api.writes[-10:]}")

    def events(self) -> Counter[str]:
        """Return how often each reason was told."""
        return Counter(item["reason"] for (kind, _, _), item in self.fleet.api.objects.items() if kind == "Event")

    def end(self) -> dict[str, Any]:
        """Return what the end comes to, without uids, times and counters.

        A baseline counts once, whatever its name: that has the number of lifetimes in it, which depends on how many
        had answered when it was looked at.
        """
        objects = self.fleet.api.objects
        resource_ = objects.get(RESOURCE_KEY, {"status": {"replicaStates": [], "conditions": []}})
        return {
            "objects": sorted(
                (kind, item["metadata"].get("labels", {}).get(names.LABEL_DOCUMENT) or name)
                for (kind, _, name), item in objects.items()
                if kind != "Event"
            ),
            "conditions": {
                item["type"]: (item["status"], item["reason"]) for item in resource_["status"]["conditions"]
            },
            "states": [(item["index"], item["state"]) for item in resource_["status"]["replicaStates"]],
            "revisions": sorted(pod["metadata"]["labels"][names.LABEL_REVISION] for pod in self.fleet.pods()),
            "deleted": sorted((kind, name) for kind, name, _ in self.done.deleted if "-candidate-" not in name),
        }


_BEGUN: dict[str, Journey] = {}


async def begun(flow: Flow) -> Journey:
    """Return the journey right after what starts it; what was done before is forgotten."""
    if flow.name not in _BEGUN:
        journey = Journey(flow, Fleet(LOADING_SECONDS), Done())
        if flow.replicas:
            journey.fleet.api.put(resource(replicas=flow.replicas))
            await Journey(Flow("start", lambda _fleet: None, is_ready), journey.fleet, Done()).settle()
        flow.begin(journey.fleet)
        _BEGUN[flow.name] = journey
    return _BEGUN[flow.name].copy()
