"""The node-size cluster itself: what it offers, that two do not meet, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from detinf_cluster.cache import HERE, ClusterError, cluster_dir
from detinf_cluster.lifecycle import Cluster
from detinf_cluster.node import BRIDGE, LABELS, cgroup_roots
from detinf_cluster.processes import is_alive
from kubectl import Kubectl

pytestmark = pytest.mark.e2e

NAME = f"e2e-{hashlib.sha256(bytes(HERE)).hexdigest()[:6]}"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1"}


def the_node(cluster: Cluster) -> dict[str, dict[str, dict[str, str]]]:
    kubectl = Kubectl(cluster.kubectl, cluster.kubeconfig, "default")
    return dict(json.loads(kubectl.run("get", "node", "node1", "-o", "json")))


def test_node_is_an_atlas_a2_with_eight_npus(node: Cluster) -> None:
    seen = the_node(node)
    assert LABELS.items() <= seen["metadata"]["labels"].items()
    assert seen["status"]["allocatable"]["huawei.com/Ascend910"] == "8"


def command(*arguments: str, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the tool's own command."""
    program = [*prefix, sys.executable, "-m", "detinf_cluster", *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False, env=ENVIRONMENT)


def fine(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def namespace(process: int | str) -> str:
    """Return a process' mount namespace."""
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{process}/ns/mnt").readlink())
    return ""


def processes_of(cluster: Cluster) -> list[int]:
    """Return everything that runs for a cluster, inside its namespaces and outside."""
    state = cluster.state()
    first = Path(f"/proc/{state['inside']}/task/{state['inside']}/children").read_text(encoding="ascii").split()[0]
    entries = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    inside = [int(name) for name in entries if namespace(name) == namespace(first)]
    return [*inside, *state.values()]


def leaves_nothing(cluster: Cluster, *processes: int) -> bool:
    assert not cluster.folder.exists()
    assert cluster.state() == {}
    assert not [process for process in processes if is_alive(process)]
    assert not any((root / cluster.cgroup).exists() for root in cgroup_roots())
    assert str(cluster.folder) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert not Path("/sys/class/net", BRIDGE).exists()
    return True


def test_second_cluster_lives_beside_the_first_and_leaves_nothing(node: Cluster) -> None:
    other = Cluster(f"{node.name}-two")
    other.up()
    state, running = other.state(), processes_of(other)
    try:
        assert the_node(other)["metadata"]["uid"] != the_node(node)["metadata"]["uid"]
        other.up()  # already up: nothing happens
        assert other.state() == state
    finally:
        other.down()
    assert leaves_nothing(other, *running)
    assert the_node(node)["status"]["allocatable"]["huawei.com/Ascend910"] == "8"


def test_up_after_kills_cleans_what_they_left() -> None:
    cluster = Cluster(f"{NAME}-kill")
    try:
        # The command is killed while the cluster starts: what it started goes on, and is not taken for a cluster.
        up = [sys.executable, "-m", "detinf_cluster", "up", "--name", cluster.name]
        with subprocess.Popen(up, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as killed:
            assert killed.stdout is not None
            while "control plane serves" not in (line := killed.stdout.readline()):
                assert line, "it ended by itself"
            killed.send_signal(signal.SIGKILL)
        half = processes_of(cluster)
        assert len(half) > 5
        assert command("status", "--name", cluster.name).returncode == 1
        assert "is up already" not in fine(command("up", "--name", cluster.name))
        assert not [process for process in half if is_alive(process)]
        the_node(cluster)

        running = processes_of(cluster)
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        while any(is_alive(process) for process in running):
            time.sleep(0.05)
        assert command("status", "--name", cluster.name).stdout == f"{cluster.name}: not up\n"
        fine(command("up", "--name", cluster.name))
        the_node(cluster)
        assert "is up already" in fine(command("up", "--name", cluster.name))

        running = processes_of(cluster)
        os.kill(cluster.state()["relay"], signal.SIGKILL)  # nothing of the rest is reached without it
        assert command("status", "--name", cluster.name).returncode == 1
    finally:
        for _ in range(2):
            fine(command("down", "--name", cluster.name))
    assert leaves_nothing(cluster, *running)


@pytest.fixture
def small_disk() -> Iterator[tuple[str, ...]]:
    """A small disk where clusters are kept, in a mount namespace of the test's own; what to run commands there with."""
    clusters = cluster_dir("x").parent
    clusters.mkdir(exist_ok=True)
    with subprocess.Popen(["unshare", "--mount", "cat"], stdin=subprocess.PIPE) as keeper:
        while namespace(keeper.pid) == namespace("self"):
            assert keeper.poll() is None
        there = ("nsenter", "--target", str(keeper.pid), "--mount", "--")
        subprocess.run([*there, "mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(clusters)], check=True)
        yield there
        assert keeper.stdin is not None
        keeper.stdin.close()


def test_full_disk_is_told_and_a_cluster_comes_up_when_there_is_room(small_disk: tuple[str, ...]) -> None:
    cluster = Cluster(f"{NAME}-full")
    up = ("up", "--name", cluster.name)

    def refused(words: str) -> None:
        done = command(*up, prefix=small_disk)
        assert done.returncode == 1, done.stdout
        assert re.fullmatch(rf"cluster: the disk of {cluster.folder} {words}.*\n", done.stderr), done.stderr
        assert cluster.state() == {}

    def resize(options: str) -> None:
        mount = ["mount", "-o", f"remount,{options}", str(cluster.folder.parent)]
        subprocess.run([*small_disk, *mount], check=True)

    try:
        refused(r"has \d+ MiB left, and a cluster needs 400; make room")
        resize("size=700m,nr_inodes=60")  # it looks large enough, and fills while the cluster starts
        refused("is full; make room")
        resize("nr_inodes=100k")
        fine(command(*up, prefix=small_disk))
        fill = f"dd if=/dev/zero of={cluster.folder.parent}/filler bs=1M"
        assert (
            "No space left"
            in subprocess.run([*small_disk, *fill.split()], capture_output=True, text=True, check=False).stderr
        )
        for process in cluster.state().values():
            os.kill(process, signal.SIGKILL)
        refused(r"has \d+ MiB left, and a cluster needs 400; make room")
        subprocess.run([*small_disk, "rm", f"{cluster.folder.parent}/filler"], check=True)
        fine(command(*up, prefix=small_disk))
        assert "node1" in fine(command("kubectl", "--name", cluster.name, "--", "get", "nodes", prefix=small_disk))
        running = processes_of(cluster)
    finally:
        fine(command("down", "--name", cluster.name, prefix=small_disk))
    assert leaves_nothing(cluster, *running)


def test_broken_archive_is_refused_by_name(node: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="is no file"):
        node.load_image(tmp_path / "none.tar")
