"""The tool's own command where it cannot do what it is asked to: one clear line on standard error, and exit code 1."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from detinf_cluster import control_plane
from detinf_cluster.cache import cluster_dir
from detinf_cluster.control_plane import ControlPlane
from detinf_cluster.processes import free_port, is_alive
from tool_environment import Command, environment

NODE_TOOLS = ("containerd", "iptables", "ip", "conntrack", "unshare", "go", "apt-get")


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that the command says."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("cluster: ")
    return lines[0].removeprefix("cluster: ")


def path_of(folder: Path, tools: Sequence[str]) -> str:
    """Return a PATH with these tools alone; those that are not installed here are stood in for."""
    folder.mkdir()
    for tool in tools:
        found = shutil.which(tool)
        if found:
            (folder / tool).symlink_to(found)
        else:
            (folder / tool).write_text("#!/bin/sh\n", encoding="utf-8")
            (folder / tool).chmod(0o755)
    return str(folder)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a user who is not root is told so before anything else")


def test_help_tells_commands_examples_and_sources(command: Command) -> None:
    done = command("--help")
    assert done.returncode == 0
    for words in ("up  ", "down", "kubeconfig", "load-image", "examples:", "DETINF_KUBERNETES", "KUBEBUILDER_ASSETS"):
        assert words in done.stdout
    assert "relay" not in done.stdout  # internal


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_system_than_linux_is_told(command: Command, platform: str) -> None:
    without = "fcntl" if platform == "win32" else "none"  # Windows' Python lacks it
    first = f"import sys; sys.platform = {platform!r}; sys.modules[{without!r}] = None"
    for arguments in (["up"], ["up", "--size", "control-plane"], ["build"], ["status"], ["down"]):
        line = told(command(*arguments, first=first))
        assert line == f"this needs Linux, and here is {platform}; use a cluster you have: KUBECONFIG=..."
    assert command("--help", first=first).returncode == 0


def test_user_who_is_not_root_is_told(command: Command) -> None:
    # Somebody else, who may read this checkout wherever it lies.
    rights = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    prefix = ("setpriv", "--reuid", "65534", *rights) if os.geteuid() == 0 else ()
    assert told(command("up", prefix=prefix)).startswith("the node size needs root")


def test_machine_without_go_is_told(command: Command, tmp_path: Path) -> None:
    path = path_of(tmp_path / "bin", ["sh", "setpriv"])
    line = told(command("build", PATH=path, DETINF_KUBERNETES=None, KUBEBUILDER_ASSETS=None))
    assert line.startswith("go is not on PATH, and kube is built with it; install Go 1.26 or newer (or DETINF_KUBERN")
    assert told(command("build", "helm", PATH=path)) == (
        "go is not on PATH, and helm is built with it; install Go 1.26 or newer"
    )


def test_go_that_is_too_old_is_told(command: Command, tmp_path: Path) -> None:
    path = path_of(tmp_path / "bin", [])
    go = Path(path) / "go"
    go.write_text(
        "#!/bin/sh\necho 'go: go.mod requires go >= 1.26.0 (running go 1.19)' >&2\nexit 1\n", encoding="utf-8"
    )
    go.chmod(0o755)
    assert told(command("build", PATH=f"{path}:/usr/bin:/bin")).endswith("requires go >= 1.26.0 (running go 1.19)")


@needs_root
def test_missing_packages_without_apt_are_named(command: Command, tmp_path: Path) -> None:
    present = set(NODE_TOOLS) - {"containerd", "conntrack", "apt-get"}
    line = told(command("up", PATH=path_of(tmp_path / "bin", sorted(present))))
    assert line == "missing: conntrack, containerd; install them (Debian: apt install conntrack containerd)"


@needs_root
def test_apt_that_fails_is_told_with_what_is_missing(command: Command, tmp_path: Path) -> None:
    path = path_of(tmp_path / "bin", ["sh", *sorted(set(NODE_TOOLS) - {"containerd", "apt-get"})])
    apt = Path(path) / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: no network'>&2\necho 'E: not at all'>&2\nexit 100\n", encoding="utf-8")
    apt.chmod(0o755)
    line = told(command("up", PATH=path))
    assert line == "missing: containerd; apt-get update -q failed: E: no network E: not at all"


def test_folder_that_lacks_the_nodes_programs_is_told(command: Command, tmp_path: Path) -> None:
    assets = path_of(tmp_path / "assets", ["etcd", "kube-apiserver", "kubectl"])
    line = told(command("up", "--size", "control-plane", KUBEBUILDER_ASSETS=assets, DETINF_KUBERNETES=None))
    assert line.startswith(f"KUBEBUILDER_ASSETS: {assets} has no program kube-controller-manager, kube-scheduler;")


def test_cache_that_cannot_be_written_is_told(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    line = told(command("up", "--size", "control-plane", DETINF_CACHE=str(tmp_path / "file" / "cache")))
    assert line == f"{tmp_path}/file/cache: Not a directory"


@pytest.mark.parametrize("name", ["", "a/b", "x" * 21])
def test_name_that_is_none_is_told(command: Command, name: str) -> None:
    assert told(command("down", "--name", name)).startswith(f"--name: {name!r} is no name; use up to 20")


def test_program_that_is_not_known_is_told(command: Command) -> None:
    assert told(command("build", "kubelet")).startswith("'kubelet' is no program; there are kube, ")


def test_cluster_that_is_not_there_is_told(command: Command, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    assert told(command("load-image", str(archive))) == f"{archive} is no file; build it first (make images)"
    archive.write_bytes(b"")
    assert told(command("load-image", str(archive))) == "detinf is not up; start it with: up --size node --name detinf"
    assert command("status").stdout == "detinf: not up\n"
    for _ in range(2):
        down = command("down")
        assert (down.returncode, down.stdout) == (0, "cluster: detinf is down\n")


@pytest.mark.cluster
def test_control_plane_is_started_once_and_again_after_it_was_killed(command: Command) -> None:
    name = f"killed-{os.getpid()}"
    up = [sys.executable, "-m", "detinf_cluster", "up", "--size", "control-plane", "--name", name]
    children: list[str] = []
    first = subprocess.Popen(up, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert first.stdout is not None
        assert f"{name}: control plane up after" in first.stdout.readline()
        running = f"{name} is a control plane in the foreground of process {first.pid}; Ctrl-C there ends it"
        for arguments in (up[3:], ["down", "--name", name]):
            assert told(command(*arguments, DETINF_CACHE=None)) == running
        children += Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text(encoding="ascii").split()
        assert len(children) == 4
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    while any(is_alive(int(child)) for child in children):
        time.sleep(0.05)  # they end with their parent; the test's own limit is the limit
    again = subprocess.Popen(up, stdout=subprocess.PIPE, text=True, env=environment())
    try:
        assert again.stdout is not None
        assert f"{name}: control plane up after" in again.stdout.readline()
    finally:
        again.send_signal(signal.SIGINT)
        again.communicate()
    assert again.returncode == 0
    assert command("down", "--name", name, DETINF_CACHE=None).returncode == 0
    assert not cluster_dir(name).exists()


@pytest.mark.cluster
def test_ports_that_were_taken_meanwhile_are_replaced_by_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        # The API server's the first time, etcd's the second.
        ports = iter([taken, free_port(), free_port(), free_port(), taken, free_port()])
        monkeypatch.setattr(control_plane, "free_port", lambda: next(ports, None) or free_port())
        with ControlPlane() as cluster:
            assert cluster.port != taken
    assert capsys.readouterr().out.count("a port was taken meanwhile") == 2
