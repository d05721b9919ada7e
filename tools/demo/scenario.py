"""The story: a resource becomes Ready, users are served, one replica goes wrong, and nobody has to notice.

Every step ends only when what it promises was observed on the cluster; nothing here is timed to look right.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubectl import Kubectl, KubectlError
from story import StepError, Story

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
NAME = "demo"
CLIENT = "demo-user"
FAULTY = 1
MODELS = "/var/lib/detinf/models"
"""Folder of the node; the examples name it, and the chart is told to allow it."""


@dataclass(frozen=True)
class Engine:
    """What differs between the demo's engines."""

    name: str
    manifest: dict[str, Any]
    """The resource to apply."""
    make_model: list[str]
    """Command that writes the model's folder into the claim, run in the engine's image as root."""
    image: str
    fault_on: list[str]
    """Command in the engine container of the replica that is to go wrong."""
    fault_off: list[str]
    fault_words: str
    expected_observable: tuple[str, ...]
    load_seconds: int
    """What the engine takes to be healthy, roughly."""
    probe_seconds: dict[str, int]
    """The chart's intervals of the probe: shorter than by default, so that nobody waits for long."""
    user_pause_seconds: float
    """Between an answer and the user's next request."""
    script: Path | None = None
    """A script that ``make_model`` runs, mounted at ``/script``."""


class Scene:
    """The steps after the operator is installed, on one cluster."""

    def __init__(self, story: Story, kubectl: Kubectl, engine: Engine, operator: Kubectl) -> None:
        """Keep the cluster (``kubectl`` in the demo's namespace, ``operator`` in the controller's)."""
        self.story = story
        self.kubectl = kubectl
        self.engine = engine
        self.operator = operator

    # What the cluster says -----------------------------------------------------------------------------------------

    def resource(self) -> dict[str, Any]:
        """Return the resource."""
        return self.kubectl.object("detinf", NAME)

    def describe(self) -> str:
        """Return the resource's state in one line."""
        status = self.resource().get("status", {})
        ready = next((item for item in status.get("conditions", []) if item["type"] == "Ready"), {})
        states = "  ".join(f"replica {item['index']}: {item['state']}" for item in status.get("replicaStates") or [])
        return f"Ready={ready.get('status', '?')} ({ready.get('reason', 'not reconciled yet')})  {states}"

    def is_ready(self) -> bool:
        """Return whether the resource says Ready for its present generation."""
        resource = self.resource()
        conditions = resource.get("status", {}).get("conditions", [])
        ready = next((item for item in conditions if item["type"] == "Ready"), {})
        current = ready.get("observedGeneration") == resource.get("metadata", {}).get("generation")
        return ready.get("status") == "True" and current

    def pod(self, index: int) -> dict[str, Any]:
        """Return the pod of one replica; empty where there is none."""
        return self.kubectl.object("pods", f"{NAME}-{index}-0")

    def endpoints(self) -> list[str]:
        """Return the pods that the Service sends new connections to."""
        slices = self.kubectl.objects("endpointslices", f"kubernetes.io/service-name={NAME}")
        return sorted(
            endpoint["targetRef"]["name"]
            for item in slices
            for endpoint in item.get("endpoints") or []
            if endpoint.get("conditions", {}).get("ready")
        )

    def seen(self) -> dict[str, Any]:
        """Return what the user has seen so far."""
        try:
            return dict(json.loads(self.kubectl("exec", CLIENT, "--", "cat", "/tmp/seen.json")))  # noqa: S108 - in the pod
        except KubectlError:
            return {}

    def more_answers(self, count: int, *, seconds: float) -> dict[str, Any]:
        """Wait until the user has ``count`` more answers, and return what it saw since.

        Raises:
            StepError: where the answers do not come.
        """
        before = self.seen()
        target = before.get("answers", 0) + count
        limit = time.monotonic() + seconds
        while (now := self.seen()).get("answers", 0) < target:
            if time.monotonic() > limit:
                raise StepError(f"the user got {now.get('answers', 0)} answers, {target} were expected; {now}")
            time.sleep(1.0)
        return {
            "answers": now["answers"] - before.get("answers", 0),
            "failed": now["failed"] - before.get("failed", 0),
            "different": now["different"] - before.get("different", 0),
            "errors": now["errors"],
        }

    # The steps -----------------------------------------------------------------------------------------------------

    def model(self) -> None:
        """Write the model into a claim, with the engine's own image."""
        with self.story.step(
            "model",
            "A tiny model is written into a folder of the node, where the engines will read it.",
            about_seconds=15,
        ):
            self.kubectl("delete", "pod", "make-model", "--ignore-not-found", "--wait=true")
            self.kubectl.apply(*model_maker(self.engine, self.kubectl.namespace))
            self.story.wait(
                "the model to be written",
                lambda: "done" if self.phase("make-model") == "Succeeded" else None,
                seconds=300,
            )
            self.story.say(self.kubectl("logs", "make-model").strip().splitlines()[-1])

    def phase(self, pod: str) -> str:
        """Return a pod's phase.

        Raises:
            StepError: where it has failed.
        """
        status = self.kubectl.object("pods", pod).get("status", {})
        if status.get("phase") == "Failed":
            raise StepError(f"pod {pod} failed: {self.kubectl('logs', pod, '--tail=5')}")
        return str(status.get("phase", ""))

    def create(self) -> None:
        """Apply the resource, and watch it become Ready."""
        with self.story.step(
            "resource",
            "A DeterministicInference with two replicas is applied. Each engine loads, is attested by its guard,\n"
            "      answers the references, and passes the gate: alone, against the baseline, in batches. Only then\n"
            "      it serves.",
            about_seconds=40 + 3 * self.engine.load_seconds,
        ):
            self.kubectl.apply(self.engine.manifest)
            self.story.watch(
                self.describe, self.is_ready, seconds=240 + 20 * self.engine.load_seconds, what="Ready=True"
            )
            for index in (0, 1):
                self.proven_by_trace(index)
            self.story.say("look at:  kubectl get detinf demo    and    kubectl describe detinf demo")

    def load(self) -> None:
        """Start the user."""
        with self.story.step(
            "load",
            "A user sends requests through the Service, each on a new connection, and compares every answer's bits.",
            about_seconds=15,
        ):
            self.kubectl("delete", "pod", CLIENT, "--ignore-not-found", "--wait=true", "--grace-period=5")
            service = self.kubectl.object("services", NAME)
            script = (HERE / "load_client.py").read_text(encoding="utf-8")
            self.kubectl.apply(*client(self.engine, self.kubectl.namespace, service["spec"]["clusterIP"], script))
            self.story.wait("the user's first answer", lambda: "yes" if self.seen() else None, seconds=120)
            saw = self.more_answers(20, seconds=180)
            self.story.say(f"{saw['answers']} answers, {saw['failed']} failed, {saw['different']} different")
            if saw["failed"] or saw["different"]:
                raise StepError(f"a healthy resource must answer every request alike; seen: {saw}")

    def controller_down(self) -> None:
        """Take the controller away; kill an engine; see it gated and served all the same."""
        with self.story.step(
            "controller down",
            "The controller is stopped, and the engine of replica 0 is killed. Serving goes on, and the restarted\n"
            "      engine is gated by its probe alone before it serves again.",
            about_seconds=30 + 2 * self.engine.load_seconds,
        ):
            deployment = self.operator.objects("deployments", "app.kubernetes.io/part-of=detinf")[0]
            name = deployment["metadata"]["name"]
            self.operator("scale", "deployment", name, "--replicas=0")
            self.story.wait("the controller's pod to end", lambda: None if self.controllers() else "gone", seconds=90)
            self.story.say("the controller is gone")
            before = restarts(self.pod(0))
            self.kubectl("exec", f"{NAME}-0-0", "-c", "engine", "--", "python3", "-c", KILL_ENGINE)
            self.story.wait(
                "the engine container to restart",
                lambda: "restarted" if restarts(self.pod(0)) > before else None,
                seconds=120,
            )
            self.story.say(f"the engine of replica 0 was killed; the Service sends to: {', '.join(self.endpoints())}")
            saw = self.more_answers(10, seconds=180)
            self.story.say(f"meanwhile: {saw['answers']} answers, {saw['different']} different")
            self.story.wait(
                "replica 0 to pass its gate and serve again",
                lambda: "yes" if f"{NAME}-0-0" in self.endpoints() else None,
                seconds=240 + 20 * self.engine.load_seconds,
            )
            self.story.say("replica 0 passed its gate and serves, still without a controller")
            before = self.compared()
            self.story.wait(
                "the probe of replica 1 to compare more answers",
                lambda: "yes" if self.compared() > before else None,
                seconds=60,
            )
            self.story.say("the probes go on comparing, and say so in their metrics")
            self.operator("scale", "deployment", name, "--replicas=1")
            self.operator("rollout", "status", f"deployment/{name}", "--timeout=120s", timeout=150)
            if saw["different"]:
                raise StepError(f"an ungated engine answered: {saw}")

    def proven_by_trace(self, index: int) -> None:
        """See that the engine's own step trace proves what its probe checks, and metrics did not have to do.

        Raises:
            StepError: where no cohort was proven by it.
        """

        def proven() -> str | None:
            count = self.probed(index, "detinf_probe_witness_width_count", 'relation="S03"', 'witness="W0"')
            return f"{count:.0f}" if count else None

        count = self.story.wait(f"a cohort that the step trace of replica {index} proves", proven, seconds=300)
        self.story.say(f"replica {index}: {count} cohorts proven by the engine's own step trace")

    def compared(self) -> float:
        """Return how many answers the probe of replica 1 has found equal, by its metrics."""
        return self.probed(1, "detinf_probe_comparisons_total", 'result="equal"')

    def probed(self, index: int, series: str, *labels: str) -> float:
        """Return a metric of a replica's probe, summed over the series that have these labels."""
        path = f"/api/v1/namespaces/{self.kubectl.namespace}/pods/{NAME}-{index}-0:9400/proxy/metrics"
        lines = (self.kubectl.get(path) or "").splitlines()
        found = [line for line in lines if line.startswith(f"{series}{{") and all(label in line for label in labels)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def controllers(self) -> int:
        """Return how many controller pods there are."""
        return len(self.operator.objects("pods", "app.kubernetes.io/part-of=detinf"))

    def fault(self) -> None:
        """Switch the fault on in one replica, and wait for the probe to catch it."""
        with self.story.step("fault", self.engine.fault_words, about_seconds=60):
            self.kubectl("exec", f"{NAME}-{FAULTY}-0", "-c", "engine", "--", *self.engine.fault_on)
            self.story.wait(
                "OutputsInvariant=False",
                lambda: (
                    self.kubectl.condition("detinf", NAME, "OutputsInvariant").get("message")
                    if self.kubectl.condition("detinf", NAME, "OutputsInvariant").get("status") == "False"
                    else None
                ),
                seconds=300,
            )
            condition = self.kubectl.condition("detinf", NAME, "OutputsInvariant")
            self.story.say(f"caught: {condition['reason']}: {condition['message']}")
            evidence = self.evidence()
            self.story.say(
                f"evidence: {evidence['relation']} {evidence['condition']}, observable={evidence['observable']}, "
                f"first at position {evidence['position']}, {evidence['maxUlps']} ulps at most"
            )
            self.story.say("look at:  kubectl get configmaps -l detinf.io/document=evidence -o yaml")
            if evidence["observable"] not in self.engine.expected_observable:
                raise StepError(f"caught as {evidence['observable']}, expected {self.engine.expected_observable}")

    def evidence(self) -> dict[str, Any]:
        """Return the newest evidence.

        Raises:
            StepError: where there is none.
        """
        records = self.kubectl.objects("configmaps", f"detinf.io/document=evidence,detinf.io/name={NAME}")
        if not records:
            raise StepError("OutputsInvariant is False, and no evidence was stored")
        newest = max(records, key=lambda record: record["metadata"]["creationTimestamp"])
        return dict(json.loads(next(iter(newest["data"].values()))))

    def isolated(self) -> None:
        """See the replica isolated while users are served."""
        pod = f"{NAME}-{FAULTY}-0"
        with self.story.step(
            "isolated",
            f"Replica {FAULTY} leaves the Service, because its peer passes the same check; requests keep succeeding.",
            about_seconds=20,
        ):
            self.story.wait(
                f"{pod} to leave the Service", lambda: None if pod in self.endpoints() else "left", seconds=90
            )
            self.story.say(f"the Service sends to: {', '.join(self.endpoints())}")
            saw = self.more_answers(20, seconds=180)
            self.story.say(
                f"since then: {saw['answers']} answers, {saw['failed']} failed, {saw['different']} different"
            )
            if saw["failed"] or saw["different"]:
                raise StepError(f"users must not notice an isolated replica; seen: {saw} {saw['errors']}")

    def take_fault_away(self, pod: str, faulty_uid: str) -> None:
        """Switch the fault off; a pod that is being replaced already takes it along.

        Raises:
            KubectlError: where the pod is there and it could not be done.
        """
        if self.pod(FAULTY).get("metadata", {}).get("uid") != faulty_uid:
            return
        try:
            self.kubectl("exec", pod, "-c", "engine", "--", *self.engine.fault_off)
        except KubectlError:
            metadata = self.pod(FAULTY).get("metadata", {})
            if metadata.get("uid") == faulty_uid and not metadata.get("deletionTimestamp"):
                raise

    def recovery(self, faulty_uid: str, faulty_boot: str) -> None:
        """Take the fault away; see the replica replaced, gated and serving."""
        pod = f"{NAME}-{FAULTY}-0"
        with self.story.step(
            "recovery",
            "The fault is removed. The operator restarts the replica, since only a new boot that passes the gate\n"
            "      clears a divergence; then it serves again.",
            about_seconds=50 + 2 * self.engine.load_seconds,
        ):
            self.take_fault_away(pod, faulty_uid)
            self.story.wait(
                "the replica to be replaced",
                lambda: "new" if self.pod(FAULTY).get("metadata", {}).get("uid", faulty_uid) != faulty_uid else None,
                seconds=180,
            )
            self.story.say("the diverged pod was replaced")
            self.story.watch(
                self.describe, self.is_ready, seconds=240 + 20 * self.engine.load_seconds, what="Ready=True again"
            )
            self.story.wait(f"{pod} to serve", lambda: "yes" if pod in self.endpoints() else None, seconds=60)
            saw = self.more_answers(20, seconds=180)
            if saw["failed"] or saw["different"]:
                raise StepError(f"a recovered resource must answer every request alike; seen: {saw}")
            total = self.seen()
            wrong = {boot for boot, of_boot in total["boots"].items() if of_boot["different"]}
            self.story.say(
                f"the user's whole run: {total['answers']} answers from {len(total['boots'])} boots; {total['failed']} "
                f"failed, in flight when the engine was killed; {total['different']} different, "
                "all from the faulty boot before it was isolated"
            )
            if wrong - {faulty_boot}:
                raise StepError(f"another boot than the faulty one answered differently: {total['boots']}")

    def controller_never_crashed(self) -> None:
        """A controller that crashes and comes back does most of its work all the same; that is no success.

        Raises:
            StepError: where it was restarted.
        """
        for pod in self.operator.objects("pods", "app.kubernetes.io/part-of=detinf"):
            statuses = pod.get("status", {}).get("containerStatuses", [])
            if count := sum(item["restartCount"] for item in statuses):
                raise StepError(f"the controller {pod['metadata']['name']} was restarted {count} times")

    def play(self) -> None:
        """Run all steps, from the resource on."""
        self.model()
        self.create()
        self.load()
        self.controller_down()
        uid = self.pod(FAULTY)["metadata"]["uid"]
        self.fault()
        boot = self.evidence()["boot"]
        self.isolated()
        self.recovery(uid, boot)
        self.controller_never_crashed()


STEPS = 7

KILL_ENGINE = """
import os, signal
# The guard is process 1; the engine is its child.
children = open('/proc/1/task/1/children').read().split()
os.kill(int(children[0]), signal.SIGKILL)
"""


def restarts(pod: dict[str, Any]) -> int:
    """Return how often the engine container has been restarted."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return sum(item["restartCount"] for item in statuses if item["name"] == "engine")


def model_maker(engine: Engine, namespace: str) -> list[dict[str, Any]]:
    """Return the pod that writes the model, as root, because the node made the folder; and its script."""
    scripts = {engine.script.name: engine.script.read_text(encoding="utf-8")} if engine.script else {}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "make-model", "namespace": namespace},
        "data": scripts,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "make-model", "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
            "containers": [
                {
                    "name": "make-model",
                    "image": engine.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": engine.make_model,
                    "volumeMounts": [
                        {"name": "models", "mountPath": "/models"},
                        {"name": "script", "mountPath": "/script", "readOnly": True},
                    ],
                }
            ],
            "volumes": [
                {"name": "models", "hostPath": {"path": MODELS, "type": "DirectoryOrCreate"}},
                {"name": "script", "configMap": {"name": "make-model"}},
            ],
        },
    }
    return [config, pod]


def client(engine: Engine, namespace: str, host: str, script: str) -> list[dict[str, Any]]:
    """Return the user: a ConfigMap with its script, and a pod that runs it."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CLIENT, "namespace": namespace},
        "data": {"load_client.py": script},
    }
    environment = {
        "TARGET_HOST": host,
        "TARGET_PORT": "8000",
        "TARGET_MODEL": NAME,
        "PAUSE_SECONDS": str(engine.user_pause_seconds),
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "client",
                    "image": engine.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "/client/load_client.py"],
                    "env": [{"name": key, "value": value} for key, value in environment.items()],
                    "volumeMounts": [
                        {"name": "script", "mountPath": "/client", "readOnly": True},
                        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the pod
                    ],
                }
            ],
            "volumes": [{"name": "script", "configMap": {"name": CLIENT}}, {"name": "tmp", "emptyDir": {}}],
        },
    }
    return [config, pod]
