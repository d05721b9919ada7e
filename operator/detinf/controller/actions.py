"""What a decision asks for: data, each carried out on its own. Any part of a list leaves a state that resumes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detinf.cluster.port import ClusterError, Kind, Manifest

Name = tuple[str, str]
"""(kind, name) of what an action is about."""


def name_of(manifest: Manifest) -> Name:
    """Return the kind and the name of an object."""
    return manifest["kind"], manifest["metadata"]["name"]


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a manifest: to the object whose uid is in it, else under a free name."""

    manifest: Manifest
    after: frozenset[Name] = frozenset()
    """Not done where one of these is to be done and was not: a pod's template before what the pod mounts."""

    @property
    def about(self) -> Name:
        """What it is about."""
        return name_of(self.manifest)


@dataclass(frozen=True)
class Create:
    """Create a record; a name that is taken by this resource's own means that it is there already."""

    manifest: Manifest
    after: frozenset[Name] = frozenset()

    @property
    def about(self) -> Name:
        """What it is about."""
        return name_of(self.manifest)


@dataclass(frozen=True)
class Delete:
    """Delete that very object."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    why: str
    after: frozenset[Name] = frozenset()

    @property
    def about(self) -> Name:
        """What it is about."""
        return self.kind.kind, self.name


Action = Apply | Create | Delete


@dataclass(frozen=True)
class Undone:
    """An action that was not carried out."""

    action: Action
    error: ClusterError | None
    """What the API server said; None where the action waits for another one that was not done."""
    owner: Manifest | None = None
    """What has the name and is not this resource's."""


@dataclass
class Outcome:
    """What became of a decision's actions."""

    undone: dict[Name, Undone] = field(default_factory=dict)
    done: list[Action] = field(default_factory=list)
    conditions: list[Mapping[str, Any]] = field(default_factory=list)
    """What the status says since."""

    def is_undone(self, kind: str, name: str) -> bool:
        """Return whether something was to be done about an object and was not."""
        return (kind, name) in self.undone

    @property
    def refused(self) -> Mapping[Name, Undone]:
        """What the API server, or the owner of a name, stands in the way of; not what waits for that."""
        return {about: item for about, item in self.undone.items() if item.error is not None}


def names_of(actions: Iterable[Action]) -> frozenset[Name]:
    """Return what actions are about."""
    return frozenset(action.about for action in actions)


@dataclass(frozen=True)
class Notice:
    """An Event: something that happened once. ``key`` makes its name, so that saying it twice is saying it once."""

    reason: str
    message: str
    key: str
    warning: bool = False
