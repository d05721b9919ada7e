"""vLLM's HTTP API around the simulated core, in wall time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from detinf_sim import metrics
from detinf_sim.faults import Active
from detinf_sim.model import HashModel
from detinf_sim.requests import BadRequestError, Completion, choice, parse
from detinf_sim.ring import Ring
from detinf_sim.scheduler import Emission, Limits, SimEngine, StepCost

VERSION = "0.23.0+detinf.sim"
BOOT_HEADER = "X-Detinf-Boot"


@dataclass
class Settings:
    """What a server is started with."""

    model: HashModel
    served_name: str = "sim"
    limits: Limits = field(default_factory=Limits)
    step_seconds: float = 0.002
    faults: list[str] = field(default_factory=list)
    boot: str = ""
    trace: Path | None = None
    """Where the step trace is written; nowhere when absent."""


class Server:
    """One engine and its clients."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; ``application`` is what aiohttp runs."""
        self.settings = settings
        self.active = Active()
        self.active.switch(settings.faults)
        cost = replace(StepCost(), base=settings.step_seconds)
        self.engine = SimEngine(settings.model, settings.limits, self.active, cost)
        self.started = time.time()
        self.boot = settings.boot
        self.ring = Ring(settings.trace, settings.boot) if settings.trace else None
        self.queues: dict[str, asyncio.Queue[Emission]] = {}
        self.work = asyncio.Event()

    def application(self) -> web.Application:
        """Return the application; the engine's loop runs as long as it does."""
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/sim/faults", self.get_faults)
        app.router.add_put("/sim/faults", self.put_faults)
        app.router.add_get("/sim/trace", self.trace)
        app.on_response_prepare.append(self.add_boot)
        app.cleanup_ctx.append(self.run)
        return app

    async def run(self, _app: web.Application) -> AsyncIterator[None]:
        """Step the engine while there is work."""
        task = asyncio.create_task(self.loop())
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def loop(self) -> None:
        """Step the engine, and hand its emissions to those who wait for them."""
        while True:
            if not self.engine.has_work:
                self.work.clear()
                await self.work.wait()
            before = self.engine.steps
            emissions, seconds = self.engine.step(time.time())
            if self.ring is not None and self.engine.steps > before:
                self.ring.record(self.engine.trace[-1])
            # The tokens of a step exist when it is over, not before.
            await asyncio.sleep(seconds)
            for emission in emissions:
                queue = self.queues.get(emission.request)
                if queue is not None:
                    queue.put_nowait(emission)

    async def add_boot(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Say which boot answers."""
        if self.boot:
            response.headers[BOOT_HEADER] = self.boot

    async def health(self, _request: web.Request) -> web.Response:
        """Answer 200 while the engine lives."""
        return web.Response()

    async def version(self, _request: web.Request) -> web.Response:
        """Answer the version."""
        return web.json_response({"version": VERSION})

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer the metrics page."""
        page = metrics.render(self.engine, model=self.settings.served_name, started=self.started)
        return web.Response(text=page, content_type="text/plain")

    async def models(self, _request: web.Request) -> web.Response:
        """Answer the list of models."""
        model = {
            "id": self.settings.served_name,
            "object": "model",
            "created": int(self.started),
            "owned_by": "vllm",
            "max_model_len": self.settings.limits.max_model_len,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def get_faults(self, request: web.Request) -> web.Response:
        """Answer which faults are on, and how often each has struck."""
        _local_only(request)
        return web.json_response({"active": self.active.names, "struck": self.active.struck})

    async def put_faults(self, request: web.Request) -> web.Response:
        """Switch faults: the body is a list of names."""
        _local_only(request)
        try:
            self.active.switch(await request.json())
        except (TypeError, ValueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return await self.get_faults(request)

    async def trace(self, request: web.Request) -> web.Response:
        """Answer the last steps."""
        _local_only(request)
        return web.json_response([vars(record) for record in list(self.engine.trace)[-1024:]])

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/v1/completions``."""
        return await self.answer(request, chat=False)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/v1/chat/completions``."""
        return await self.answer(request, chat=True)

    async def answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        """Answer a request for text."""
        if status := self.active.behaviour("status"):
            return web.json_response({"error": {"message": "simulated", "code": status}}, status=status)
        if "garbage" in self.active.names:
            return web.Response(text="<html>upstream says hello</html>", content_type="text/html")
        try:
            body = await request.json()
            model = body.get("model") if isinstance(body, dict) else None
            if model is not None and model != self.settings.served_name:
                message = f"The model `{model}` does not exist."
                error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
                return web.json_response({"error": error}, status=404)
            completion = parse(
                body,
                vocabulary_size=self.engine.model.vocabulary_size,
                eos=self.engine.model.special_ids,
                chat=chat,
                request_id=request.headers.get("X-Request-Id"),
            )
            self.submit(completion)
        except BadRequestError as error:
            return web.json_response(error.body(), status=400)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            return web.json_response(BadRequestError(f"The body is no JSON: {error}").body(), status=400)
        if "restart" in self.active.names:
            # Another process answers from now on; what it says is as right as before.
            self.started, self.boot = time.time(), os.urandom(16).hex()
        try:
            if completion.stream:
                return await self.stream(request, completion)
            return await self.whole(request, completion)
        finally:
            for each in completion.requests:
                self.queues.pop(each.identifier, None)
                self.engine.abort(each.identifier)

    def submit(self, completion: Completion) -> None:
        """Queue all sequences of a request, or none.

        Raises:
            BadRequestError: in vLLM's words.
        """
        for done, each in enumerate(completion.requests):
            try:
                self.engine.submit(each)
            except ValueError as error:
                for earlier in completion.requests[:done]:
                    self.engine.abort(earlier.identifier)
                raise BadRequestError(str(error), "prompt") from error
            self.queues[each.identifier] = asyncio.Queue()
        self.work.set()

    def head(self, completion: Completion) -> dict[str, Any]:
        """Return what every answer starts with."""
        kind = "chat.completion" if completion.chat else "text_completion"
        if completion.chat and completion.stream:
            kind = "chat.completion.chunk"
        return {
            "id": completion.identifier,
            "object": kind,
            "created": int(time.time()),
            "model": self.settings.served_name,
            "system_fingerprint": f"vllm-{VERSION}",
        }

    def usage(self, completion: Completion, generated: int) -> dict[str, int]:
        """Return the token counts of a request."""
        prompt = sum(len(each.prompt) for each in completion.requests)
        return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}

    async def whole(self, request: web.Request, completion: Completion) -> web.StreamResponse:
        """Answer in one JSON body."""
        choices, generated = [], 0
        for index, each in enumerate(completion.requests):
            emissions: list[Emission] = []
            while not emissions or emissions[-1].finish_reason is None:
                emissions.append(await self.queues[each.identifier].get())
            generated += len(emissions)
            choices.append(choice(completion, index, emissions))
        body = json.dumps(self.head(completion) | {"choices": choices, "usage": self.usage(completion, generated)})
        if "truncate" in self.active.names:
            response = web.StreamResponse(
                headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
            )
            await response.prepare(request)
            await response.write(body[: len(body) // 2].encode())
            _hang_up(request)
            return response
        return web.Response(text=body, content_type="application/json")

    async def stream(self, request: web.Request, completion: Completion) -> web.StreamResponse:
        """Answer as server-sent events, token by token."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)

        async def send(content: dict[str, Any] | str) -> None:
            text = content if isinstance(content, str) else json.dumps(content)
            await response.write(f"data: {text}\n\n".encode())

        generated = 0
        for index, each in enumerate(completion.requests):
            finished = False
            while not finished:
                emission = await self.queues[each.identifier].get()
                generated += 1
                await send(self.head(completion) | {"choices": [choice(completion, index, [emission])]})
                finished = emission.finish_reason is not None
                if "truncate" in self.active.names and generated >= 3:
                    _hang_up(request)
                    return response
        if completion.include_usage:
            await send(self.head(completion) | {"choices": [], "usage": self.usage(completion, generated)})
        await send("[DONE]")
        return response


def _local_only(request: web.Request) -> None:
    if request.remote not in {"127.0.0.1", "::1"}:
        raise web.HTTPForbidden(text="faults are switched from inside the container: kubectl exec")


def _hang_up(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


@contextlib.asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[tuple[str, Server]]:
    """Run a server on a free loopback port; yield its base URL and the server."""
    server = Server(settings)
    runner = web.AppRunner(server.application(), handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", server
    finally:
        await runner.cleanup()
