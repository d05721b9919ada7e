"""The control plane: etcd, API server, controller manager and scheduler, on addresses that the caller chooses."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from detinf_cluster.cache import ClusterError, cache_dir, say
from detinf_cluster.certificates import Authority, write_kubeconfig
from detinf_cluster.processes import Processes, answers, free_port, wait_until
from detinf_cluster.sources import CONTROL_PLANE, link, say_version

SERVICE_RANGE = "10.96.0.0/16"
AUDIT_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    userGroups: ["system:nodes"]
  - level: Metadata
    resources:
      - group: detinf.io
      - group: apps
      - group: policy
      - group: events.k8s.io
      - group: ""
        resources: [configmaps, services, pods, nodes]
  - level: None
"""


@dataclass
class ControlPlane:
    """One control plane; a context manager that leaves nothing behind."""

    folder: Path | None = None
    """Where its state is; a temporary folder when absent."""
    address: str = "127.0.0.1"
    port: int = 0
    hosts: tuple[str, ...] = ()
    """More names and addresses in the API server's certificate."""
    temporary: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start everything, and wait until it serves.

        Raises:
            ClusterError: where a part ends or does not come up.
        """
        began = time.monotonic()
        if self.folder is None:
            parent = cache_dir() / "clusters"
            parent.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="test-", dir=parent))
            self.temporary = True
            _forget_crashed(parent)
        self.bin = link(self.folder / "bin", CONTROL_PLANE)
        say_version(self.bin / "kube-apiserver")
        self.pki = self.folder / "pki"
        self.audit_log = self.folder / "audit.log"
        self.kubeconfig = self.folder / "kubeconfig"
        self.processes = Processes(self.folder / "logs")
        authority = Authority(self.pki)
        names = ("127.0.0.1", "localhost", "kubernetes.default.svc", "10.96.0.1", self.address, *self.hosts)
        authority.issue("apiserver", "kube-apiserver", hosts=sorted(set(names)))
        authority.issue("admin", "admin", "system:masters")
        authority.issue("kubelet-client", "kube-apiserver-kubelet-client", "system:masters")
        self.authority = authority
        try:
            self._start_on_ports()
        except BaseException:
            self.stop()
            raise
        self.seconds = time.monotonic() - began

    def _start_on_ports(self) -> None:
        """Start the parts; with other ports where somebody was quicker to take one that was free."""
        given = self.port
        for tries_left in (2, 1, 0):
            self.port = given or free_port()
            self.url = f"https://{self.address}:{self.port}"
            write_kubeconfig(self.kubeconfig, self.url, self.pki, "admin")
            try:
                return self._start_parts()
            except ClusterError as error:
                if "address already in use" not in str(error) or not tries_left:
                    raise
                say("a port was taken meanwhile; starting again with others")
                self.processes.stop()
        return None

    def _start_parts(self) -> None:
        assert self.folder is not None  # noqa: S101 - set by start
        pki, processes = self.pki, self.processes
        etcd, peer = free_port(), free_port()
        processes.start(
            "etcd",
            [
                str(self.bin / "etcd"),
                *("--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync", "--log-level", "warn"),
                *("--listen-client-urls", f"http://127.0.0.1:{etcd}"),
                *("--advertise-client-urls", f"http://127.0.0.1:{etcd}"),
                *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}"),
                *("--initial-cluster", f"default=http://127.0.0.1:{peer}"),
            ],
        )
        wait_until("etcd", lambda: answers(f"http://127.0.0.1:{etcd}/health"), processes)
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(AUDIT_POLICY, encoding="utf-8")
        processes.start(
            "kube-apiserver",
            [
                str(self.bin / "kube-apiserver"),
                f"--etcd-servers=http://127.0.0.1:{etcd}",
                f"--bind-address={self.address}",
                f"--advertise-address={self.address}",
                f"--secure-port={self.port}",
                f"--tls-cert-file={pki}/apiserver.crt",
                f"--tls-private-key-file={pki}/apiserver.key",
                f"--client-ca-file={pki}/ca.crt",
                f"--kubelet-client-certificate={pki}/kubelet-client.crt",
                f"--kubelet-client-key={pki}/kubelet-client.key",
                # Else logs and exec look the node's name up in a DNS that is not there.
                "--kubelet-preferred-address-types=InternalIP",
                f"--service-cluster-ip-range={SERVICE_RANGE}",
                "--allow-privileged",
                "--authorization-mode=Node,RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={pki}/sa.pub",
                f"--service-account-signing-key-file={pki}/sa.key",
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self.audit_log}",
                "--audit-log-mode=blocking",
                f"--cert-dir={self.folder}/generated",
            ],
        )
        wait_until("the API server", lambda: answers(f"{self.url}/readyz", pki), processes)
        processes.start(
            "kube-controller-manager",
            [
                str(self.bin / "kube-controller-manager"),
                f"--kubeconfig={self.kubeconfig}",
                "--leader-elect=false",
                "--use-service-account-credentials=false",
                f"--service-account-private-key-file={pki}/sa.key",
                f"--root-ca-file={pki}/ca.crt",
                "--secure-port=0",
            ],
        )
        processes.start(
            "kube-scheduler",
            [
                str(self.bin / "kube-scheduler"),
                f"--kubeconfig={self.kubeconfig}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
        )
        account = f"{self.url}/api/v1/namespaces/default/serviceaccounts/default"
        wait_until("the default service account", lambda: answers(account, pki), processes)

    def stop(self) -> None:
        """End everything; remove the folder where it is a temporary one."""
        self.processes.stop()
        if self.temporary and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def _forget_crashed(parent: Path) -> None:
    """Remove temporary folders that a killed test run left, a day later."""
    for old in parent.glob("test-*"):
        if time.time() - old.stat().st_mtime > 86400:
            shutil.rmtree(old, ignore_errors=True)
