"""A cluster that lives: StatefulSets make pods, pods become ready when their probes say so, probes do their part.

It stands in for the StatefulSet controller, the kubelet and the probes, so that the controller's flows run to their
ends in memory and in virtual time. What an engine answers is a number: replicas with equal ``answers`` agree.
"""

from __future__ import annotations

import json
from typing import Any, Self

from cluster_api import FakeClusterApi, copied

from detinf.api import names
from detinf.controller.pods import format_time, parse_time
from detinf.documents import (
    Answer,
    AskedAgain,
    Baseline,
    Candidate,
    Cell,
    Evidence,
    Phase,
    PodIdentity,
    Reference,
    References,
    Reply,
    Report,
    Verdict,
    Witness,
    unseal,
)
from detinf.guard.canonical import digest, digest_bytes

FINGERPRINT = "sha256:" + "f" * 64
HARDWARE = {"devices": 1, "chip": "910B3", "hbmGiB": 64, "driver": "25.5.1", "firmware": "7.8.0.6.201", "link": "-"}
IDENTITY = {"schema": "2", "environment.LANG": "C.UTF-8"}
IMAGE = f"registry.example/engine@sha256:{'1' * 64}"
CELLS = (("S02", "solo"), ("S03", "width=2"))


NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node1", "labels": {"kubernetes.io/arch": "amd64"}},
    "spec": {},
    "status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "allocatable": {"cpu": "1000", "memory": "10Ti", "pods": "1000", "huawei.com/Ascend910": "64"},
    },
}
"""A node with room for everything that asks for no label."""


def answer(number: int) -> Answer:
    """Return an answer; other numbers are other bits of the same tokens."""
    return Answer(token_ids=[1, 2], logprob_bits=f"{0xBF000000 + number:08x}" * 2, finish_reason="length")


PROPOSAL = References(
    vocabulary_size=10,
    special_ids=[],
    max_model_len=64,
    seed=1,
    items=[Reference(name="r0", prompt_ids=[1], max_tokens=2, temperature_milli=0, seed=1)],
)


class Fleet:
    """Everything that is not the controller."""

    def __init__(self, loading_seconds: float = 0.0) -> None:
        """Start with an empty cluster, whose probes begin to report so many seconds after their pods began."""
        self.loading_seconds = loading_seconds
        self.now = 1_800_000_000.0
        self.api = FakeClusterApi(lambda: self.now)
        self.api.nodes = [copied(NODE)]
        self.answers: dict[str, int] = {}
        """What each replica's engine answers, by pod name; 0 is right."""
        self.in_batch: dict[str, int] = {}
        """What it answers in company, where it answers right alone."""
        self.model: dict[str, str | int | bool] | None = None
        """What kind of model the engines' guards attest; None as probes of earlier releases tell it."""
        self.busy: set[str] = set()
        """Pods whose engines leave their probes no time to ask anything."""
        self.gating: set[str] = set()
        """Pods whose gates take for ever."""
        self.probeless: set[str] = set()
        """Pods whose probes are away: nobody reports, and the kubelet hears of no readiness."""
        self.deaf: set[str] = set()
        """Pods whose probes are of a release that knows no questions."""
        self.late: dict[str, float] = {}
        """The same for one pod, by its name."""
        self.happened: set[str] = set()
        """What a test has let happen once."""
        self.boots = 0
        self.hardware: dict[str, dict[str, Any]] = {}
        """What each replica's guard reads, by pod name, where it is not ``HARDWARE``."""
        self.told: dict[str, dict[str, str]] = {}
        """What each replica is beside plan and hardware, by pod name, where it is not ``IDENTITY``."""
        self.identical = HARDWARE.keys()
        """Keys of the hardware that are part of the fingerprint."""
        self.images: dict[str, str] = {}
        """The imageID of each replica's engine as its kubelet tells it, by pod name, where it is not ``IMAGE``."""
        self.unattested: set[str] = set()
        """Pods whose engine's own processes do not attest."""
        self.lives: dict[str, dict[str, Any]] = {}
        """By pod uid: boot, phase, evidence."""

    def copy(self) -> Self:
        """Return another fleet in the same state."""
        other = type(self)(self.loading_seconds)
        other.now, other.boots, other.happened = self.now, self.boots, set(self.happened)
        other.answers, other.late = dict(self.answers), dict(self.late)
        other.in_batch, other.busy, other.deaf = dict(self.in_batch), set(self.busy), set(self.deaf)
        other.probeless, other.gating = set(self.probeless), set(self.gating)
        other.hardware, other.unattested = dict(self.hardware), set(self.unattested)
        other.identical, other.told = self.identical, dict(self.told)
        other.images = dict(self.images)
        other.lives = {uid: dict(life) for uid, life in self.lives.items()}
        api = other.api
        api.objects = copied(self.api.objects)
        api.owned, api.writes, api.ends = copied(self.api.owned), list(self.api.writes), dict(self.api.ends)
        api.numbers, api.nodes = self.api.numbers, copied(self.api.nodes)
        return other

    def state(self) -> str:
        """Return everything that the future depends on."""
        objects = sorted((*key, json.dumps(item, sort_keys=True)) for key, item in self.api.objects.items())
        lives = sorted((uid, str(life)) for uid, life in self.lives.items())
        owned = sorted((str(key), json.dumps(item, sort_keys=True)) for key, item in self.api.owned.items())
        rest = (self.now, self.boots, self.api.numbers, sorted(self.happened), sorted(self.answers.items()))
        return json.dumps([objects, lives, owned, rest])

    async def fetch(self, pod: dict[str, Any]) -> Report | None:
        """Be the controller's source of reports."""
        return self.report(pod)

    def hardware_of(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Return what the guard of a pod reads."""
        return HARDWARE | self.hardware.get(pod["metadata"]["name"], {})

    def fingerprint(self, pod: dict[str, Any]) -> str:
        """Return the fingerprint of a pod's engine."""
        hardware = self.hardware_of(pod)
        identity = {key: hardware[key] for key in self.identical}
        told = self.told.get(pod["metadata"]["name"], {})
        usual = not told and all(identity[key] == HARDWARE[key] for key in identity)
        return FINGERPRINT if usual else digest([identity, told])

    def identity_of(self, pod: dict[str, Any]) -> dict[str, str]:
        """Return what a pod's engine is beside plan and hardware."""
        return IDENTITY | self.told.get(pod["metadata"]["name"], {})

    def pods(self) -> list[dict[str, Any]]:
        """Return the pods that exist."""
        return [item for (kind, _, _), item in self.api.objects.items() if kind == "Pod"]

    def delivered(self, name: str, namespace: str) -> dict[str, str]:
        """Return what is delivered to the probes of a resource."""
        found = self.api.objects.get(("ConfigMap", namespace, names.delivery_name(name)), {})
        return dict(found.get("data", {}))

    def tick(self, seconds: float = 2.0) -> None:
        """Let time pass, and let everybody but the controller act."""
        self.now += seconds
        self.api.collect()
        for (kind, _, _), item in list(self.api.objects.items()):
            if kind == "StatefulSet":
                self._make_pod(item)
        for pod in self.pods():
            if names.LABEL_NAME not in pod["metadata"]["labels"]:
                continue  # somebody else's
            age = self.now - parse_time(pod["metadata"]["creationTimestamp"])
            if age >= self.late.get(pod["metadata"]["name"], self.loading_seconds):
                self.live(pod)

    def restart(self, pod_name: str) -> None:
        """Restart the engine container of a pod in place: another boot."""
        pod = next(item for item in self.pods() if item["metadata"]["name"] == pod_name)
        del self.lives[pod["metadata"]["uid"]]
        pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"] = format_time(self.now)
        pod["status"]["containerStatuses"][0].setdefault("restartCount", 0)
        pod["status"]["containerStatuses"][0]["restartCount"] += 1
        pod["status"]["containerStatuses"][0]["imageID"] = self.images.get(pod_name, IMAGE)

    def lose_node(self, pod_name: str) -> None:
        """Lose the node of a pod: it is to be deleted, and nobody ends it."""
        pod = next(item for item in self.pods() if item["metadata"]["name"] == pod_name)
        lost = copied(pod)
        lost["metadata"] |= {"deletionTimestamp": format_time(self.now), "finalizers": ["example.org/kubelet"]}
        lost["spec"] = lost["spec"] | {"nodeName": "lost"}
        lost["status"]["conditions"] = [
            {"type": "Ready", "status": "False", "lastTransitionTime": format_time(self.now)}
        ]
        self.api.put(lost)
        self.probeless.add(pod_name)

    def _make_pod(self, stateful_set: dict[str, Any]) -> None:
        metadata = stateful_set["metadata"]
        name = f"{metadata['name']}-0"
        if ("Pod", metadata["namespace"], name) in self.api.objects:
            return
        template = stateful_set["spec"]["template"]
        owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": metadata["name"], "uid": metadata["uid"]}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": metadata["namespace"],
                "labels": dict(template["metadata"]["labels"]),
                "annotations": dict(template["metadata"].get("annotations", {})),
                "ownerReferences": [owner | {"controller": True}],
            },
            "spec": template["spec"],
            "status": self.started(self.images.get(name, IMAGE)),
        }
        self.api.put(pod)

    def started(self, image: str = IMAGE) -> dict[str, Any]:
        """Return the status of a pod whose engine was started now."""
        now = format_time(self.now)
        return {
            "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}],
            "containerStatuses": [
                {"name": "engine", "state": {"running": {"startedAt": now}}, "started": True} | {"imageID": image}
            ],
        }

    def live(self, pod: dict[str, Any]) -> None:
        """Let a pod's engine and its probe do their part, and the kubelet say in the pod's status what became of it."""
        name, namespace = pod["metadata"]["labels"][names.LABEL_NAME], pod["metadata"]["namespace"]
        life = self.lives.get(pod["metadata"]["uid"])
        if life is None:
            if (plan := self._plan_digest(pod)) is None:
                return  # what it mounts is not there
            self.boots += 1
            life = {"boot": f"{self.boots:032x}", "started": self.now, "plan": plan}
            life |= {"phase": None, "evidence": None, "replies": None}
            self.lives[pod["metadata"]["uid"]] = life
        entries = self.delivered(name, namespace)
        number = self.answers.get(pod["metadata"]["name"], 0)
        key = names.baseline_key(self.fingerprint(pod), PROPOSAL.digest())
        if life["phase"] is not Phase.PASSED and pod["metadata"]["name"] not in self.unattested:
            if names.REFERENCES_KEY not in entries:
                life["phase"] = Phase.WAITING_FOR_REFERENCES
            elif key not in entries:
                life["phase"] = Phase.WAITING_FOR_BASELINE
            elif pod["metadata"]["name"] in self.gating:
                life["phase"] = Phase.GATING
            else:
                # A lifetime keeps the baseline that it began with.
                life["right"] = Baseline.parse(unseal(entries[key])[1]).answers["r0"]
                good = answer(number) == life["right"] == answer(self.in_batch.get(pod["metadata"]["name"], number))
                life["phase"] = Phase.PASSED if good else Phase.GATE_FAILED
        if life.get("right") is not None and pod["metadata"]["name"] not in self.busy:
            self._ask(pod, life, life["right"])
        serving = pod["metadata"]["labels"].get(names.LABEL_SERVING) != "false"
        serving = serving and pod["metadata"]["name"] not in self.probeless
        ready = "True" if life["phase"] is Phase.PASSED and serving else "False"
        condition = pod["status"]["conditions"][0]
        if condition["status"] != ready:
            condition |= {"status": ready, "lastTransitionTime": format_time(self.now)}

    def _ask(self, pod: dict[str, Any], life: dict[str, Any], right: Answer) -> None:
        """Be the probe: compare in every cell, and answer what the controller asks again."""
        life["asked"] = self.now
        name = pod["metadata"]["name"]
        alone = answer(self.answers.get(name, 0))
        together = answer(self.in_batch.get(name, self.answers.get(name, 0)))
        wrong = {relation for relation, seen in (("S02", alone), ("S03", together)) if seen != right}
        if wrong and life["evidence"] is None:
            relation, observed = ("S02", alone) if "S02" in wrong else ("S03", together)
            life["evidence"] = self._evidence(pod, life["boot"], right, observed, relation)
        asked = pod["metadata"].get("annotations", {}).get(names.ANNOTATION_AGAIN)
        life["replies"] = None
        if asked is not None and name not in self.deaf and life["phase"] is Phase.PASSED:
            life["replies"] = [
                Reply(
                    evidence=item.evidence,
                    verdict=Verdict.FAIL if item.relation in wrong else Verdict.PASS,
                    reason="",
                )
                for item in AskedAgain.parse(asked).items
            ]

    def _evidence(self, pod: dict[str, Any], boot: str, expected: Answer, observed: Answer, relation: str) -> Evidence:
        return Evidence(
            pod=self._identity(pod),
            boot=boot,
            plan_digest=self._plan_digest(pod),
            fingerprint=self.fingerprint(pod),
            references_digest=PROPOSAL.digest(),
            relation=relation,
            condition=dict(CELLS)[relation],
            reference="r0",
            observable="logprob",
            phase="prefill",
            position=0,
            differing_positions=2,
            max_ulps=1,
            expected=expected,
            observed=observed,
            witness=Witness(kind="None", width=1, detail=""),
            hint="drift",
            detected_unix=int(self.now),
        )

    def _identity(self, pod: dict[str, Any]) -> PodIdentity:
        metadata = pod["metadata"]
        return PodIdentity(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])

    def _plan_digest(self, pod: dict[str, Any]) -> str | None:
        """Return the digest of the plan that a pod has mounted, or could mount now."""
        metadata = pod["metadata"]
        if (life := self.lives.get(metadata["uid"])) is not None:
            return str(life["plan"])
        name = names.plan_name(metadata["labels"][names.LABEL_NAME], metadata["labels"][names.LABEL_REVISION])
        plan = self.api.objects.get(("ConfigMap", metadata["namespace"], name))
        return None if plan is None else digest_bytes(plan["data"]["plan.json"].encode())

    def report(self, pod: dict[str, Any]) -> Report | None:
        """Return what a pod's probe reports now."""
        life = self.lives.get(pod["metadata"]["uid"])
        if life is None or pod["metadata"]["name"] in self.probeless:
            return None
        phase, boot = life["phase"], life["boot"]
        if pod["metadata"]["name"] in self.unattested:
            reasons = ["no attestation of worker-0 yet: the engine is starting, or its guard refused"]
            return Report(
                pod=self._identity(pod), phase=Phase.WAITING_FOR_ATTESTATION, ready=False, reasons=reasons, cells=[]
            )
        plan_digest = self._plan_digest(pod)
        number = self.answers.get(pod["metadata"]["name"], 0)
        hardware, fingerprint = self.hardware_of(pod), self.fingerprint(pod)
        candidate = Candidate(
            boot=boot,
            plan_digest=plan_digest,
            fingerprint=fingerprint,
            references_digest=PROPOSAL.digest(),
            answers={"r0": answer(number)},
            hardware=hardware,
            identity=self.identity_of(pod),
        )
        failing = life["evidence"].relation if life["evidence"] else None
        cells = [
            Cell(
                relation=relation,
                condition=condition,
                verdict=Verdict.FAIL if relation == failing else Verdict.PASS,
                reason="",
                passes=1,
                fails=0,
                inconclusive=0,
                last_pass_unix=int(life.get("asked", self.now)),
                last_conclusive_unix=int(life.get("asked", self.now)),
            )
            for relation, condition in CELLS
        ]
        return Report(
            pod=self._identity(pod),
            boot=boot,
            boot_started_unix_ms=int(life["started"] * 1000) + 1,
            plan_digest=plan_digest,
            fingerprint=fingerprint,
            references_digest=None if phase is Phase.WAITING_FOR_REFERENCES else PROPOSAL.digest(),
            phase=phase,
            ready=phase is Phase.PASSED,
            reasons=[],
            proposal=PROPOSAL if phase is Phase.WAITING_FOR_REFERENCES else None,
            candidate=candidate if phase is Phase.WAITING_FOR_BASELINE else None,
            cells=cells if phase is Phase.PASSED else [],
            evidence=life["evidence"],
            hardware=hardware,
            identity=self.identity_of(pod),
            model=self.model,
            replies=life["replies"] if phase is Phase.PASSED else None,
        )
