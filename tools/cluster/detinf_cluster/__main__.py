"""The command line; see the package's docstring."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from detinf_cluster.build import PROGRAMS, binary
from detinf_cluster.cache import ClusterError, cluster_dir, say
from detinf_cluster.control_plane import ControlPlane
from detinf_cluster.lifecycle import Cluster, control_plane_applets
from detinf_cluster.relay import listen_outside


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="detinf_cluster", description="A real Kubernetes on one machine.")
    commands = top.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build binaries into the cache")
    build.add_argument("programs", nargs="*", choices=[*PROGRAMS, []], default=[])
    for name, words in (
        ("up", "start a cluster"),
        ("down", "end it and remove what it leaves"),
        ("status", "say what runs"),
        ("kubeconfig", "print the kubeconfig's path"),
        ("load-image", "import an OCI archive into the node"),
        ("kubectl", "run kubectl: kubectl --name NAME -- get pods"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("--name", default="detinf")
        if name == "up":
            command.add_argument("--size", choices=["control-plane", "node"], default="node")
        if name == "load-image":
            command.add_argument("archive", type=Path)
        if name == "kubectl":
            command.add_argument("arguments", nargs="*")
    relay = commands.add_parser("relay", help="(internal) forward a loopback port to a cluster's socket")
    relay.add_argument("port", type=int)
    relay.add_argument("socket", type=Path)
    return top


def control_plane(name: str) -> int:
    """Run a control plane in the foreground, until it is interrupted."""
    folder = cluster_dir(name)
    with ControlPlane(folder) as cluster:
        say(f"{name}: control plane up after {cluster.seconds:.1f} s; KUBECONFIG={cluster.kubeconfig}; Ctrl-C ends it")
        ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
        ending.wait()
    return 0


def main() -> int:
    """Run a command."""
    options = parser().parse_args()
    if options.command == "build":
        for program in options.programs or ["kube"]:
            say(f"{program}: {binary(program)}")
        return 0
    if options.command == "relay":
        asyncio.run(listen_outside(options.port, options.socket))
        return 0
    cluster = Cluster(options.name)
    if options.command == "up" and options.size == "control-plane":
        return control_plane(options.name)
    if options.command == "up":
        cluster.up()
    elif options.command == "down":
        cluster.down()
        say(f"{options.name} is down")
    elif options.command == "load-image":
        cluster.load_image(options.archive)
    elif options.command == "status":
        up = cluster.is_up()
        print(f"{options.name}: {'up, ' + str(cluster.kubeconfig) if up else 'not up'}")
        return 0 if up else 1
    elif options.command == "kubeconfig":
        print(cluster.kubeconfig)
    else:
        kubectl = control_plane_applets() / "kubectl"
        environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
        return subprocess.run([str(kubectl), *options.arguments], check=False, env=environment).returncode
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        sys.exit(1)
