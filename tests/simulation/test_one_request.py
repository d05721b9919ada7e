"""One request that changes its neighbours' answers: what it does, that it is seen, and that the door keeps it out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from detinf.api.types import Promise
from detinf.documents import Verdict
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import requests as plan_requests
from detinf.guard.requests import Rules
from detinf.probe.client import EngineClient
from detinf.probe.comparison import Observable
from detinf.probe.observation import Observation
from detinf.probe.references import propose
from detinf.probe.relations import Prober
from detinf_sim.limits import Limits
from detinf_sim.model import HashModel
from detinf_sim.server import Settings, running_server

LISTED = plan_requests(PROFILES["simulated"])
assert LISTED is not None
RULES = Rules(LISTED.model_dump(mode="json", by_alias=True, exclude_none=True))
NAMES_TOKENS = {"prompt": [7], "max_tokens": 2000, "ignore_eos": True, "logprobs": 1, "logprob_token_ids": [3]}
SCORES = {"query": [1, 2], "items": [[3], [4]], "label_token_ids": [5]}


def settings(**more: Any) -> Settings:
    limits = Limits(8, 8192, 8192, kv_blocks=400)
    return Settings(HashModel(1000, b"test"), limits=limits, step_seconds=0.0005, faults=["F33"], **more)


@contextlib.asynccontextmanager
async def neighbour(url: str) -> AsyncIterator[None]:
    """Keep a request running that wants the logprobs of tokens that it names."""
    body = NAMES_TOKENS | {"stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 200
        await response.content.readline()  # it decodes now, and for 2000 steps
        yield


async def test_check_says_that_a_neighbour_changes_the_most_probable_tokens() -> None:
    reference = propose(1000, [], 4096, 2).items[0]
    async with running_server(settings()) as (url, server), EngineClient(url, "sim", boot=None) as client:
        prober = Prober(client, Promise.TOKENS_AND_LOGPROBS, 4096)
        alone = await client.ask(reference)
        assert isinstance(alone, Observation)
        assert {outcome.verdict for outcome in await prober.solo(reference, alone)} == {Verdict.PASS}
        async with neighbour(url):
            _, held = await prober.solo(reference, alone)
        assert held.verdict is Verdict.FAIL
        assert held.finding is not None
        assert held.finding.difference.observable in {Observable.TOP, Observable.LOGPROB}
        assert server.active.struck["F33"] > 0
        assert held.finding.observed.token_ids == alone.token_ids  # what comparing texts never sees


async def test_scoring_is_answered_where_there_is_no_door_and_strikes_its_neighbours() -> None:
    async with running_server(settings()) as (url, _), aiohttp.ClientSession() as session:
        async with session.post(f"{url}/generative_scoring", json=SCORES) as response:
            answer = await response.json()
        assert [item["index"] for item in answer["data"]] == [0, 1]
        assert all(0 < item["score"] <= 1 for item in answer["data"])
        for broken in ({"items": []}, {"label_token_ids": None}, {"query": "text"}):
            async with session.post(f"{url}/generative_scoring", json=SCORES | broken) as response:
                assert response.status == 400


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/generative_scoring", SCORES, 403, "POST /generative_scoring is not served: while it is answered"),
        ("/v1/completions", NAMES_TOKENS, 400, "logprob_token_ids = [3] is refused: while it is answered"),
        ("/v1/chat/completions", NAMES_TOKENS, 400, "logprob_token_ids = [3] is refused"),
        ("/v1/completions", {"prompt": [1], "unheard_of": 1}, 400, "'unheard_of' = 1: no field of it"),
        ("/nowhere", {}, 404, "'/nowhere' is no route"),
    ],
)
async def test_door_refuses_it_and_the_engine_answers_as_ever(path: str, body: Any, status: int, words: str) -> None:
    reference = propose(1000, [], 4096, 2).items[0]
    async with running_server(settings(rules=RULES)) as (url, server), EngineClient(url, "sim", boot=None) as client:
        prober = Prober(client, Promise.TOKENS_AND_LOGPROBS, 4096)
        alone = await client.ask(reference)
        assert isinstance(alone, Observation)
        async with client.session.post(url + path, json=body) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, status)
        assert words in error["message"]
        assert {outcome.verdict for outcome in await prober.solo(reference, alone)} == {Verdict.PASS}
        assert server.active.struck == {}


async def test_answers_that_are_not_promised_say_so() -> None:
    async with running_server(settings(rules=RULES)) as (url, _), aiohttp.ClientSession() as session:
        for seed, because in ((-1, "seed"), (5, None), (None, "seed")):
            body = {"prompt": [1], "max_tokens": 1, "seed": seed}
            async with session.post(f"{url}/v1/completions", json=body) as response:
                assert response.status == 200
                assert response.headers.get("X-Detinf-Unpromised") == because
