"""The simulator's HTTP: vLLM's shapes, errors and streams."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from detinf_sim.cli import parser
from detinf_sim.model import HashModel, make_model
from detinf_sim.server import Settings, running_server

BODY: dict[str, Any] = {
    "model": "sim",
    "prompt": [5, 6, 7],
    "max_tokens": 6,
    "ignore_eos": True,
    "seed": 3,
    "logprobs": 2,
    "return_token_ids": True,
}


def settings() -> Settings:
    return Settings(model=HashModel(500, b"test"), served_name="sim", step_seconds=0.0005, boot="c" * 32)


async def post(session: aiohttp.ClientSession, url: str, **changes: Any) -> tuple[int, Any]:
    async with session.post(f"{url}/v1/completions", json=BODY | changes) as response:
        return response.status, await response.json()


async def test_json_and_stream_carry_the_same_floats_and_boot() -> None:
    async with running_server(settings()) as (url, _), aiohttp.ClientSession() as session:
        _, whole = await post(session, url)
        async with session.post(f"{url}/v1/completions", json=BODY | {"stream": True}) as response:
            assert response.headers["X-Detinf-Boot"] == "c" * 32
            lines = (await response.text()).split("\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and not line.endswith("[DONE]")]
        assert lines[-2] == "data: [DONE]"
        choices = [chunk["choices"][0] for chunk in chunks]
        expected = whole["choices"][0]
        assert [item["token_ids"][0] for item in choices] == expected["token_ids"]
        values = [item["logprobs"]["token_logprobs"][0] for item in choices]
        assert values == expected["logprobs"]["token_logprobs"]
        assert len(expected["logprobs"]["top_logprobs"][0]) in {2, 3}
        assert choices[-1]["finish_reason"] == expected["finish_reason"] == "length"


async def test_seed_decides_and_no_seed_does_not_repeat() -> None:
    async with running_server(settings()) as (url, _), aiohttp.ClientSession() as session:

        async def ids(**changes: Any) -> list[list[int]]:
            return [
                choice["token_ids"] for choice in (await post(session, url, max_tokens=24, **changes))[1]["choices"]
            ]

        assert await ids(seed=7) == await ids(seed=7)
        assert await ids(seed=7) != await ids(seed=8)
        assert await ids(seed=None) != await ids(seed=None)
        # n=3 with seed 7 equals the seeds 7, 8 and 9, as measured on vLLM.
        assert await ids(seed=7, n=3) == [*await ids(seed=7), *await ids(seed=8), *await ids(seed=9)]


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"prompt": []}, "prompt", "non-empty"),
        ({"prompt": [500]}, "prompt", "Token id 500 is out of vocabulary"),
        ({"logprobs": 21}, "logprobs", "max allowed: 20"),
        ({"cache_salt": "a/b"}, "cache_salt", "without '/'"),
        ({"temperature": -1}, "temperature", "between 0 and 2"),
        ({"max_tokens": 100_000}, "prompt", "maximum context length"),
        ({"min_tokens": 7}, "min_tokens", "between 0 and 6"),
        ({"max_tokens": 2.5}, "max_tokens", "a whole number"),
        ({"logprobs": "5"}, "logprobs", "got '5'"),
        ({"logprobs": True}, "logprobs", "got True"),
        ({"seed": "x"}, "seed", "got 'x'"),
        ({"stream_options": [1]}, "stream_options", "got [1]"),
        ({"prompt": [[True]]}, "prompt", "non-empty"),
        ({"top_p": 0}, "top_p", "between"),
    ],
)
async def test_bad_request_is_400_in_vllms_shape(changes: dict[str, Any], param: str, words: str) -> None:
    async with running_server(settings()) as (url, server), aiohttp.ClientSession() as session:
        status, answer = await post(session, url, **changes)
        assert status == 400
        assert answer["error"]["param"] == param
        assert words in answer["error"]["message"]
        assert not server.engine.has_work


async def test_other_model_is_404() -> None:
    async with running_server(settings()) as (url, _), aiohttp.ClientSession() as session:
        status, answer = await post(session, url, model="other")
        assert (status, answer["error"]["type"]) == (404, "NotFoundError")


async def test_chat_answers_in_its_simplest_form() -> None:
    async with running_server(settings()) as (url, _), aiohttp.ClientSession() as session:
        body = {
            "model": "sim",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 3,
            "seed": 1,
            "logprobs": True,
        }
        async with session.post(f"{url}/v1/chat/completions", json=body) as response:
            answer = await response.json()
        choice = answer["choices"][0]
        assert choice["message"]["role"] == "assistant"
        assert len(choice["logprobs"]["content"]) == 3


async def test_client_that_leaves_frees_the_scheduler() -> None:
    async with running_server(settings()) as (url, server), aiohttp.ClientSession() as session:
        task = asyncio.create_task(post(session, url, max_tokens=4000))
        while not server.engine.running:
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(30):
            while server.engine.has_work:
                await asyncio.sleep(0.01)


async def test_sigterm_ends_the_server_with_0(tmp_path: Path) -> None:
    make_model(tmp_path / "m", 500)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "detinf_sim", "serve", str(tmp_path / "m"), "--host", "127.0.0.1", "--port", "0"),
        stdout=asyncio.subprocess.PIPE,
        env={"DETINF_SIM_LOAD_SECONDS": "0", "PATH": "", "PYTHONPATH": str(Path("operator").resolve())},
    )
    assert process.stdout is not None
    assert b"serving" in await process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0


def test_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["serve", "m", "--enable-magic"])
    assert caught.value.code == 2
    assert "--enable-magic" in capsys.readouterr().err
