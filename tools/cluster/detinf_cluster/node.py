"""The node size, from the inside: what runs as the first process of the cluster's own namespaces.

It starts in new network, mount and process namespaces. Everything below it ends with it, mounts and links included.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from detinf_cluster.build import binary
from detinf_cluster.cache import ClusterError
from detinf_cluster.certificates import write_kubeconfig
from detinf_cluster.control_plane import ControlPlane
from detinf_cluster.npu import DRIVER_FILES, write_tree
from detinf_cluster.processes import Processes, answers, wait_until
from detinf_cluster.relay import listen_inside
from detinf_cluster.sources import NODE as NODE_PROGRAMS
from detinf_cluster.sources import link

NODE = "node1"
BRIDGE = "detinf0"
ADDRESS = "10.244.0.1"
POD_RANGE = "10.244.0.0/24"
API_PORT = 6443
NPUS = 8
PAUSE_IMAGE = "localhost/detinf/pause:dev"
LABELS = {
    "accelerator": "huawei-Ascend910",
    "accelerator-type": "module-910b-8",
    "node.kubernetes.io/npu.chip.name": "910B3",
    "servertype": "Ascend910B-20",
    "huawei.com/driver.version": "25.5.1",
    "mind-cluster/npu-chip-memory": "64G",
    "host-arch": "huawei-x86",
}


def run(*command: str) -> str:
    """Run a command.

    Raises:
        ClusterError: where it fails, with its words.
    """
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


class Inside:
    """The cluster's parts, in the order of their start."""

    def __init__(self, folder: Path, cgroup: str) -> None:
        """Keep the cluster's folder, and the name of its cgroup."""
        self.folder = folder
        self.cgroup = cgroup
        self.processes = Processes(folder / "logs")
        self.began = time.monotonic()

    def say(self, message: str) -> None:
        """Print progress; the process outside shows it."""
        print(f"  {time.monotonic() - self.began:5.1f} s  {message}", flush=True)

    def start(self) -> None:
        """Bring everything up.

        Raises:
            ClusterError: where a part does not come up.
        """
        self.network()
        self.mounts()
        self.control_plane = ControlPlane(self.folder / "control", ADDRESS, API_PORT)
        self.control_plane.start()
        self.pki, self.bin = self.control_plane.pki, link(self.control_plane.bin, NODE_PROGRAMS)
        self.kubectl = [str(self.bin / "kubectl"), "--kubeconfig", str(self.control_plane.kubeconfig)]
        self.say(f"control plane serves on {ADDRESS}:{API_PORT}")
        threading.Thread(
            target=lambda: asyncio.run(listen_inside(self.folder / "api.sock", ADDRESS, API_PORT)), daemon=True
        ).start()
        self.containerd()
        self.say("containerd serves")
        self.kubelet()
        self.say("the node is there")
        self.kube_proxy()
        self.device_plugin()
        self.wait_ready()
        self.say(f"the node is Ready, with {NPUS} simulated NPUs")

    def network(self) -> None:
        """Loopback, and a bridge whose address is the node's: a loopback node address breaks logs and exec."""
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "addr", "add", f"{ADDRESS}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")

    def mounts(self) -> None:
        """Folders of our own where a kubelet insists on the host's, and the models' folder of the node."""
        run("mount", "--make-rprivate", "/")
        run("mount", "--make-rshared", "/")
        # A kubelet insists on /var/lib/kubelet for its sockets, CNI plug-ins keep state in /var/lib/cni, and a kubelet
        # removes logs of pods that it does not know: another cluster's, where they share the folder.
        for path in ("/var/lib", "/var/log"):
            outside = self.folder / path.removeprefix("/var/")
            outside.mkdir(exist_ok=True)
            run("mount", "--bind", str(outside), path)
        Path("/var/lib/kubelet").mkdir(exist_ok=True)
        Path("/var/lib/detinf/models").mkdir(parents=True, exist_ok=True)

    def containerd(self) -> None:
        """The runtime, with the built runc."""
        root, sockets = self.folder / "containerd", self.folder / "containerd.sock"
        conf = self.folder / "cni" / "conf"
        conf.mkdir(parents=True, exist_ok=True)
        network = {
            "cniVersion": "0.4.0",
            "name": "detinf",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "cni" / "data"),
                        "ranges": [[{"subnet": POD_RANGE, "rangeStart": "10.244.0.10"}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (conf / "10-detinf.conflist").write_text(json.dumps(network), encoding="utf-8")
        config = self.folder / "containerd.toml"
        config.write_text(
            f"""\
version = 2
root = "{root}"
state = "/run/detinf-containerd"
[grpc]
address = "{sockets}"
[plugins."io.containerd.internal.v1.opt"]
path = "{self.folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{conf}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{binary("runc")}"
""",
            encoding="utf-8",
        )
        run("mount", "-t", "tmpfs", "tmpfs", "/run")  # the shims' sockets and state end with our mounts
        self.processes.start("containerd", ["containerd", "--config", str(config)])
        ctr = ["ctr", "--address", str(sockets), "--namespace", "k8s.io"]

        def serves() -> bool:
            return subprocess.run([*ctr, "version"], check=False, capture_output=True).returncode == 0

        wait_until("containerd", serves, self.processes, seconds=30)
        run(*ctr, "images", "import", str(pause_archive(self.folder)))

    def kubelet(self) -> None:
        """The node agent, in a cgroup of its own, so that two clusters do not delete each other's pods."""
        self.control_plane.authority.issue("node", f"system:node:{NODE}", "system:nodes", hosts=(ADDRESS, NODE))
        kubeconfig = self.folder / "kubelet.kubeconfig"
        write_kubeconfig(kubeconfig, self.control_plane.url, self.pki, "node")
        for controller in cgroup_roots():
            (controller / self.cgroup).mkdir(exist_ok=True)
            if controller.name == "cpuset":
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (controller / self.cgroup / file).write_text((controller / file).read_text())
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
            "containerRuntimeEndpoint": f"unix://{self.folder}/containerd.sock",
            "failSwapOn": False,
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": f"{self.pki}/ca.crt"},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{self.pki}/node.crt",
            "tlsPrivateKeyFile": f"{self.pki}/node.key",
            "resolvConf": "",
            # Else it tells of its NPUs up to ten seconds after their plug-in has.
            "nodeStatusUpdateFrequency": "1s",
            "nodeStatusReportFrequency": "5m",
            "syncFrequency": "10s",
            "configMapAndSecretChangeDetectionStrategy": "Watch",
            "maxPods": 110,
            # A shared disk of a busy machine is no reason to evict a test's pods.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
        }
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
        self.processes.start(
            "kubelet",
            [
                str(self.bin / "kubelet"),
                f"--config={path}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={NODE}",
                f"--node-ip={ADDRESS}",
                "--root-dir=/var/lib/kubelet",
                f"--cert-dir={self.folder}/kubelet-pki",
                "--node-labels="
                + ",".join(f"{key}={value}" for key, value in LABELS.items() if "kubernetes.io" not in key),
            ],
        )
        node = f"{self.control_plane.url}/api/v1/nodes/{NODE}"
        wait_until("the Node object", lambda: answers(node, self.pki), self.processes)
        # A kubelet may not write all labels about itself; a device plug-in with rights of its own may.
        run(*self.kubectl, "label", "node", NODE, "--overwrite", *(f"{key}={value}" for key, value in LABELS.items()))

    def kube_proxy(self) -> None:
        """Service addresses; started after the Node object, for which it would wait half a minute."""
        self.processes.start(
            "kube-proxy",
            [
                str(self.bin / "kube-proxy"),
                f"--kubeconfig={self.control_plane.kubeconfig}",
                "--proxy-mode=iptables",
                f"--hostname-override={NODE}",
                f"--cluster-cidr={POD_RANGE}",
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ],
        )

    def driver(self, tree: Path) -> None:
        """The driver's files where a node with NPUs has them, for pods that mount them as host paths.

        An overlay makes the places, since nothing may be made in this machine's own folders; behind each is the tree.
        """
        for folder in ("usr/local", "etc"):
            below = f"lowerdir={tree / folder}:/{folder}"
            run("mount", "-t", "overlay", "overlay", "-o", below, f"/{folder}")
        for path in DRIVER_FILES:
            run("mount", "--bind", str(tree / path), f"/{path}")

    def device_plugin(self) -> None:
        """Simulated NPUs, through the kubelet's real socket."""
        tree = self.folder / "npu"
        write_tree(tree, count=NPUS)
        self.driver(tree)
        sockets = Path("/var/lib/kubelet/device-plugins")
        wait_until("the kubelet's socket", (sockets / "kubelet.sock").exists, self.processes)
        self.processes.start(
            "npu-device-plugin",
            [
                str(self.bin / "npu-device-plugin"),
                f"--tree={tree}",
                f"--count={NPUS}",
                "--resource=huawei.com/Ascend910",
                f"--socket-dir={sockets}",
            ],
        )

    def wait_ready(self) -> None:
        """Wait for a Ready node that offers all NPUs."""

        def ready() -> bool:
            node = json.loads(run(*self.kubectl, "get", "node", NODE, "-o", "json"))["status"]
            condition = next((item for item in node.get("conditions", []) if item["type"] == "Ready"), {})
            offered = node.get("allocatable", {}).get("huawei.com/Ascend910")
            return condition.get("status") == "True" and offered == str(NPUS)

        wait_until("a Ready node", ready, self.processes, seconds=120)

    def stop(self) -> None:
        """End the parts in order; whatever is left ends with this process."""
        self.processes.stop()
        if hasattr(self, "control_plane"):
            self.control_plane.stop()


def cgroup_roots() -> list[Path]:
    """Return the roots of the cgroup hierarchies."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in sorted(root.iterdir()) if path.is_dir() and (path / "cgroup.procs").exists()]


def pause_archive(folder: Path) -> Path:
    """Return an OCI archive with the pause program as its one layer."""
    import hashlib
    import io
    import tarfile

    archive = folder / "pause.tar"

    def member(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        tar.addfile(info, io.BytesIO(data))

    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        member(tar, "pause", binary("pause").read_bytes(), 0o755)
    blobs: dict[str, bytes] = {}

    def blob(data: bytes) -> tuple[str, int]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return f"sha256:{digest}", len(data)

    layer_digest, layer_size = blob(layer.getvalue())
    image = {
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }
    config_digest, config_size = blob(json.dumps(image).encode())
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {"mediaType": f"{kind}.config.v1+json", "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar", "digest": layer_digest, "size": layer_size}],
    }
    manifest_digest, manifest_size = blob(json.dumps(manifest).encode())
    entry = {
        "mediaType": f"{kind}.manifest.v1+json",
        "digest": manifest_digest,
        "size": manifest_size,
        "annotations": {"io.containerd.image.name": PAUSE_IMAGE, "org.opencontainers.image.ref.name": "dev"},
    }
    with tarfile.open(archive, "w") as tar:
        member(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        member(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())
        for digest, data in blobs.items():
            member(tar, f"blobs/sha256/{digest}", data)
    return archive


def supervise(folder: Path, cgroup: str) -> int:
    """Run the cluster as the first process of its namespaces, until it is told to end."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    inside = Inside(folder, cgroup)
    try:
        inside.start()
    except ClusterError as error:
        print(f"FAILED {error}", flush=True)
        inside.stop()
        return 1
    print("READY", flush=True)
    known = {process.pid for _, process in [*inside.processes.running, *inside.control_plane.processes.running]}
    while not ending.wait(1.0):
        _reap_orphans(known)
    inside.stop()
    return 0


def _reap_orphans(known: set[int]) -> None:
    """Reap what was left to us as process 1 (containerd's shims' children), and nothing that somebody waits for."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in known:
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and parent == "1":
                os.waitpid(int(entry.name), os.WNOHANG)
        except (OSError, ChildProcessError):
            continue


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1]), sys.argv[2]))
