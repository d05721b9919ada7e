"""``ClusterApi``: all that the controller asks of Kubernetes.

Manifests are plain dicts. Writes are server-side apply with one field manager and force, and name the uid that they
mean, as deletes do: what was not looked at is not written to. The in-memory fake of the tests and the adapter pass the
same contract tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from detinf.api import names

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A resource kind, as its REST path needs it."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        """Return ``group/version``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version


RESOURCE = Kind(names.GROUP, names.VERSION, names.KIND, names.PLURAL)
STATEFUL_SET = Kind("apps", "v1", "StatefulSet", "statefulsets")
SERVICE = Kind("", "v1", "Service", "services")
CONFIG_MAP = Kind("", "v1", "ConfigMap", "configmaps")
POD = Kind("", "v1", "Pod", "pods")
POD_DISRUPTION_BUDGET = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
NODE = Kind("", "v1", "Node", "nodes")
EVENT = Kind("events.k8s.io", "v1", "Event", "events")

KINDS: dict[str, Kind] = {
    kind.kind: kind for kind in (RESOURCE, STATEFUL_SET, SERVICE, CONFIG_MAP, POD, POD_DISRUPTION_BUDGET, EVENT, NODE)
}


class ClusterError(Exception):
    """A request that the API server, or the way to it, did not carry out."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None, words: str = ""
    ) -> None:
        """Keep the HTTP status (None: no answer came), the seconds to wait, and the server's own words."""
        super().__init__(message)
        self.words = words or message
        self.status = status
        self.retry_after = retry_after


class ConflictError(ClusterError):
    """409: another uid, or a concurrent write."""


class TakenError(ConflictError):
    """409: the name of what was to be made belongs to an object already."""


class InvalidError(ClusterError):
    """400, 422, and the 500 that server-side apply answers to a malformed manifest: trying again does not help."""


class ForbiddenError(ClusterError):
    """403: our rights do not cover it, or an admission plug-in refuses it."""


class NamespaceEndsError(ClusterError):
    """403 in a namespace that terminates, 404 of one that is gone: nothing can be made there any more. Benign."""


class ClusterApi(Protocol):
    """The port. Every method may raise ClusterError; a missing object is None or a no-op, never an error."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """Return the object, or None."""

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        """Return objects with all of the labels and fields, in one namespace or in all that we may see.

        Fields are those that the API server can select by, such as ``regarding.uid`` of an Event.
        """

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with force: to the very object of ``metadata.uid``, or without one under a free name.

        Raises:
            TakenError: where there is no uid, and an object of that name.
        """

    async def apply_status(self, manifest: Manifest) -> Manifest | None:
        """Server-side apply of ``status``; None where the object is gone."""

    async def create(self, manifest: Manifest) -> Manifest | None:
        """Create; None where the name is taken (Events and immutable records with deterministic names)."""

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> bool:
        """Delete that very object; False where it is gone or another uid has taken its name."""
