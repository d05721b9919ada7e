"""vLLM's HTTP API around the simulated core, in wall time."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from detinf.guard.requests import Rules
from detinf_sim import metrics
from detinf_sim.answers import choice, usage
from detinf_sim.behaviours import Behaviour, Identity, Refusal
from detinf_sim.door import door, tell
from detinf_sim.faults import Active
from detinf_sim.limits import Lifetime, Limits, StepCost
from detinf_sim.model import HashModel
from detinf_sim.ranks import Ranks
from detinf_sim.requests import BadRequestError, Completion, parse
from detinf_sim.ring import Ring
from detinf_sim.scheduler import SimEngine
from detinf_sim.scoring import as_completion, as_scores
from detinf_sim.sequences import Emission

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
    """Where the step trace is written, that of rank 0; nowhere when absent."""
    launch: int | None = None
    """What chance decided when the process started; None: the boot decides it."""
    replica: int = 0
    fingerprint: str = f"vllm-{VERSION}"
    token_details: bool = False
    """``--enable-prompt-tokens-details``."""
    api_servers: int = 1
    """``--api-server-count``: requests go to them in turn, and each counts what it delivers itself."""
    data_parallel: int = 1
    adapters: tuple[str, ...] = ()
    """Names of LoRA adapters, each served as a model."""
    rules: Rules | None = None
    """Which requests are served; None: all that there are."""


class Server:
    """One engine, or several data-parallel ranks, and the clients."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; ``application`` is what aiohttp runs."""
        self.settings = settings
        self.active = Active(list(settings.faults))
        self.identity = Identity(settings.boot, time.time(), settings.fingerprint)
        lifetime = Lifetime.of_boot(settings.boot, settings.replica, self.identity.started)
        if settings.launch is not None:
            lifetime = replace(lifetime, launch=settings.launch)
        self.chance = random.Random(lifetime.launch)  # noqa: S311 - chaos that can be repeated
        cost = replace(StepCost(), base=settings.step_seconds)
        self.ranks = Ranks(
            [
                SimEngine(settings.model, settings.limits, self.active, cost, lifetime)
                for _ in range(settings.data_parallel)
            ]
        )
        self.engine = self.ranks.engines[0]
        self.ring = Ring(settings.trace, settings.boot) if settings.trace else None
        self.queues: dict[str, asyncio.Queue[Emission]] = {}
        self.work = asyncio.Event()
        self.pages: deque[str] = deque(maxlen=2)
        self.turn = itertools.count()

    def application(self) -> web.Application:
        """Return the application; the engine's loop runs as long as it does."""
        rules = self.settings.rules
        app = web.Application(client_max_size=64 * 1024**2, middlewares=[door(rules)] if rules else [])
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.completions)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/generative_scoring", self.score)
        app.router.add_get("/sim/faults", self.get_faults)
        app.router.add_put("/sim/faults", self.put_faults)
        app.router.add_get("/sim/trace", self.trace)
        app.on_response_prepare.append(self.add_boot)
        app.on_response_prepare.append(tell)
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
            if not self.ranks.has_work and not self.active.behaviour("load"):
                self.work.clear()
                await self.work.wait()
            before = self.engine.steps
            emissions, seconds = self.ranks.step(time.time())
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
        if self.identity.boot:
            response.headers[BOOT_HEADER] = self.identity.boot

    async def health(self, _request: web.Request) -> web.Response:
        """Answer 200 while the engine lives."""
        return web.Response()

    async def version(self, _request: web.Request) -> web.Response:
        """Answer the version."""
        return web.json_response({"version": VERSION})

    async def metrics(self, _request: web.Request) -> web.Response:
        """Answer the metrics page."""
        several = self.settings.api_servers > 1
        page: str | None = metrics.render(
            *self.ranks.engines,
            model=self.settings.served_name,
            started=None if several else self.identity.started,
            adapters=self.settings.adapters,
        )
        self.pages.append(page or "")
        for behaviour, _ in self.active.for_an_answer(self.chance):
            if behaviour.page and page is not None:
                page = behaviour.page([*list(self.pages)[:-1], page])
        if page is None:
            raise web.HTTPNotFound
        return web.Response(text=page, content_type="text/plain")

    async def models(self, _request: web.Request) -> web.Response:
        """Answer the list of models: the base model, and an adapter as its child."""
        base = self.settings.served_name
        models = [
            {
                "id": name,
                "object": "model",
                "created": int(self.identity.started),
                "owned_by": "vllm",
                "parent": None if name == base else base,
                "max_model_len": self.settings.limits.max_model_len if name == base else None,
            }
            for name in (base, *self.settings.adapters)
        ]
        return web.json_response({"object": "list", "data": models})

    async def get_faults(self, request: web.Request) -> web.Response:
        """Answer which faults are on, and how often each has struck."""
        _local_only(request)
        return web.json_response({"active": self.active.names, "struck": self.active.struck})

    async def put_faults(self, request: web.Request) -> web.Response:
        """Switch faults: the body is a list of names."""
        _local_only(request)
        try:
            self.active.switch(await request.json())
            self.work.set()  # strangers come to an idle engine, too
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

    async def score(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/generative_scoring``."""
        try:
            body = as_completion(await request.json())
        except BadRequestError as error:
            return web.json_response(error.body(), status=400)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            return web.json_response(BadRequestError(f"The body is no JSON: {error}").body(), status=400)
        answered = await self.answer(request, chat=False, body=body)
        if answered.status != 200 or not isinstance(answered, web.Response) or answered.text is None:
            return answered
        return web.json_response(as_scores(json.loads(answered.text)))

    async def answer(self, request: web.Request, *, chat: bool, body: Any = None) -> web.StreamResponse:
        """Answer a request for text."""
        befalls = self.active.for_an_answer(self.chance)
        for behaviour, number in befalls:
            if behaviour.refuse:
                return await _refused(request, behaviour.refuse(number))
            if behaviour.identify:
                # Another process answers from now on; what it says is as right as before.
                self.identity = behaviour.identify(self.identity, self.chance)
        try:
            body = await request.json() if body is None else body
            model = body.get("model") if isinstance(body, dict) else None
            if model not in {None, self.settings.served_name, *self.settings.adapters}:
                message = f"The model `{model}` does not exist."
                error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
                return web.json_response({"error": error}, status=404)
            completion = parse(
                body,
                vocabulary_size=self.engine.model.vocabulary_size,
                eos=self.engine.model.special_ids,
                chat=chat,
                request_id=request.headers.get("X-Request-Id"),
                adapter=model if model in self.settings.adapters else "",
                server=next(self.turn) % self.settings.api_servers,
            )
            self.submit(completion, request.headers.get("X-data-parallel-rank"))
        except BadRequestError as error:
            return web.json_response(error.body(), status=400)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            return web.json_response(BadRequestError(f"The body is no JSON: {error}").body(), status=400)
        try:
            send = self.stream if completion.stream else self.whole
            return await send(request, completion, [behaviour for behaviour, _ in befalls])
        finally:
            for each in completion.requests:
                self.queues.pop(each.identifier, None)
                self.ranks.abort(each.identifier)

    def submit(self, completion: Completion, rank: str | None = None) -> None:
        """Queue all sequences of a request, or none.

        Raises:
            BadRequestError: in vLLM's words.
        """
        try:
            number = None if rank is None else int(rank)
        except ValueError:
            number = None  # as in vLLM, which ignores it
        for done, each in enumerate(completion.requests):
            try:
                self.ranks.submit(each, number)
            except ValueError as error:
                for earlier in completion.requests[:done]:
                    self.ranks.abort(earlier.identifier)
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
            "created": int(time.time() + self.engine.clock_offset),
            "model": completion.requests[0].adapter or self.settings.served_name,
            "system_fingerprint": self.identity.fingerprint,
        }

    async def whole(
        self, request: web.Request, completion: Completion, behaviours: list[Behaviour]
    ) -> web.StreamResponse:
        """Answer in one JSON body."""
        choices: list[dict[str, Any]] = []
        generated: list[Emission] = []
        for index, each in enumerate(completion.requests):
            emissions: list[Emission] = []
            while not emissions or emissions[-1].finish_reason is None:
                emissions.append(await self.queues[each.identifier].get())
            if any(math.isnan(emission.logprob) for emission in emissions):
                # Measured on vLLM 0.32.
                error = BadRequestError("Out of range float values are not JSON compliant: nan")
                return web.json_response(error.body(), status=400)
            generated += emissions
            choices.append(choice(completion, index, emissions))
        counts = usage(completion, generated, details=self.settings.token_details)
        body = _written(self.head(completion) | {"choices": choices, "usage": counts}, behaviours)
        if any(behaviour.cuts for behaviour in behaviours):
            response = web.StreamResponse(
                headers={"Content-Type": "application/json", "Content-Length": str(len(body.encode()))}
            )
            await response.prepare(request)
            await response.write(body[: len(body) // 2].encode())
            _hang_up(request)
            return response
        return web.Response(text=body, content_type="application/json")

    async def stream(
        self, request: web.Request, completion: Completion, behaviours: list[Behaviour]
    ) -> web.StreamResponse:
        """Answer as server-sent events, token by token."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)

        async def send(content: dict[str, Any]) -> None:
            await response.write(f"data: {_written(content, behaviours)}\n\n".encode())

        generated: list[Emission] = []
        for index, each in enumerate(completion.requests):
            finished = False
            while not finished:
                emission = await self.queues[each.identifier].get()
                generated.append(emission)
                await send(self.head(completion) | {"choices": [choice(completion, index, [emission])]})
                finished = emission.finish_reason is not None
                if len(generated) >= 3 and any(behaviour.cuts for behaviour in behaviours):
                    _hang_up(request)
                    return response
        if completion.include_usage:
            counts = usage(completion, generated, details=self.settings.token_details)
            await send(self.head(completion) | {"choices": [], "usage": counts})
        await response.write(b"data: [DONE]\n\n")
        return response


async def _refused(request: web.Request, refusal: Refusal) -> web.StreamResponse:
    await asyncio.sleep(refusal.delay)
    if not refusal.whole:
        _hang_up(request)
    kind = "application/json" if refusal.body.startswith("{") else "text/html"
    return web.Response(text=refusal.body, status=refusal.status, content_type=kind)


def _written(body: dict[str, Any], behaviours: list[Behaviour]) -> str:
    text = json.dumps(body)
    for behaviour in behaviours:
        if behaviour.rewrite:
            text = behaviour.rewrite(text)
    return text


def _local_only(request: web.Request) -> None:
    # The last is how a socket of both families shows the first.
    if request.remote not in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}:
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
