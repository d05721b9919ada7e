"""Small resources in namespaces of their own, what goes wrong with them, and what the cluster says of that."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubectl import Kubectl, KubectlError
from scenario import NAME, Scene
from story import StepError

TOLD_SECONDS = 180
"""A generous limit: what is waited for takes a tenth of it, on a machine that has nothing else to do."""
READY_SECONDS = 300
SWITCH = ("python3", "-m", "detinf_sim", "faults")
CHILDREN = ("statefulsets", "services", "configmaps", "poddisruptionbudgets", "pods")


class BadScene(Scene):
    """A resource named like the demo's, with replicas of one NPU each, in a namespace of its own."""

    def __init__(self, scene: Scene, namespace: str) -> None:
        """Make the namespace, on the cluster with the operator on it."""
        kubectl = Kubectl(scene.kubectl.binary, scene.kubectl.kubeconfig, namespace)
        super().__init__(scene.story, kubectl, scene.engine, scene.operator)
        self.ended = False
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        self.story.wait("the account of pods", lambda: self.get("serviceaccounts", "default"), seconds=60, every=0.2)

    # The resource ----------------------------------------------------------------------------------------------------

    def manifest(self, replicas: int = 1, **spec: Any) -> dict[str, Any]:
        """Return the smallest resource."""
        manifest = copy.deepcopy(self.engine.manifest)
        manifest["metadata"]["namespace"] = self.kubectl.namespace
        manifest["spec"] |= {"replicas": replicas, "parallelism": {"tensor": 1}} | spec
        return manifest

    def start(self, replicas: int = 1) -> None:
        """Apply the resource, and wait until it is Ready."""
        self.kubectl.apply(self.manifest(replicas))
        self.until_ready()

    def until_ready(self) -> None:
        """Wait until all is well."""

        def well() -> str | None:
            wanted = self.resource()["spec"]["replicas"]
            return "yes" if self.is_ready() and len(self.endpoints()) == wanted else None

        try:
            self.story.wait("Ready", well, seconds=READY_SECONDS, every=0.5)
        except StepError as error:
            raise StepError(f"{error}: {self.endpoints()}: {json.dumps(self.status(), indent=1)}") from error

    def patch(self, spec: dict[str, Any]) -> None:
        """Change the spec as its user does."""
        self.kubectl("patch", "detinf", NAME, "--type=merge", "--patch", json.dumps({"spec": spec}))

    def end(self) -> None:
        """Delete everything, so that its NPUs are free; nothing is done where that was done."""
        if self.ended:
            return
        self.ended = True
        with contextlib.suppress(KubectlError):
            self.kubectl("delete", "detinf", "--all", "--wait=false")
            self.kubectl("delete", "statefulsets,pods", "--all", "--wait=false", "--grace-period=1")
        self.story.wait("the pods to end", lambda: None if self.kubectl.objects("pods") else "gone", seconds=120)
        self.kubectl.run("delete", "namespace", self.kubectl.namespace, "--wait=false")

    # What there is to be seen ----------------------------------------------------------------------------------------

    def get(self, resource: str, name: str) -> str | None:
        """Return an object of the core's, as JSON; None where it is not there."""
        return self.kubectl.get(f"/api/v1/namespaces/{self.kubectl.namespace}/{resource}/{name}")

    def status(self) -> dict[str, Any]:
        """Return the resource's status."""
        return dict(self.resource().get("status", {}))

    def says(self, kind: str, status: str, reason: str, *parts: str, seconds: float = TOLD_SECONDS) -> str:
        """Wait until a condition says this, and return its message."""
        seen: dict[str, Any] = {}

        def said() -> str | None:
            seen.update(condition_of(self.status(), kind))
            message = str(seen.get("message", ""))
            same = (seen.get("status"), seen.get("reason")) == (status, reason)
            return message if same and all(part in message for part in parts) else None

        try:
            return self.story.wait(f"{kind}={status} ({reason}) {parts}", said, seconds=seconds, every=0.3)
        except StepError as error:
            raise StepError(f"{error}; it says {seen}") from error

    def pods(self) -> dict[str, dict[str, Any]]:
        """Return the engine pods that are not about to end, by name."""
        found = self.kubectl.objects("pods", f"detinf.io/name={NAME}")
        return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def boot(self, index: int) -> str | None:
        """Return the boot of a replica's engine, as its probe tells it."""
        path = f"/api/v1/namespaces/{self.kubectl.namespace}/pods/{NAME}-{index}-0:9400/proxy/v1/report"
        with contextlib.suppress(KubectlError):
            return json.loads(self.kubectl.get(path) or "{}").get("boot")
        return None

    def records(self, document: str) -> list[dict[str, Any]]:
        """Return the records of a kind of document, the oldest first."""
        found = self.kubectl.objects("configmaps", f"detinf.io/document={document},detinf.io/name={NAME}")
        return sorted(found, key=lambda item: str(item["metadata"]["creationTimestamp"]))

    def isolated(self, index: int, uid: str) -> bool:
        """Return whether a pod was taken out of the Service because it diverged, or is gone already."""
        pod = self.pods().get(f"{NAME}-{index}-0")
        return pod is None or pod["metadata"]["uid"] != uid or is_isolated(pod)

    def until_isolated(self, index: int, uid: str) -> None:
        """Wait until a replica is out of the Service."""
        self.story.wait(
            f"replica {index} to be isolated",
            lambda: "yes" if self.isolated(index, uid) else None,
            seconds=TOLD_SECONDS,
            every=0.3,
        )

    def until_replaced(self, index: int, uid: str) -> None:
        """Wait until another pod has a replica's place."""

        def replaced() -> str | None:
            pod = self.pods().get(f"{NAME}-{index}-0")
            return "yes" if pod is not None and pod["metadata"]["uid"] != uid else None

        self.story.wait(f"another pod of replica {index}", replaced, seconds=TOLD_SECONDS, every=0.5)

    def uid(self, index: int) -> str:
        """Return the uid of a replica's pod."""
        return str(self.pod(index)["metadata"]["uid"])

    def run_remedy(self, message: str) -> str:
        """Run the first command that a message prints, word by word, and return it."""
        (command,) = re.findall(r"kubectl (delete \w+ [-a-z0-9]+(?: --cascade=orphan)?)", message)[:1]
        self.kubectl(*command.split())
        return str(command)

    # What goes wrong -------------------------------------------------------------------------------------------------

    def in_engine(self, index: int, *command: str) -> subprocess.Popen[str]:
        """Start a command in a replica's engine."""
        words = ["--namespace", self.kubectl.namespace, "exec", f"{NAME}-{index}-0", "-c", "engine", "--", *command]
        return subprocess.Popen(
            [self.kubectl.binary, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"KUBECONFIG": str(self.kubectl.kubeconfig)},
        )

    def fault(self, *indices: int, fault: str = "F20") -> None:
        """Switch a fault on in replicas, in all of them at once."""
        running = [self.in_engine(index, *SWITCH, "set", fault) for index in indices]
        for index, process in zip(indices, running, strict=True):
            said, _ = process.communicate(timeout=60)
            assert process.returncode == 0, f"replica {index}: {said}"

    def clear_faults(self) -> None:
        """Switch all faults off, wherever there is an engine."""
        running = [self.in_engine(int(name.split("-")[1]), *SWITCH, "clear") for name in self.pods()]
        for process in running:
            process.communicate(timeout=60)  # one that has no engine has no fault

    def mend(self) -> None:
        """Take all faults away, and have what diverged or failed made anew without its drain; nothing is waited for."""
        self.clear_faults()
        bad = [row for row in self.status().get("replicaStates", []) if row["state"] != "Serving"]
        names = {f"{NAME}-{row['index']}-0" for row in bad}
        going = [name for name, pod in self.pods().items() if name in names or is_isolated(pod)]
        if going:
            self.kubectl("delete", "pods", *going, "--grace-period=1", "--wait=false", "--ignore-not-found")

    def settle(self) -> None:
        """Mend it, and wait until all is well."""
        self.mend()
        self.until_ready()

    def process_of(self, index: int, words: str) -> int:
        """Return the id, on this machine, of a process in a replica's pod by words of its command line."""
        uid = self.uid(index)
        found = [
            process
            for process in processes()
            if words in read(process, "cmdline").replace("\0", " ")
            and (uid in read(process, "cgroup") or uid.replace("-", "_") in read(process, "cgroup"))
        ]
        assert found, f"no process {words!r} in the pod of replica {index}"
        return min(found)

    def kill_probe(self, index: int) -> None:
        """Kill a probe, which is process 1 of its container: from outside, where a signal reaches it."""
        os.kill(self.process_of(index, "detinf.probe"), signal.SIGKILL)

    @contextlib.contextmanager
    def full_quota(self) -> Iterator[None]:
        """Let no further ConfigMap be made inside the block."""
        used = str(len(self.kubectl.objects("configmaps")))
        metadata = {"name": "full", "namespace": self.kubectl.namespace}
        spec = {"hard": {"count/configmaps": used}}
        self.kubectl.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": spec})
        self.story.wait(
            "the quota to be counted",
            lambda: json.loads(self.get("resourcequotas", "full") or "{}").get("status", {}).get("used"),
            seconds=60,
            every=0.2,
        )
        try:
            yield
        finally:
            self.kubectl("delete", "resourcequota", "full")

    def edit_service(self, *, selector: dict[str, str] | None = None) -> None:
        """Edit the Service so that server-side apply cannot mend it: its port's name is another port's now."""
        ports = [{"name": "http", "port": 9, "targetPort": 9, "protocol": "TCP"}]
        spec = {"ports": ports} | ({"selector": selector} if selector else {})
        patch = json.dumps({"spec": spec})
        self.kubectl("patch", "service", NAME, "--type=merge", "--field-manager=kubectl-edit", "--patch", patch)


def condition_of(status: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a condition of a status; empty where it is not there."""
    return next((item for item in status.get("conditions", []) if item["type"] == kind), {})


def labels_of(pod: dict[str, Any]) -> dict[str, str]:
    return dict(pod["metadata"].get("labels", {}))


def is_isolated(pod: dict[str, Any]) -> bool:
    """Return whether a pod has both labels of one that diverged."""
    labels = labels_of(pod)
    return labels.get("detinf.io/serving") == "false" and "detinf.io/diverged-boot" in labels


def is_serving(pod: dict[str, Any]) -> bool:
    """Return whether a pod is one that the Service is to send to."""
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and labels_of(pod).get("detinf.io/serving") != "false"


def processes() -> list[int]:
    """Return the processes of this machine; those in its containers have ids here too."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def read(process: int, name: str) -> str:
    """Return a file of a process; nothing where the process has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/{name}").read_text(encoding="utf-8", errors="replace")
    return ""


def looks(seconds: float, every: float = 0.3) -> Iterator[float]:
    """Yield the seconds since the beginning, again and again, until the limit."""
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        yield now
        time.sleep(every)
