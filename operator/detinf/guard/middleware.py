"""The door of the engine: ``--middleware detinf.guard.middleware.RequestFilter`` (vLLM's API server, pure ASGI).

Every answer names its boot, so that a client, and the probe, can tell which boot answered, whatever happened to the
container meanwhile. What the plan's lists do not serve is refused before vLLM sees it (``detinf.guard.requests``), and
an answer that is not promised says because of what.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from detinf.guard import requests
from detinf.guard.layout import BOOT_HEADER, BOOT_VARIABLE, PLAN_VARIABLE, UNPROMISED_HEADER
from detinf.guard.plan import read_plan
from detinf.guard.requests import Refusal, Route, Rules

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class RequestFilter:
    """ASGI middleware: what is known passes, with the boot in the headers of each answer, streams included."""

    def __init__(self, app: Application) -> None:
        """Wrap an application. Without a guard there is no plan, nothing is refused and no boot is told.

        Raises:
            RefusedError: for a plan that cannot be read; the engine does not start.
        """
        self.app = app
        self.header = (BOOT_HEADER.lower().encode(), os.environ.get(BOOT_VARIABLE, "").encode())
        plan = os.environ.get(PLAN_VARIABLE)
        document = read_plan(Path(plan)).requests if plan else None
        self.rules = Rules(document) if document else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request through, or answer it."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self.socket(scope, receive, send)
        else:
            await self.request(scope, receive, self.with_headers(send, [self.header]))

    async def socket(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a web socket through where its route is served; else close it, which a server answers with 403."""
        if self.rules is None or isinstance(self.rules.route("WEBSOCKET", path_of(scope)), Route):
            await self.app(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": "this engine serves no such web socket"})

    async def request(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve what is known, refuse everything else."""
        if self.rules is None:
            await self.app(scope, receive, send)
            return
        route = self.rules.route(scope["method"], path_of(scope))
        if isinstance(route, Refusal):
            await refuse(route, send)
            return
        if not route.fields or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        data = await read(scope, receive)
        if data is None:  # the client is gone
            return
        if isinstance(data, Refusal):
            await refuse(data, send)
            return
        because = requests.look_into(route, data)
        if isinstance(because, Refusal):
            await refuse(because, send)
            return
        if because:
            send = self.with_headers(send, [(UNPROMISED_HEADER.lower().encode(), ", ".join(because).encode())])
        receive = replayed(data, receive)
        del data  # a long prompt is not held as long as its answer takes
        await self.app(scope, receive, send)

    @staticmethod
    def with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
        """Return a ``send`` that adds headers to the answer's own."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        return sending


def path_of(scope: Message) -> str:
    """Return the path that routes are found by, as Starlette's ``get_route_path`` does: decoded, without the root."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    return rest if rest.startswith("/") else "" if path == root else path


async def read(scope: Message, receive: Receive) -> bytes | Refusal | None:
    """Return a whole body; a refusal for one that is too large, None where the client is gone before its end."""
    told = next((value for name, value in scope.get("headers", ()) if name == b"content-length"), b"")
    if told.isdigit() and len(told) < 20 and int(told) > requests.MOST_BYTES:
        return too_large(f"{int(told)} bytes")
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > requests.MOST_BYTES:
            return too_large("more bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def too_large(size: str) -> Refusal:
    """Return the refusal of a body."""
    return Refusal(413, f"the body has {size}, {requests.MOST_BYTES} are read at most; send a smaller request")


def replayed(data: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that hands a body out that was read already, and then whatever the server says."""
    waiting = [data]

    async def receiving() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receiving


async def refuse(refusal: Refusal, send: Send) -> None:
    """Answer a request that is not served."""
    body = refusal.body
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refusal.allow:
        headers.append((b"allow", ", ".join(refusal.allow).encode()))
    if refusal.status == 413:
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
