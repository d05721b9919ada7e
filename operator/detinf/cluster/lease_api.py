"""The Lease that says which controller works, and an API that writes only while this one does.

A Lease is replaced as a whole, by the resourceVersion that was read: of two that write at once, one is told so. It has
connections of its own, so that a renewal never waits behind the controller's other requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from kubernetes.aio.client import Configuration

from detinf.cluster.adapter import JSON, KubernetesApi
from detinf.cluster.port import ClusterError, ConflictError, Manifest

API_VERSION = "coordination.k8s.io/v1"


class NotLeadingError(ClusterError):
    """A write that was not sent: another controller may be at work by now."""


class Leases(Protocol):
    """One Lease. Every method may raise ClusterError."""

    async def read(self) -> Manifest | None:
        """Return the Lease, or None."""

    async def make(self, spec: Manifest) -> Manifest | None:
        """Make it; None where it is there already."""

    async def replace(self, lease: Manifest) -> Manifest | None:
        """Replace it as it was read, by its resourceVersion; None where it has changed since, or is gone."""


class LeaseApi(KubernetesApi):
    """``Leases`` on a real API server; use it with ``async with``."""

    def __init__(
        self,
        configuration: Configuration,
        namespace: str,
        name: str,
        count: Callable[[str, str], None] = lambda _code, _method: None,
    ) -> None:
        """Keep the credentials and the Lease's name; ``count`` as in ``KubernetesApi``."""
        super().__init__(configuration, count)
        self.folder = f"/apis/{API_VERSION}/namespaces/{namespace}/leases"
        self.name = name

    async def read(self) -> Manifest | None:
        """Return the Lease, or None."""
        return await self._request("GET", f"{self.folder}/{self.name}", missing_ok=True)

    async def make(self, spec: Manifest) -> Manifest | None:
        """Make it; None where it is there already."""
        body = {"apiVersion": API_VERSION, "kind": "Lease", "metadata": {"name": self.name}, "spec": spec}
        try:
            return await self._request("POST", self.folder, body=body)
        except ConflictError:
            return None

    async def replace(self, lease: Manifest) -> Manifest | None:
        """Replace it as it was read; None where it has changed since, or is gone."""
        try:
            return await self._request("PUT", f"{self.folder}/{self.name}", body=lease, missing_ok=True)
        except ConflictError:
            return None


class FencedApi(KubernetesApi):
    """``ClusterApi`` that sends no write while somebody else may lead.

    Who leads stops its work when the lease is lost, but only when it gets to run: a process that stood still would go
    on where it was, with a write that it had decided on before.
    """

    def __init__(
        self, configuration: Configuration, may_write: Callable[[], bool], count: Callable[[str, str], None]
    ) -> None:
        """Keep the credentials; ``may_write`` is asked right before each write."""
        super().__init__(configuration, count)
        self.may_write = may_write

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content: str = JSON,
        missing_ok: bool = False,
    ) -> Manifest | None:
        if method != "GET" and not self.may_write():
            raise NotLeadingError(f"{method} {path}: not sent: the lease was not renewed in time")
        return await super()._request(method, path, query=query, body=body, content=content, missing_ok=missing_ok)
