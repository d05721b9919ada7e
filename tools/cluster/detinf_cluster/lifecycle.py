"""A cluster's life from the outside: up, status, down, and what a crash left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from detinf_cluster import debian
from detinf_cluster.build import binary
from detinf_cluster.cache import HERE, ClusterError, alone, cache_dir, cluster_dir, say
from detinf_cluster.certificates import write_kubeconfig
from detinf_cluster.node import cgroup_roots
from detinf_cluster.processes import is_alive
from detinf_cluster.sources import CONTROL_PLANE, NODE, link, programs

_OUTLIVING: list[subprocess.Popen[bytes]] = []
"""Processes that run on when the command that started them has ended: kept, so that nobody calls them forgotten."""

UP_SECONDS = 240
DOWN_SECONDS = 120
NEEDED_MIB = 400
"""etcd alone reserves 128 MiB for its log; a cluster without images takes some 200."""


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
    def socket(self) -> Path:
        """The API server's, for the forwarder."""
        return self.folder / "api.sock"

    @property
    def kubectl(self) -> str:
        """The kubectl of the same binary."""
        return str(self.folder / "control" / "bin" / "kubectl")

    @property
    def cgroup(self) -> str:
        """The name of its cgroup."""
        return f"detinf-{self.name}"

    def state(self) -> dict[str, int]:
        """Return its first process and its forwarder by id, as far as they run.

        They are found by their command lines: a note would be lost on a full disk, and ids are used again.
        """
        found: dict[str, int] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "relay" in words and str(self.socket) in words:
                    found["relay"] = int(entry.name)
                elif words[0] == "unshare" and "detinf_cluster.node" in words and str(self.folder) in words:
                    found["inside"] = int(entry.name)
        return found

    def is_up(self) -> bool:
        """Return whether it came up, and its processes are alive."""
        return self.kubeconfig.exists() and len(self.state()) == 2

    def up(self) -> None:
        """Bring it up; nothing is done where it is up.

        Raises:
            ClusterError: where this machine cannot, or a part does not come up.
        """
        if os.geteuid() != 0:
            raise ClusterError(
                "the node size needs root (namespaces, cgroups, a kubelet); use sudo -E, or --size control-plane"
            )
        with alone(self.name):
            if self.is_up():
                say(f"{self.name} is up already; KUBECONFIG={self.kubeconfig}")
            else:
                self._bring_up()

    def _bring_up(self) -> None:
        debian.require(debian.NODE)
        programs((*CONTROL_PLANE, *NODE))
        for program in ("pause", "runc"):
            binary(program)
        self.clean()
        self.folder.mkdir(parents=True)
        free = shutil.disk_usage(self.folder).free
        if free < NEEDED_MIB << 20:
            self.clean()
            raise ClusterError(
                f"the disk of {self.folder} has {free >> 20} MiB left, and a cluster needs {NEEDED_MIB}; make room, or "
                "name a folder on another disk with DETINF_CACHE"
            )
        try:
            self._start()
        except BaseException as error:
            self._end()
            if _is_full(self.folder):
                raise ClusterError(f"the disk of {self.folder} is full; make room, and start it again") from error
            raise

    def _start(self) -> None:
        """Start what a cluster is from the outside, and wait until the inside is ready."""
        began = time.monotonic()
        say(f"{self.name}: starting in namespaces of its own (about 20 s)")
        log = self.folder / "up.log"
        inside = _start_outliving(
            [
                *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "detinf_cluster.node", str(self.folder), self.cgroup),
            ],
            log,
        )
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # Handed over while it listens: nobody can take the port in between.
            relay = _start_outliving(
                [sys.executable, "-m", "detinf_cluster", "relay", str(listener.fileno()), str(self.socket)],
                self.folder / "relay.log",
                listener.fileno(),
            )
            port = listener.getsockname()[1]
        self._follow(log, inside)
        if relay.poll() is not None:
            raise ClusterError(f"{self.name}: the forwarder ended with {relay.returncode}; see {self.folder}/relay.log")
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

    def down(self) -> None:
        """End it, and remove what it leaves; nothing is done where there is none."""
        with alone(self.name):
            self.clean()

    def _end(self) -> None:
        """End its processes, a crashed one's included, and remove their cgroups; the logs stay."""
        for process in self.state().values():
            end(process)
        for controller in cgroup_roots():
            remove_cgroup(controller / self.cgroup)

    def clean(self) -> None:
        """End it, and remove its folder."""
        self._end()
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

    def entered(self, *command: str) -> list[str]:
        """Return the command line that runs a command in the cluster's namespaces.

        Raises:
            ClusterError: where it is not up.
        """
        if not self.is_up():
            raise ClusterError(f"{self.name} is not up; start it with: up --size node --name {self.name}")
        # The child of unshare is the first process of the namespaces.
        unshare = self.state()["inside"]
        first = Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0]
        return ["nsenter", "--target", first, "--mount", "--net", "--pid", *command]

    def inside(self, *command: str) -> str:
        """Run a command in the cluster's namespaces, and return what it prints.

        Raises:
            ClusterError: where it fails.
        """
        done = subprocess.run(self.entered(*command), check=False, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout


def _is_full(folder: Path) -> bool:
    """Return whether a disk has no room left, or no room for another file."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < 16 << 20 or 0 <= disk.f_favail < 16 < disk.f_files


def _start_outliving(command: list[str], log: Path, *descriptors: int) -> subprocess.Popen[bytes]:
    """Start a process that runs on when this command has ended."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"},
            pass_fds=descriptors,
        )
    _OUTLIVING.append(process)
    return process


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
