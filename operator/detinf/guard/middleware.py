"""The boot in every answer: ``--middleware detinf.guard.middleware.BootHeader`` (vLLM's API server, pure ASGI).

A client, and the probe, can then tell which boot answered, whatever happened to the container meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from detinf.guard.layout import BOOT_HEADER, BOOT_VARIABLE

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class BootHeader:
    """ASGI middleware that adds the boot to the headers of each HTTP response, streams included."""

    def __init__(self, app: Application) -> None:
        """Wrap an application."""
        self.app = app
        self.header = (BOOT_HEADER.lower().encode(), os.environ.get(BOOT_VARIABLE, "").encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_boot(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), self.header]
            await send(message)

        await self.app(scope, receive, with_boot)
