"""One Lease in memory, with what the API server does about it: versions, and two that write at once.

The same contract tests run against it and against the real API server (tests/cluster/test_lease.py).
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from typing import Any

from detinf.cluster.port import Manifest


async def at_once(_what: str) -> None:
    """The way to a server that answers at once."""


class FakeLeases:
    """One Lease; several clients may share ``server``."""

    def __init__(self, server: FakeLeases | None = None, way: Callable[[str], Awaitable[None]] = at_once) -> None:
        """Start without a Lease.

        Args:
            server: who has the Lease; this one where None.
            way: awaited before a request is carried out, and after it; may wait, and raise.
        """
        self.server = server or self
        self.way = way
        self.lease: Manifest | None = None
        self.version = 0
        self.writes: list[dict[str, Any]] = []

    def _store(self, spec: Manifest, metadata: dict[str, Any]) -> Manifest:
        self.version += 1
        self.lease = {"metadata": metadata | {"resourceVersion": str(self.version)}, "spec": copy.deepcopy(spec)}
        self.writes.append(copy.deepcopy(spec))
        return copy.deepcopy(self.lease)

    async def read(self) -> Manifest | None:
        await self.way("read")
        answer = copy.deepcopy(self.server.lease)
        await self.way("read answered")
        return answer

    async def make(self, spec: Manifest) -> Manifest | None:
        await self.way("make")
        server = self.server
        answer = server._store(spec, {"name": "lease", "uid": f"u{server.version}"}) if server.lease is None else None
        await self.way("make answered")
        return answer

    async def replace(self, lease: Manifest) -> Manifest | None:
        await self.way("replace")
        server = self.server
        answer = None
        if server.lease is not None and server.lease["metadata"] == lease["metadata"]:
            answer = server._store(lease["spec"], dict(server.lease["metadata"]))
        await self.way("replace answered")
        return answer
