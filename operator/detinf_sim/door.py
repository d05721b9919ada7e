"""The door of the simulated engine: what the guard's middleware does in front of vLLM, with the same rules.

``detinf.guard.requests`` decides in both; here it is aiohttp that brings the request.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from detinf.guard import requests
from detinf.guard.layout import UNPROMISED_HEADER
from detinf.guard.requests import Refusal, Rules

BECAUSE = web.RequestKey("because", list)
"""Because of which fields the answer is not promised."""


def door(rules: Rules) -> Middleware:
    """Return the middleware that serves what is listed and refuses everything else."""

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/sim/"):  # this engine's own, which answer this machine alone
            return await handler(request)
        route = rules.route(request.method, request.path)
        if isinstance(route, Refusal):
            return refused(route)
        if route.fields and request.method == "POST":
            because = requests.look_into(route, await request.read())
            if isinstance(because, Refusal):
                return refused(because)
            request[BECAUSE] = because
        return await handler(request)

    return serve


def refused(refusal: Refusal) -> web.Response:
    """Return the answer to what is not served."""
    headers = {"Allow": ", ".join(refusal.allow)} if refusal.allow else None
    return web.Response(body=refusal.body, status=refusal.status, content_type="application/json", headers=headers)


async def tell(request: web.Request, response: web.StreamResponse) -> None:
    """Say because of what an answer is not promised."""
    if because := request.get(BECAUSE):
        response.headers[UNPROMISED_HEADER] = ", ".join(because)
