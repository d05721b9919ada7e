"""A ``ClusterApi`` around another one, which can be interrupted before and after every call, reads included.

It stands for the controller's death (an exception that nobody catches), and for a way to the API server on which
requests and answers get lost. What was done to the cluster through it is kept, whichever life did it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from detinf.cluster.port import ClusterApi, Kind, Manifest

Answer = TypeVar("Answer")


class KilledError(BaseException):
    """The controller is killed: nothing of it catches this."""


@dataclass
class Done:
    """What was done to the cluster, in order."""

    calls: int = 0
    statuses: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[tuple[str, str, str]] = field(default_factory=list)
    """(kind, name, uid) of every delete that met its object."""
    created: list[tuple[str, str]] = field(default_factory=list)
    """(kind, name) of every create whose name was free."""

    def flips(self) -> dict[str, list[str]]:
        """Return what each condition said, one after the other, without repetitions."""
        said: dict[str, list[str]] = {}
        for status in self.statuses:
            for condition in status["conditions"]:
                values = said.setdefault(condition["type"], [])
                if values[-1:] != [condition["status"]]:
                    values.append(condition["status"])
        return said


class Interrupted:
    """The port, with a word before and after every call; both may raise."""

    def __init__(
        self,
        api: ClusterApi,
        done: Done,
        before: Callable[[str], None] = lambda _what: None,
        after: Callable[[str], None] = lambda _what: None,
    ) -> None:
        """Wrap a port.

        Args:
            api: where calls go.
            done: filled with what they do.
            before: told of a call that has not reached the cluster, as ``VERB KIND NAME``.
            after: told of a call that was carried out and whose answer is on its way.
        """
        self.api = api
        self.done = done
        self.before = before
        self.after = after

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        """See the port."""
        return await self._call(f"get {kind.kind} {name}", lambda: self.api.get(kind, namespace, name))

    async def list(
        self,
        kind: Kind,
        *,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> list[Manifest]:
        """See the port."""
        return await self._call(
            f"list {kind.kind}", lambda: self.api.list(kind, namespace=namespace, labels=labels, fields=fields)
        )

    async def apply(self, manifest: Manifest) -> Manifest:
        """See the port."""
        return await self._call(f"apply {_target(manifest)}", lambda: self.api.apply(manifest))

    async def apply_status(self, manifest: Manifest) -> Manifest | None:
        """See the port."""

        async def ask() -> Manifest | None:
            answer = await self.api.apply_status(manifest)
            if answer is not None:
                self.done.statuses.append(manifest["status"])
            return answer

        return await self._call(f"apply-status {_target(manifest)}", ask)

    async def create(self, manifest: Manifest) -> Manifest | None:
        """See the port."""

        async def ask() -> Manifest | None:
            answer = await self.api.create(manifest)
            if answer is not None:
                self.done.created.append((manifest["kind"], manifest["metadata"]["name"]))
            return answer

        return await self._call(f"create {_target(manifest)}", ask)

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> bool:
        """See the port."""

        async def ask() -> bool:
            met = await self.api.delete(kind, namespace, name, uid=uid)
            if met:
                self.done.deleted.append((kind.kind, name, uid))
            return met

        return await self._call(f"delete {kind.kind} {name}", ask)

    async def _call(self, what: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        self.before(what)
        answer = await ask()
        self.done.calls += 1
        self.after(what)
        return answer


def is_part_of(short: list[str], long: list[str]) -> bool:
    """Whether the one follows from the other by leaving things out."""
    rest = iter(long)
    return all(item in rest for item in short)


def _target(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"
