"""The probe's HTTP server: readiness, metrics, the report. Nothing it answers changes anything."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

from detinf.documents import Report
from detinf.guard.canonical import digest_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ProbeServer:
    """Answers from what the callbacks say at the time of the request."""

    def __init__(
        self,
        *,
        not_ready: Callable[[], list[str]],
        report: Callable[[], Report],
        refresh_metrics: Callable[[int], bytes],
    ) -> None:
        """Keep the callbacks."""
        self.not_ready = not_ready
        self.report = report
        self.refresh_metrics = refresh_metrics

    def application(self) -> web.Application:
        """Return the application: GET and HEAD alone."""
        app = web.Application()
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/report", self.get_report)
        return app

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer whether the engine may be sent users, read now."""
        reasons = self.not_ready()
        body = {"ready": not reasons, "reasons": reasons}
        return web.json_response(body, status=503 if reasons else 200, headers={"Cache-Control": "no-store"})

    async def healthz(self, _request: web.Request) -> web.Response:
        """Answer that the probe itself runs."""
        return web.Response(text="ok\n")

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer the metrics page."""
        return web.Response(body=self.refresh_metrics(int(time.time())), headers={"Content-Type": CONTENT_TYPE})

    async def get_report(self, request: web.Request) -> web.Response:
        """Answer the report, or 304 where the caller has it."""
        data = self.report().canonical()
        tag = f'"{digest_bytes(data)[7:39]}"'
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(body=data, content_type="application/json", headers={"ETag": tag})
