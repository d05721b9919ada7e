"""A bad way to an API server: a reverse proxy that ends TLS, and loses, delays and spoils what passes through it.

The caller's credentials are in its headers and pass through, so that its rights are its own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

NOT_PASSED_ON = {"host", "connection", "transfer-encoding", "content-length", "keep-alive"}
DELAY_SECONDS = 1.0
FAULTS = ("500", "429", "delay", "truncate", "lost answer")
GONE: dict[str, Any] = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version",
        "reason": "Expired",
        "code": 410,
    },
}


@dataclass
class BadWay:
    """The proxy, in a thread of its own; a context manager. Its faults can be changed while it runs."""

    upstream: str
    folder: Path
    """With ca.crt, and the proxy's own NAME.crt and NAME.key."""
    certificate: str
    port: int
    every: int = 0
    """Each request of this number that is no watch meets the next of ``FAULTS``; 0: none."""
    watches: str = "pass"
    """``pass``, or what they meet at once: ``drop`` (an end in order), ``abort`` (a break), ``gone`` (410), ``500``, or
    ``fatal`` (another error in the stream)."""
    seen: Counter[str] = field(default_factory=Counter)
    """How many requests came, by ``watch``, ``read`` and ``write``."""
    spoilt: Counter[str] = field(default_factory=Counter)
    """How many requests met each fault."""

    def __enter__(self) -> Self:
        """Serve."""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        ready = threading.Event()
        self._watching: list[web.Request] = []
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve(ready)])
        self._thread.start()
        assert ready.wait(60)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._loop.close()

    def treat_watches(self, how: str) -> None:
        """Treat watches so from now on, and break those that are open."""
        self.watches = how
        self._loop.call_soon_threadsafe(lambda: [_broken(request) for request in self._watching])

    async def _serve(self, ready: threading.Event) -> None:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(self.folder / f"{self.certificate}.crt", self.folder / f"{self.certificate}.key")
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=own).start()
        trust = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        connector = aiohttp.TCPConnector(ssl=trust, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            ready.set()
            await self._stop.wait()
            for request in self._watching:
                _broken(request)
            await runner.cleanup()

    def _fault(self, kind: str) -> str:
        """Return what is to happen to a request."""
        self.seen[kind] += 1
        if kind == "watch":
            fault = self.watches
        elif self.every and (self.seen["read"] + self.seen["write"]) % self.every == 0:
            fault = FAULTS[sum(self.spoilt[name] for name in FAULTS) % len(FAULTS)]
        else:
            fault = "pass"
        if fault != "pass":
            self.spoilt[fault] += 1
        return fault

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        kind = "watch" if "watch" in request.query else "read" if request.method == "GET" else "write"
        match self._fault(kind):
            case "500" | "429" as code:
                body = {"kind": "Status", "status": "Failure", "message": "a bad way", "code": int(code)}
                return web.json_response(body, status=int(code), headers={"Retry-After": "1"})
            case "gone":
                return web.json_response(GONE)
            case "fatal":
                return web.json_response(GONE | {"object": GONE["object"] | {"code": 500, "reason": "InternalError"}})
            case "drop":
                return web.Response(content_type="application/json")
            case "abort":
                return _broken(request)
            case "delay":
                await asyncio.sleep(DELAY_SECONDS)
                return await self._pass_on(request)
            case "truncate":
                return await self._pass_on(request, cut_short=True)
            case "pass" if kind == "watch":
                self._watching.append(request)
                try:
                    return await self._pass_on(request)
                finally:
                    self._watching.remove(request)
            case "lost answer":
                async with await self._ask(request) as answer:
                    await answer.read()
                return _broken(request)
        return await self._pass_on(request)

    async def _ask(self, request: web.Request) -> aiohttp.ClientResponse:
        body = await request.read() if request.body_exists else None
        url = f"{self.upstream}{request.raw_path}"
        return await self._session.request(request.method, url, headers=_passed_on(request.headers), data=body)

    async def _pass_on(self, request: web.Request, *, cut_short: bool = False) -> web.StreamResponse:
        async with await self._ask(request) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            if cut_short:
                body = await answer.read()
                response.content_length = len(body) + 1
                await response.prepare(request)
                await response.write(body[: len(body) // 2])
                return _broken(request, response)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def _passed_on(headers: object) -> CIMultiDict[str]:
    assert hasattr(headers, "items")
    return CIMultiDict([(key, value) for key, value in headers.items() if key.lower() not in NOT_PASSED_ON])


def _broken(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Break the connection where it is."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def kubeconfig_by(way: BadWay, kubeconfig: Path, path: Path) -> Path:
    """Write a kubeconfig that goes the bad way."""
    config = json.loads(kubeconfig.read_text(encoding="utf-8"))
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{way.port}"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
