"""The controller's own process, with what it says of itself, and what a user does and sees while it runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from audit import Audit

from detinf.api import names

CHILDREN = "statefulsets,services,configmaps,poddisruptionbudgets"
OWN = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"
WAIT = "--timeout=60s"
CHARTS_LEASE = ("--lease-namespace", "detinf-system", "--lease-name", "detinf")

Kubectl = Callable[..., str]


class Controller:
    """The controller's process, which can be restarted."""

    def __init__(
        self, folder: Path, kubeconfig: Path, port: int, *more: str, lease: Sequence[str] = CHARTS_LEASE
    ) -> None:
        self.port = port
        self.log = folder / "controller.log"
        config = folder / "config.yaml"
        config.write_text("probeImage: localhost/detinf/probe:dev\ndefaultProfile: simulated\n", encoding="utf-8")
        self.command = [sys.executable, "-m", "detinf.controller", "--config", str(config)]
        self.command += ["--kubeconfig", str(kubeconfig), "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += [*lease, *more]
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> subprocess.Popen[bytes]:
        """Start it, and do not wait."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        return self.process

    def start(self) -> None:
        """Start it, and wait until it is Ready: it works then, or could take over."""
        self.begin()
        self.until("ready", lambda: self.page("readyz") == "ok\n")

    def stop(self) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(60) == 0, self.log.read_text(encoding="utf-8")[-2000:]

    def end(self) -> None:
        """Stop it however it is."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)

    def page(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            return ""

    def metric(self, name: str) -> int:
        """Return the sum of a series of its metrics."""
        counts = re.findall(rf"^{name}\{{.*\}} (\S+)$", self.page("metrics"), re.MULTILINE)
        return sum(int(float(count)) for count in counts)

    def looked(self) -> int:
        """Return how often it has reconciled a resource, by its own metrics."""
        return self.metric("controller_runtime_reconcile_total")

    def leads(self) -> bool:
        """Return whether it says that it leads."""
        return self.metric("leader_election_master_status") == 1

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged, kopf's lines included."""
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line[:1] == "{" and line[-1:] == "}"]

    def said(self, event: str) -> bool:
        """Return whether it logged an event of ours."""
        return any(line.get("event") == event for line in self.lines())

    def failures(self, namespace: str) -> list[str]:
        """Return what it logged of reconciliations in a namespace that ended with an error."""
        return [
            json.dumps(line)
            for line in self.lines()
            if line.get("event") == "reconcile failed" and line.get("namespace") == namespace
        ]

    def look_again(self, audit: Audit, namespace: str, times: int, name: str = "a") -> None:
        """Wait until it has begun so many more passes over a resource; all but the last are then in the audit log."""
        before = audit.looks(namespace, name)
        self.until(f"{times} more looks", lambda: audit.looks(namespace, name) >= before + times)

    def until(self, what: str, ask: Callable[[], bool], seconds: float = 120) -> None:
        limit = time.monotonic() + seconds
        while not ask():
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")[-2000:]
            assert time.monotonic() < limit, f"no {what} after {seconds} s"
            time.sleep(0.1)


def resource(name: str = "a", **spec: Any) -> str:
    source = {"persistentVolumeClaim": {"claimName": "models"}}
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {"model": {"source": source}, "replicas": 2} | spec,
    }
    return json.dumps(manifest)


def make(kubectl: Kubectl, name: str = "a", **spec: Any) -> None:
    """Apply a resource, and wait until its last child and its status are there."""
    kubectl("apply", "--server-side", "-f", "-", given=resource(name, **spec))
    kubectl("wait", "--for=create", f"statefulset/{name}-1", WAIT)
    kubectl("wait", "--for=condition=SpecValid", f"detinf/{name}", WAIT)


def settle(kubectl: Kubectl, name: str = "a", seconds: float = 120) -> None:
    """Wait until nothing more happens by itself: the status repeats the scheduler's words about both pods."""
    limit = time.monotonic() + seconds
    while True:
        told = kubectl("get", "detinf", name, "-o", "jsonpath={.status.replicaStates[*].message}")
        if told.count("no nodes available") == 2:
            return
        assert time.monotonic() < limit, told
        time.sleep(0.2)


def children(kubectl: Kubectl, name: str = "a") -> dict[str, str]:
    """Return the uids of a resource's children by KIND/NAME."""
    listed = json.loads(kubectl("get", CHILDREN, "-l", f"{OWN},{names.LABEL_NAME}={name}", "-o", "json"))["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in listed}
