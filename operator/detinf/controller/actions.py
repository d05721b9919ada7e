"""What a decision asks for: data, carried out in order. Any prefix of a list leaves a state that resumes."""

from __future__ import annotations

from dataclasses import dataclass

from detinf.cluster.port import Kind, Manifest


@dataclass(frozen=True)
class Apply:
    """Server-side apply of a manifest."""

    manifest: Manifest


@dataclass(frozen=True)
class Create:
    """Create a record; a taken name means that it is there already."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete that very object."""

    kind: Kind
    namespace: str
    name: str
    uid: str
    why: str


Action = Apply | Create | Delete


@dataclass(frozen=True)
class Notice:
    """An Event: something that happened once. ``key`` makes its name, so that saying it twice is saying it once."""

    reason: str
    message: str
    key: str
    warning: bool = False
