"""What may happen to a resource on a bad day, one thing after the other, and what must hold whatever happens.

``EVENTS`` are data: the state machine of the tests draws them with hypothesis, and ``benchmarks/safety_net.py`` with a
seed. Each takes the world and a number that chooses among its variants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster_api import copied
from fleet import IMAGE, Fleet
from journeys import NAME, NAMESPACE, RESOURCE_KEY, change, resource
from matrix import World
from steps import HAND, QUOTA, refuse

from detinf.api import names
from detinf.cluster.port import ClusterError, ForbiddenError
from detinf.controller.images import Pins, image_id
from detinf.controller.observed import Observed
from detinf.controller.pods import controlled_by
from detinf.documents import Baseline, Phase

REPLICAS = 2
OTHER_IMAGE = f"registry.example/engine@sha256:{'2' * 64}"
WEBHOOK = ClusterError("500: failed calling webhook", status=500, words="failed calling webhook")
DENIED = ForbiddenError("403", status=403, words="admission webhook denied the request")
REFUSALS: tuple[tuple[ClusterError, tuple[tuple[str, str], ...]], ...] = (
    (QUOTA, (("ConfigMap", ""),)),
    (HAND, (("Service", ""),)),
    (WEBHOOK, (("StatefulSet", ""), ("Service", ""), ("PodDisruptionBudget", ""))),
    (QUOTA, (("Event", ""),)),
    (DENIED, (("Pod", ""),)),
    (QUOTA, (("ConfigMap", "-evidence-"),)),
    (ClusterError("timed out"), (("ConfigMap", ""), ("StatefulSet", ""))),
)
SPECS: tuple[dict[str, Any], ...] = (
    {"engine": {"extraArgs": ["--seed", "1"]}},
    {"engine": {"profile": "no-such-engine"}},
    {"replicas": "many"},
    {"engine": {}, "replicas": REPLICAS, "quarantine": {}},
    {"replicas": 1},
    {"replicas": 3},
    {"model": resource()["spec"]["model"] | {"maxModelLen": 4096}},
    {"quarantine": {"policy": "Report"}, "engine": {}, "replicas": REPLICAS},
)
NAMES = (("Service", NAME), ("Service", f"{NAME}-pods"), ("PodDisruptionBudget", NAME), ("StatefulSet", f"{NAME}-1"))


@dataclass
class Day:
    """A world, and what is remembered of it to hold it against."""

    world: World
    strangers: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    """Objects of others, as they were put."""

    @property
    def fleet(self) -> Fleet:
        """The fleet."""
        return self.world.fleet

    def pod_name(self, choice: int) -> str:
        """Return a pod's name."""
        return f"{NAME}-{choice % 3}-0"

    # One look, and what must hold after it ---------------------------------------------------------------------------

    async def look(self, seconds: float = 2.0) -> None:
        """Let the controller look once, hold what it did and says against the world, and let time pass."""
        world = self.world
        before = copied({pod["metadata"]["uid"]: pod for pod in self.fleet.pods()})
        served = set(world.serving())
        reports = {pod["metadata"]["name"]: self.fleet.report(pod) for pod in self.fleet.pods()}
        # What is true of each boot: a probe that is away now may have told it, and it is on record.
        lives = {uid: dict(life) for uid, life in self.fleet.lives.items()}
        said_before = copied(dict(world.status))
        if await world.look():
            self.check(before, served, reports, lives, said_before)
        self.fleet.tick(seconds)

    def check(
        self,
        before: dict[str, Any],
        served: set[str],
        reports: dict[str, Any],
        lives: dict[str, dict[str, Any]],
        said_before: dict[str, Any],
    ) -> None:
        """Hold the look's result against the world; raise AssertionError with what does not hold."""
        for key, item in self.strangers.items():
            assert self.fleet.api.objects.get(key) == item, f"{key} is somebody else's and was changed or deleted"
        self._isolated_rightly(before, served, reports, lives)
        if self.world.status != said_before:
            self._claims_what_was_done(said_before)
            self._claims_what_was_read({name: reports.get(name) for name in served})
            self._claims_no_more_than_one_engine(reports)

    def _isolated_rightly(
        self, before: dict[str, Any], served: set[str], reports: dict[str, Any], lives: dict[str, dict[str, Any]]
    ) -> None:
        isolated = set()
        for pod in self.fleet.pods():
            labels, uid, name = pod["metadata"]["labels"], pod["metadata"]["uid"], pod["metadata"]["name"]
            old = before.get(uid, {"metadata": {"labels": {}}})["metadata"]["labels"]
            if not labels.get(names.LABEL_DIVERGED_BOOT) or old.get(names.LABEL_DIVERGED_BOOT):
                continue
            isolated.add(name)
            life = lives[uid]
            assert life.get("evidence") is not None, f"{name} was isolated without evidence"
            assert labels[names.LABEL_DIVERGED_BOOT] == life["boot"], f"another boot of {name} was isolated"
            peers = [found for other, found in reports.items() if other in served and other != name]
            assert [
                found
                for found in peers
                if found is not None and found.evidence is None and found.fingerprint == life["evidence"].fingerprint
            ], f"{name} was isolated, and no peer served that had not diverged itself"
        assert not served or served - isolated, "all that served were isolated"

    def _claims_what_was_done(self, said_before: dict[str, Any]) -> None:
        status = self.world.status
        for row in status.get("replicaStates", []):
            pod = self.world.pod(f"{NAME}-{row['index']}-0")
            if row["state"] == "Isolated" and pod is not None and pod["metadata"]["uid"] == row.get("podUID"):
                assert pod["metadata"]["labels"][names.LABEL_SERVING] == "false", f"{row} was not done"
        named = status.get("baseline")
        if named and named != said_before.get("baseline"):
            key = ("ConfigMap", NAMESPACE, names.baseline_name(NAME, named["digest"]))
            assert key in self.fleet.api.objects, "a baseline is named that is not stored"
            uid = self.fleet.api.objects[RESOURCE_KEY]["metadata"]["uid"]
            assert controlled_by(self.fleet.api.objects[key], [uid]), "a baseline is named that is somebody else's"

    def _claims_what_was_read(self, read: dict[str, Any]) -> None:
        said = self.world.condition("OutputsInvariant").get("status")
        for name, report in read.items():
            diverged = report is not None and report.evidence is not None
            assert said == "False" or not diverged, f"{name} diverged, and it is not told"
            if said == "True":
                assert report is not None, f"proven, and {name} reported nothing"
                assert report.phase is Phase.PASSED, f"proven, and {name} has no gate"

    def _claims_no_more_than_one_engine(self, reports: dict[str, Any]) -> None:
        """Hold TopologyPinned against the images and identities of what serves in one revision."""
        if self.world.condition("TopologyPinned").get("status") != "True":
            return
        seen: dict[tuple[str, str], set[str]] = {}
        pins = Pins(self._baselines())
        uid = self.fleet.api.objects[RESOURCE_KEY]["metadata"]["uid"]
        objects = self.fleet.api.objects.items()
        ours = [
            item["metadata"]["uid"]
            for (kind, _, _), item in objects
            if kind == "StatefulSet" and controlled_by(item, [uid])
        ]
        for pod in self.fleet.pods():
            name, revision = pod["metadata"]["name"], pod["metadata"]["labels"].get(names.LABEL_REVISION, "")
            if name not in self.world.serving() or not controlled_by(pod, ours):
                continue  # a pod that is none of our replicas is told by OutputsInvariant
            assert not pins.differs(pod, revision), f"{name} serves with {image_id(pod)}, and it is not told"
            if (report := reports.get(name)) is not None and report.identity is not None:
                schema = f"identity of schema {report.identity['schema']}"  # guards of two releases tell other parts
                seen.setdefault((revision, schema), set()).add(str(report.identity))
        for key, found in seen.items():
            assert len(found) < 2, f"two of {key} serve, and it is not told: {found}"

    def _baselines(self) -> list[Baseline]:
        """Return the baselines on record, oldest first."""
        uid = self.fleet.api.objects[RESOURCE_KEY]["metadata"]["uid"]
        found = [
            item
            for (kind, _, _), item in self.fleet.api.objects.items()
            if kind == "ConfigMap" and controlled_by(item, [uid])
        ]
        return [item for _, item in Observed({"metadata": {"uid": uid}}, config_maps=found).records(Baseline)]


Event = Callable[[Day, int], None]


def goes_wrong(day: Day, choice: int) -> None:
    """An engine answers wrong, alone or in company."""
    where = day.fleet.in_batch if choice % 2 else day.fleet.answers
    where[day.pod_name(choice // 2)] = 1 + choice % 3


def all_go_wrong(day: Day, choice: int) -> None:
    """All engines answer wrong."""
    for index in range(3):
        goes_wrong(day, 2 * index + (choice + index) % 2)


def gets_right(day: Day, choice: int) -> None:
    """One engine, or all, answer right again."""
    for where in (day.fleet.answers, day.fleet.in_batch):
        if choice % 2:
            where.clear()
        else:
            where.pop(day.pod_name(choice // 2), None)


def engine_restarts(day: Day, choice: int) -> None:
    """An engine dies, and its container is started again."""
    pod = day.world.pod(day.pod_name(choice))
    if pod is not None and pod["metadata"]["uid"] in day.fleet.lives:
        day.fleet.restart(pod["metadata"]["name"])


def pod_goes(day: Day, choice: int) -> None:
    """Somebody deletes a pod."""
    if day.world.pod(day.pod_name(choice)) is not None:
        day.fleet.api.remove("Pod", NAMESPACE, day.pod_name(choice))


def probe_goes_or_comes(day: Day, choice: int) -> None:
    """A probe is away, busy, or there again."""
    for number, names_ in enumerate((day.fleet.probeless, day.fleet.busy, day.fleet.deaf)):
        if choice % 4 == number:
            names_.add(day.pod_name(choice // 4))
        elif choice % 4 == 3:
            names_.clear()


def refuses(day: Day, choice: int) -> None:
    """The API server refuses something from now on, or nothing any more."""
    if choice % 3 == 0:
        refuse(day.fleet, QUOTA)
    else:
        error, about = REFUSALS[choice % len(REFUSALS)]
        refuse(day.fleet, error, *about)


def spec_changes(day: Day, choice: int) -> None:
    """Somebody edits the spec, well or badly."""
    change(day.fleet, **SPECS[choice % len(SPECS)])


def hand_deletes(day: Day, choice: int) -> None:
    """Somebody deletes a child."""
    uid = day.fleet.api.objects[RESOURCE_KEY]["metadata"]["uid"]
    ours = sorted(key for key, item in day.fleet.api.objects.items() if controlled_by(item, [uid]))
    if ours:
        key = ours[choice % len(ours)]
        if key in day.fleet.api.objects:
            day.fleet.api.remove(*key)


def hand_edits(day: Day, choice: int) -> None:
    """Somebody takes the labels or the owner of a child, or changes a Service."""
    uid = day.fleet.api.objects[RESOURCE_KEY]["metadata"]["uid"]
    ours = sorted(key for key, item in day.fleet.api.objects.items() if controlled_by(item, [uid]))
    if not ours:
        return
    key = ours[choice % len(ours)]
    edited = copied(day.fleet.api.objects[key])
    if choice % 3 == 0:
        edited["metadata"]["labels"] = {}
    elif choice % 3 == 1 and key[0] == "Service":
        edited["spec"]["selector"] = {"somebody": "else"}
    elif choice % 3 == 2:
        edited["metadata"]["ownerReferences"] = []
        day.strangers[key] = day.fleet.api.put(edited)
        return
    day.fleet.api.put(edited)


def stranger_comes_or_goes(day: Day, choice: int) -> None:
    """Somebody makes an object under a name that a child wants, or removes it again."""
    kind, name = NAMES[choice % len(NAMES)]
    key = (kind, NAMESPACE, name)
    if key in day.strangers:
        del day.strangers[key]
        if key in day.fleet.api.objects:
            day.fleet.api.remove(*key)
    elif key not in day.fleet.api.objects:
        template = {"metadata": {"labels": {}}, "spec": {}}
        theirs = {"kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"template": template}}
        day.strangers[key] = day.fleet.api.put(theirs)


def controller_restarts(day: Day, choice: int) -> None:
    """The controller is killed somewhere in its next look, and another one comes."""
    day.world.killed_at = 1 + choice % 25


def node_goes(day: Day, choice: int) -> None:
    """A node is lost, or its pods are forgotten."""
    name = day.pod_name(choice)
    pod = day.world.pod(name)
    if pod is None:
        return
    if pod["metadata"].get("finalizers"):
        day.fleet.api.objects.pop(("Pod", NAMESPACE, name))
        day.fleet.probeless.discard(name)
    else:
        day.fleet.lose_node(name)


def image_moves(day: Day, choice: int) -> None:
    """The tag stands for another image from now on, for one pod or all, or the kubelet tells none."""
    pods = [day.pod_name(choice)] if choice % 2 else [day.pod_name(index) for index in range(3)]
    day.fleet.images |= dict.fromkeys(pods, (OTHER_IMAGE, IMAGE, "", OTHER_IMAGE)[choice // 2 % 4])
    pod = day.world.pod(pods[0])
    if choice % 3 == 0 and pod is not None and pod["metadata"]["uid"] in day.fleet.lives:
        day.fleet.restart(pods[0])


def identity_drifts(day: Day, choice: int) -> None:
    """A webhook, an image or a node changes what a guard reads, or nothing does any more."""
    name = day.pod_name(choice)
    told = ({"environment.LANG": "C"}, {"environment.X": str(choice % 2)}, {"schema": "1"}, {})[choice % 4]
    day.fleet.told[name] = told
    pod = day.world.pod(name)
    if pod is not None and pod["metadata"]["uid"] in day.fleet.lives:
        day.fleet.restart(name)


def time_passes(day: Day, choice: int) -> None:
    """Nothing happens for a while, and nobody looks."""
    day.fleet.tick((15.0, 60.0, 400.0)[choice % 3])


EVENTS: tuple[Event, ...] = (
    goes_wrong,
    all_go_wrong,
    gets_right,
    engine_restarts,
    pod_goes,
    probe_goes_or_comes,
    refuses,
    spec_changes,
    hand_deletes,
    hand_edits,
    stranger_comes_or_goes,
    controller_restarts,
    node_goes,
    time_passes,
    image_moves,
    identity_drifts,
)

_BEGUN: list[Fleet] = []


def begin(run: Callable[[Any], Any] = asyncio.run) -> Day:
    """Return a day that begins with a settled resource."""
    if not _BEGUN:
        world = World(Fleet())
        world.fleet.api.put(resource(replicas=REPLICAS))
        run(_settled(world))
        _BEGUN.append(world.fleet)
    return Day(World(_BEGUN[0].copy()))


async def _settled(world: World) -> None:
    await world.looks(25)
    assert len(world.serving()) == REPLICAS, world.status
