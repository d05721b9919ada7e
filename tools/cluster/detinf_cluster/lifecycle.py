"""A cluster's life from the outside: up, status, down, and what a crash left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from detinf_cluster import debian
from detinf_cluster.build import binary
from detinf_cluster.cache import HERE, ClusterError, cache_dir, cluster_dir, say
from detinf_cluster.certificates import write_kubeconfig
from detinf_cluster.node import cgroup_roots
from detinf_cluster.processes import free_port, is_alive
from detinf_cluster.sources import CONTROL_PLANE, NODE, link, programs

_OUTLIVING: list[subprocess.Popen[bytes]] = []
"""Processes that run on when the command that started them has ended: kept, so that nobody calls them forgotten."""

UP_SECONDS = 240
DOWN_SECONDS = 40


@dataclass(frozen=True)
class Cluster:
    """A node-size cluster of a name."""

    name: str

    @property
    def folder(self) -> Path:
        """Where everything of it is."""
        return cluster_dir(self.name)

    @property
    def kubeconfig(self) -> Path:
        """For people and tests, through the loopback port."""
        return self.folder / "kubeconfig"

    @property
    def kubectl(self) -> str:
        """The kubectl of the same binary."""
        return str(self.folder / "control" / "bin" / "kubectl")

    @property
    def cgroup(self) -> str:
        """The name of its cgroup."""
        return f"detinf-{self.name}"

    def state(self) -> dict[str, int]:
        """Return the process ids and the port that were noted; empty where there is no cluster."""
        try:
            parsed: dict[str, int] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return parsed

    def is_up(self) -> bool:
        """Return whether its processes are alive."""
        state = self.state()
        return bool(state) and all(is_alive(state[key]) and self._is_ours(state[key]) for key in ("inside", "relay"))

    def _is_ours(self, process: int) -> bool:
        """Return whether a process id is still the process that we started; ids are used again."""
        with contextlib.suppress(OSError):
            return str(self.folder) in Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
        return False

    def up(self) -> None:
        """Bring it up; nothing is done where it is up.

        Raises:
            ClusterError: where this machine cannot, or a part does not come up.
        """
        if sys.platform != "linux":
            raise ClusterError("the node size needs Linux; use an existing cluster with KUBECONFIG=... instead")
        if os.geteuid() != 0:
            raise ClusterError("the node size needs root (namespaces, cgroups, a kubelet); run it with sudo")
        if self.is_up():
            say(f"{self.name} is up already")
            return
        debian.require(debian.NODE)
        programs((*CONTROL_PLANE, *NODE))
        for program in ("pause", "runc"):
            binary(program)
        self.clean()
        self.folder.mkdir(parents=True)
        began = time.monotonic()
        say(f"{self.name}: starting in namespaces of its own (about 20 s)")
        log = self.folder / "up.log"
        environment = os.environ | {"PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            inside = subprocess.Popen(
                [
                    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *(sys.executable, "-m", "detinf_cluster.node", str(self.folder), self.cgroup),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        port = free_port()
        with (self.folder / "relay.log").open("wb") as output:
            relay = subprocess.Popen(
                [sys.executable, "-m", "detinf_cluster", "relay", str(port), str(self.folder / "api.sock")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        _OUTLIVING.extend((inside, relay))
        note = {"inside": inside.pid, "relay": relay.pid, "port": port}
        (self.folder / "state.json").write_text(json.dumps(note), encoding="utf-8")
        try:
            self._follow(log, inside)
        except BaseException:
            self.down(keep_logs=True)
            raise
        write_kubeconfig(self.kubeconfig, f"https://127.0.0.1:{port}", self.folder / "control" / "pki", "admin")
        say(f"{self.name}: up after {time.monotonic() - began:.0f} s; KUBECONFIG={self.kubeconfig}")

    def _follow(self, log: Path, inside: subprocess.Popen[bytes]) -> None:
        """Show the progress of the inside until it is ready."""
        limit = time.monotonic() + UP_SECONDS
        shown = 0
        while True:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines[shown:]:
                if line == "READY":
                    return
                if line.startswith("FAILED "):
                    raise ClusterError(f"{self.name}: {line.removeprefix('FAILED ')}; logs: {self.folder}/logs")
                say(line)
            shown = len(lines)
            if inside.poll() is not None:
                raise ClusterError(f"{self.name}: ended with {inside.returncode}: {' | '.join(lines[-5:])}")
            if time.monotonic() > limit:
                raise ClusterError(f"{self.name}: not up after {UP_SECONDS} s; logs: {self.folder}/logs")
            time.sleep(0.2)

    def down(self, *, keep_logs: bool = False) -> None:
        """End it, and remove what it leaves: processes by id, then cgroups, then the folder."""
        state = self.state()
        for key in ("inside", "relay"):
            process = state.get(key)
            if process and is_alive(process) and self._is_ours(process):
                end(process)
        self.clean(keep_logs=keep_logs)

    def clean(self, *, keep_logs: bool = False) -> None:
        """Remove cgroups and the folder of a cluster that does not run, a crashed one's included."""
        state = self.state()
        process = state.get("inside")
        if process and is_alive(process) and self._is_ours(process):
            end(process)
        for controller in cgroup_roots():
            remove_cgroup(controller / self.cgroup)
        if not self.folder.exists():
            return
        if keep_logs:
            (self.folder / "state.json").unlink(missing_ok=True)
            return
        limit = time.monotonic() + DOWN_SECONDS
        while self.folder.exists():
            # The mounts vanish with the last process of the namespace, which may take a moment.
            shutil.rmtree(self.folder, ignore_errors=True)
            if time.monotonic() > limit:
                raise ClusterError(f"{self.name}: {self.folder} cannot be removed; is something using it?")

    def load_image(self, archive: Path) -> None:
        """Import an OCI archive into the node.

        Raises:
            ClusterError: where there is no such cluster or file.
        """
        if not archive.is_file():
            raise ClusterError(f"{archive} is no file; build it first (make images)")
        self.inside(
            "ctr",
            "--address",
            f"{self.folder}/containerd.sock",
            "--namespace",
            "k8s.io",
            "images",
            "import",
            str(archive),
        )

    def inside(self, *command: str) -> str:
        """Run a command in the cluster's namespaces, and return what it prints.

        Raises:
            ClusterError: where it fails.
        """
        if not self.is_up():
            raise ClusterError(f"{self.name} is not up; start it with: up --size node --name {self.name}")
        # The child of unshare is the first process of the namespaces.
        unshare = self.state()["inside"]
        first = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0]
        enter = ["nsenter", "--target", first, "--mount", "--net", "--pid"]
        done = subprocess.run([*enter, *command], check=False, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout


def end(process: int) -> None:
    """End a process, politely first."""
    children = Path(f"/proc/{process}/task/{process}/children")
    first = children.read_text().split() if children.exists() else []
    with contextlib.suppress(ProcessLookupError):
        # unshare only waits; what it started is told.
        os.kill(int(first[0]) if first else process, signal.SIGTERM)
    limit = time.monotonic() + DOWN_SECONDS
    while is_alive(process):
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, os.WNOHANG)
        if time.monotonic() > limit:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def remove_cgroup(path: Path) -> None:
    """Remove a cgroup and those below it; it is empty once its processes have ended."""
    if not path.is_dir():
        return
    limit = time.monotonic() + 10
    below = sorted((item for item in path.rglob("*") if item.is_dir()), key=lambda item: -len(item.parts))
    for item in [*below, path]:
        while item.is_dir():
            with contextlib.suppress(OSError):
                item.rmdir()
                break
            if time.monotonic() > limit:
                raise ClusterError(f"{item} cannot be removed; processes of the cluster are left in it")
            time.sleep(0.1)


def find_kubectl() -> Path:
    """Return kubectl, for those who need nothing else."""
    return link(cache_dir() / "bin" / "applets", ["kubectl"]) / "kubectl"
