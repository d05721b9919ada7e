"""HTTP to the engine: fixed requests in vLLM's own field names, and what went wrong named exactly."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from typing import Any, Self

import aiohttp

from detinf.documents import Reference
from detinf.guard.layout import BOOT_HEADER
from detinf.guard.trace import own_id
from detinf.probe.cohort import Shape, form
from detinf.probe.engine import EngineIdentity, Look, Outcome
from detinf.probe.metrics import VLLM, Series, Snapshot, parse_metrics
from detinf.probe.observation import Observation, parse_completion
from detinf.probe.reasons import InconclusiveError, Reason

REQUEST_SECONDS = 300
"""A slow engine is slow, not wrong; a request that never ends must not stop the probe for ever."""
METRICS_SECONDS = 10
KEEP_ALIVE_SECONDS = 2.0
"""An idle connection is ours to close: vLLM does after 5 (``VLLM_HTTP_TIMEOUT_KEEP_ALIVE``), and a request that it
crosses with is lost, and with it a whole cell of the gate (seen on vLLM 0.32)."""
JOIN_POLL_SECONDS = 0.002
"""How often a request that joins others looks whether they are decoding: a look is a few reads of a file."""

STATUS_REASONS = {429: Reason.RATE_LIMITED, 503: Reason.UNAVAILABLE}


def read_answer(data: bytes, reference: Reference, *, place: int = 0, of: int = 1) -> Observation:
    """Return the observation in an answer's bytes, of the prompt at a place in a list of them.

    Raises:
        InconclusiveError: where there is none (``parse_completion``).
    """
    top, tokens = reference.logprobs or 0, reference.max_tokens
    return parse_completion(data, tokens=tokens, prompt=reference.prompt_ids, top=top, place=place, of=of)


class EngineClient:
    """One engine, seen from beside it."""

    def __init__(self, base_url: str, model: str, *, boot: str | None, series: Series = VLLM) -> None:
        """Prepare; nothing is sent yet.

        Args:
            base_url: such as ``http://127.0.0.1:8000``.
            model: ``--served-model-name``.
            boot: the boot that every answer must carry; None for an engine that was not started by a guard.
            series: what is read of its metrics.
        """
        self.series = series
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.boot = boot
        self.tokens_sent = 0
        self.tokens_received = 0
        self.finished = 0
        """Requests of ours that the engine has answered."""
        self._salts = itertools.count()
        self._salt = secrets.token_hex(6)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        # trust_env off: a proxy between us and the engine beside us could only hide things.
        self._session = aiohttp.ClientSession(
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            trust_env=False,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close the connection pool."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """Return the open connection pool.

        Raises:
            RuntimeError: outside ``async with``.
        """
        if self._session is None:
            raise RuntimeError("EngineClient is used outside `async with`")
        return self._session

    def body(self, prompt: list[int], reference: Reference, *, max_tokens: int) -> dict[str, Any]:
        """Return a request with every sampling parameter said: defaults may come from the model's repository."""
        return {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "min_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": reference.temperature_milli / 1000,
            "seed": reference.seed,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "n": 1,
            "logprobs": reference.logprobs or 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            # Unique and without a slash, which vLLM answers with 400: no answer may come from another's cache.
            "cache_salt": f"detinf-{self._salt}-{next(self._salts)}",
            "stream": False,
        }

    async def post(self, body: dict[str, Any], request_id: str | None = None) -> bytes:
        """Send a completion request and return the answer's bytes; its id is what the step trace knows it by.

        Raises:
            InconclusiveError: with the reason why there is no answer to compare.
        """
        try:
            headers = {"X-Request-Id": request_id} if request_id else None
            async with self.session.post(f"{self.base_url}/v1/completions", json=body, headers=headers) as response:
                # Its head comes when it is whole: the engine has counted it, whatever becomes of the rest of it.
                self.finished += _sequences(body) if response.status == 200 else 0
                data = await response.read()
                boot = response.headers.get(BOOT_HEADER)
                status = response.status
        except TimeoutError as error:
            raise InconclusiveError(Reason.TIMEOUT, f"no answer within {REQUEST_SECONDS} s") from error
        except aiohttp.ClientPayloadError as error:
            raise InconclusiveError(Reason.TRUNCATED, "the connection ended inside the answer") from error
        except aiohttp.ClientError as error:
            raise InconclusiveError(Reason.TRANSPORT, f"{type(error).__name__}: {error}"[:200]) from error
        return self.accepted(status, boot, data)

    def accepted(self, status: int, boot: str | None, data: bytes) -> bytes:
        """Return the bytes of an answer that came with a status and a boot.

        Raises:
            InconclusiveError: where it is not an answer of this engine.
        """
        if status != 200:
            reason = STATUS_REASONS.get(status, Reason.HTTP_STATUS)
            raise InconclusiveError(reason, f"HTTP {status}: {data[:120]!r}")
        if self.boot is not None and boot != self.boot:
            raise InconclusiveError(Reason.ENGINE_CHANGED, f"{BOOT_HEADER} is {boot!r}, attested is {self.boot!r}")
        return data

    async def ask(self, reference: Reference, request_id: str | None = None) -> Outcome:
        """Return the answer to one reference, or why there is none; never raises for what an engine can do."""
        body = self.body(reference.prompt_ids, reference, max_tokens=reference.max_tokens)
        self.tokens_sent += len(reference.prompt_ids)
        try:
            data = await self.post(body, request_id)
            observation = read_answer(data, reference)
        except InconclusiveError as error:
            return error
        self.tokens_received += reference.max_tokens
        return observation

    async def ask_list(self, references: Sequence[Reference], request_id: str | None = None) -> list[Outcome]:
        """Return the answers to one request with a list of prompts; all references must be sampled alike.

        Raises:
            ValueError: for references that differ in more than their prompts: one request has one set of parameters.
        """
        first = references[0]
        for reference in references:
            same = {"name": first.name, "kind": first.kind, "prompt_ids": first.prompt_ids}
            if reference.model_copy(update=same) != first:
                raise ValueError(
                    f"{reference.name} is not sampled as {first.name}; give the prompts of a list the same parameters"
                )
        body = self.body([], first, max_tokens=first.max_tokens) | {"prompt": [item.prompt_ids for item in references]}
        self.tokens_sent += sum(len(item.prompt_ids) for item in references)
        try:
            data = await self.post(body, request_id)
        except InconclusiveError as error:
            return [error] * len(references)
        self.tokens_received += sum(item.max_tokens for item in references)
        return [self.read(data, item, place, len(references)) for place, item in enumerate(references)]

    @staticmethod
    def read(data: bytes, reference: Reference, place: int, of: int) -> Outcome:
        """Return the answer at a place of a list, or why there is none."""
        try:
            return read_answer(data, reference, place=place, of=of)
        except InconclusiveError as error:
            return error

    async def plug(self, length: int, reference: Reference) -> None:
        """Hold the scheduler for a step: a long cold prompt with one output token. Its answer does not matter.

        It is greedy: vLLM 0.32 on CPU ends where a seeded prompt is cut into chunks ("CPU Generator does not use
        offset", ``gpu_model_runner.py``).
        """
        prompt = (reference.prompt_ids * (length // len(reference.prompt_ids) + 1))[:length]
        self.tokens_sent += length
        try:
            await self.post(self.body(prompt, reference, max_tokens=1) | {"temperature": 0.0})
        except InconclusiveError:
            return

    async def cohort(self, references: Sequence[Reference], plug_length: int, cohort: bytes) -> list[Outcome]:
        """Ask references together, behind a plug; ``cohort`` are 8 bytes that the step trace knows them by."""
        return (await form(self, references, cohort, Shape(plug_tokens=plug_length))).answers

    async def join(
        self, first: Sequence[Reference], then: Sequence[Reference], cohort: bytes, may_join: Callable[[], bool]
    ) -> list[Outcome]:
        """Ask references, and others as soon as ``may_join`` says so, or the first have their answers."""
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self.ask(reference, own_id(cohort, number))) for number, reference in enumerate(first)
            ]
            while not may_join() and not all(task.done() for task in asked):  # noqa: ASYNC110 - a file cannot be awaited
                await asyncio.sleep(JOIN_POLL_SECONDS)
            asked += [
                group.create_task(self.ask(reference, own_id(cohort, number)))
                for number, reference in enumerate(then, len(first))
            ]
        return [task.result() for task in asked]

    def take_tokens(self) -> tuple[int, int]:
        """Return the tokens that were (sent, received) since this was last asked."""
        taken = self.tokens_sent, self.tokens_received
        self.tokens_sent = self.tokens_received = 0
        return taken

    async def metrics(self) -> Snapshot | None:
        """Return what ``/metrics`` says now, or None where it does not."""
        try:
            async with self.session.get(
                f"{self.base_url}/metrics", timeout=aiohttp.ClientTimeout(total=METRICS_SECONDS)
            ) as response:
                return parse_metrics(await response.text(), self.series) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, UnicodeDecodeError):
            return None

    async def look(self) -> Look:
        """Return who answers now, and what the metrics page says."""
        try:
            async with self.session.get(
                f"{self.base_url}/health", timeout=aiohttp.ClientTimeout(total=METRICS_SECONDS)
            ) as response:
                if response.status != 200:
                    return Look(None, None)
                boot = response.headers.get(BOOT_HEADER)
        except (aiohttp.ClientError, TimeoutError):
            return Look(None, None)
        snapshot = await self.metrics()
        if snapshot is None:
            return Look(EngineIdentity(boot, None), None)
        others = None if snapshot.finished is None else round(snapshot.finished) - self.finished
        return Look(EngineIdentity(boot, snapshot.started), snapshot, others)


def _sequences(body: dict[str, Any]) -> int:
    prompt = body["prompt"]
    return len(prompt) if prompt and isinstance(prompt[0], list) else 1
