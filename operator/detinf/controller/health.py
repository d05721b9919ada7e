"""What the kubelet and Prometheus are told over HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web
from prometheus_client import generate_latest

from detinf.controller.exported import Exported
from detinf.guard.addresses import listening

MAX_AGE_SECONDS = 360.0
"""The resources are listed every two minutes: whoever has failed three times is no longer well."""


class Health:
    """What is known of this process: that it could work if it led, and that the resources were listed lately."""

    def __init__(self, exported: Exported) -> None:
        """Start with nothing listed."""
        self.exported = exported
        self.listed: float | None = None
        self.ready = False

    def was_listed(self) -> None:
        """Note that the resources were listed."""
        self.listed = time.monotonic()

    def problem(self) -> str | None:
        """Return why we are not well, or None. A start is bounded by itself, and no reason to be restarted."""
        age = 0.0 if self.listed is None else time.monotonic() - self.listed
        return f"the resources were last listed {age:.0f} s ago" if age > MAX_AGE_SECONDS else None

    async def alive(self, _request: web.Request) -> web.Response:
        """Answer whether to go on: the loop turns, or nobody would answer."""
        return _answer(self.problem())

    async def could_lead(self, _request: web.Request) -> web.Response:
        """Answer whether this process could take over; a Deployment then ends the one before it."""
        return _answer(self.problem() if self.ready else "the start is not over: see the log")

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer Prometheus."""
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        return web.Response(body=generate_latest(self.exported.registry), headers={"Content-Type": content_type})

    @contextlib.asynccontextmanager
    async def served(self, host: str, port: int) -> AsyncIterator[None]:
        """Serve inside the block."""
        app = web.Application()
        app.router.add_get("/healthz", self.alive)
        app.router.add_get("/readyz", self.could_lead)
        app.router.add_get("/metrics", self.metrics)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        with listening(host, port) as listener:
            try:
                await web.SockSite(runner, listener).start()
                yield
            finally:
                await runner.cleanup()


def _answer(problem: str | None) -> web.Response:
    return web.Response(text=f"{problem or 'ok'}\n", status=503 if problem else 200)
