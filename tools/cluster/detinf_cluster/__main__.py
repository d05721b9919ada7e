"""The command line; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from detinf_cluster.cache import ClusterError, alone, cluster_dir, say

EPILOG = """\
examples:
  python -m detinf_cluster up                              a node with eight simulated NPUs, named detinf
  export KUBECONFIG=$(python -m detinf_cluster kubeconfig)
  python -m detinf_cluster kubectl -- get nodes
  python -m detinf_cluster down

where Kubernetes' programs come from (--from, or the variable DETINF_KUBERNETES):
  build     from Go modules; needs Go 1.26, some 7 minutes the first time (the default)
  release   official downloads, checked; DETINF_KUBERNETES_RELEASES and DETINF_ETCD_RELEASES name mirrors
  FOLDER    a folder of yours that has them; KUBEBUILDER_ASSETS names one too, where nothing else is said
The node size builds runc, the pause program and the device plug-in with Go in any case.

Everything is kept in ~/.cache/detinf (DETINF_CACHE moves it). Exit code 1: something is missing or failed, and the
last line on standard error says what.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="python -m detinf_cluster",
        description="A real Kubernetes on one Linux machine, for tests and the demo.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, words: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")

    up = command("up", "start a cluster; nothing is done where it is up")
    up.add_argument(
        "--size",
        choices=["control-plane", "node"],
        default="node",
        help="node: kubelet, containerd and NPUs too (needs root); control-plane: API server, scheduler and "
        "controllers on loopback, in the foreground (default: %(default)s)",
    )
    down = command("down", "end a cluster and remove what it leaves; nothing is done where there is none")
    status = command("status", "say whether a cluster of the node size is up (exit code 1: it is not)")
    kubeconfig = command("kubeconfig", "print the path of a cluster's kubeconfig")
    kubectl = command("kubectl", "run kubectl on a cluster: kubectl --name NAME -- get pods")
    load = command("load-image", "import an OCI archive into a cluster's node")
    for one in (up, down, status, kubeconfig, kubectl, load):
        one.add_argument("--name", default="detinf", help="the cluster's name (default: %(default)s)")
    kubectl.add_argument("arguments", nargs="*", help="what kubectl is to do")
    load.add_argument("archive", type=Path, help="the OCI archive's file")
    build = command("build", "have programs ready: built, or downloaded with --from release")
    build.add_argument(
        "programs",
        nargs="*",
        metavar="PROGRAM",
        help="kube (the default), helm, health, runc, pause, npu-device-plugin",
    )
    for one in (up, build, kubectl):
        one.add_argument("--from", dest="source", metavar="SOURCE", help="build, release or a folder; see above")
    relay = commands.add_parser("relay")  # internal: forward a listening socket to a cluster's socket
    relay.add_argument("descriptor", type=int)
    relay.add_argument("socket", type=Path)
    return top


def control_plane(name: str) -> int:
    """Run a control plane in the foreground, until it is interrupted."""
    from detinf_cluster.control_plane import ControlPlane

    running = f"{name} is a control plane in the foreground of process {os.getpid()}; Ctrl-C there ends it"
    with alone(name, running), ControlPlane(cluster_dir(name)) as cluster:
        ending = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ending.set())
        # Only now: whoever reads this may end it at once.
        say(f"{name}: control plane up after {cluster.seconds:.1f} s; KUBECONFIG={cluster.kubeconfig}; Ctrl-C ends it")
        ending.wait()
    return 0


def build(names: list[str]) -> int:
    """Have programs ready.

    Raises:
        ClusterError: where one is not known, or cannot be had.
    """
    from detinf_cluster.build import PROGRAMS, binary
    from detinf_cluster.sources import CONTROL_PLANE, programs

    for name in names or ["kube"]:
        if name not in PROGRAMS:
            raise ClusterError(f"{name!r} is no program; there are {', '.join(PROGRAMS)}")
        found = programs(CONTROL_PLANE).values() if name == "kube" else [binary(name)]
        for path in dict.fromkeys(found):
            say(f"{name}: {path}")
    return 0


def main() -> int:
    """Run a command.

    Raises:
        ClusterError: where it cannot.
    """
    options = parser().parse_args()
    if sys.platform != "linux":
        raise ClusterError(f"this needs Linux, and here is {sys.platform}; use a cluster you have: KUBECONFIG=...")
    if getattr(options, "source", None):
        os.environ["DETINF_KUBERNETES"] = options.source
    if options.command == "build":
        return build(options.programs)
    if options.command == "relay":
        import asyncio

        from detinf_cluster.relay import listen_outside

        asyncio.run(listen_outside(options.descriptor, options.socket))
        return 0
    if options.command == "up" and options.size == "control-plane":
        return control_plane(options.name)
    return on_cluster(options)


def on_cluster(options: argparse.Namespace) -> int:
    """Run a command on a cluster of the node size."""
    # Only now: some of what these modules need exists on Linux alone.
    from detinf_cluster.lifecycle import Cluster, find_kubectl

    cluster = Cluster(options.name)
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
        environment = os.environ | {"KUBECONFIG": str(cluster.kubeconfig)}
        command = [str(find_kubectl()), *options.arguments]
        return subprocess.run(command, check=False, env=environment).returncode
    return 0


def run() -> int:
    """Run a command; say in one line on standard error what is wrong."""
    try:
        return main()
    except ClusterError as error:
        print(f"cluster: {' '.join(str(error).split())}", file=sys.stderr)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"cluster: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("cluster: interrupted", file=sys.stderr)
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(run())
