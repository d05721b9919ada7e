"""The simulator's HTTP: vLLM's shapes, errors and streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from detinf.guard.layout import BOOT_VARIABLE
from detinf_sim.cli import parser, settings_of
from detinf_sim.limits import Limits
from detinf_sim.model import HashModel, make_model
from detinf_sim.server import Settings, _local_only, running_server

BODY: dict[str, Any] = {
    "model": "sim",
    "prompt": [5, 6, 7],
    "max_tokens": 6,
    "ignore_eos": True,
    "seed": 3,
    "logprobs": 2,
    "return_token_ids": True,
}


def settings(**changes: Any) -> Settings:
    return Settings(model=HashModel(500, b"test"), served_name="sim", step_seconds=0.0005, boot="c" * 32, **changes)


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
        ({"min_p": 2}, "min_p", "between 0 and 1"),
        ({"presence_penalty": 3}, "presence_penalty", "between -2 and 2"),
        ({"stream": True, "prompt_logprobs": 0}, "prompt_logprobs", "not available"),
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


async def test_strangers_come_to_an_idle_engine_and_go_when_they_are_switched_off() -> None:
    async with running_server(settings(data_parallel=2)) as (url, server), aiohttp.ClientSession() as session:
        for names, busy in ((["load:50"], True), ([], False)):
            async with session.put(f"{url}/sim/faults", json=names) as response:
                assert (await response.json())["active"] == names
            async with asyncio.timeout(60):
                while any(bool(engine.running) is not busy for engine in server.ranks.engines):
                    await asyncio.sleep(0.001)


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


async def test_cached_tokens_are_told_with_the_flag_and_where_there_are_some() -> None:
    limits = Limits(prefix_caching=True, block_size=4)
    for flag, told in ((True, [None, {"cached_tokens": 8}]), (False, [None, None])):
        changed = settings(limits=limits, token_details=flag)
        async with running_server(changed) as (url, _), aiohttp.ClientSession() as session:
            answers = [(await post(session, url, prompt=list(range(9))))[1] for _ in range(2)]
            assert [answer["usage"].get("prompt_tokens_details") for answer in answers] == told
            assert answers[0]["choices"] == answers[1]["choices"]
            async with session.get(f"{url}/metrics") as response:
                page = await response.text()
            assert 'vllm:prefix_cache_queries_total{engine="0",model_name="sim"} 18' in page
            assert 'vllm:prefix_cache_hits_total{engine="0",model_name="sim"} 8' in page
            assert 'block_size="4",enable_prefix_caching="True"' in page


async def test_prompt_logprobs_are_listed_for_every_token_but_the_first() -> None:
    async with running_server(settings()) as (url, _), aiohttp.ClientSession() as session:
        choice = (await post(session, url, prompt_logprobs=0))[1]["choices"][0]
        assert choice["prompt_logprobs"][0] is None
        assert [list(item) for item in choice["prompt_logprobs"][1:]] == [["6"], ["7"]]


async def test_logprobs_0_tell_the_chosen_token_alone_and_none_tell_nothing() -> None:
    async with running_server(settings()) as (url, _), aiohttp.ClientSession() as session:
        (chosen,) = (await post(session, url, logprobs=0))[1]["choices"]
        assert [len(item) for item in chosen["logprobs"]["top_logprobs"]] == [1] * 6
        (silent,) = (await post(session, url, logprobs=None))[1]["choices"]
        assert silent["logprobs"] is None
        assert silent["token_ids"] == chosen["token_ids"]


async def test_adapter_is_a_model_of_its_own() -> None:
    async with running_server(settings(adapters=("poems",))) as (url, _), aiohttp.ClientSession() as session:
        base, poems = [(await post(session, url, model=name))[1] for name in ("sim", "poems")]
        assert base["choices"] != poems["choices"]
        assert poems["model"] == "poems"
        async with session.get(f"{url}/v1/models") as response:
            listed = (await response.json())["data"]
        assert [(item["id"], item["parent"]) for item in listed] == [("sim", None), ("poems", "sim")]
        async with session.get(f"{url}/metrics") as response:
            assert "vllm:lora_requests_info{" in await response.text()


async def test_data_parallel_rank_is_chosen_by_the_header() -> None:
    async with running_server(settings(data_parallel=2)) as (url, server), aiohttp.ClientSession() as session:
        for rank in ("1", "1", "0"):
            headers = {"X-data-parallel-rank": rank}
            async with session.post(f"{url}/v1/completions", json=BODY, headers=headers) as response:
                assert response.status == 200
        assert [engine.counters.prompt_tokens for engine in server.ranks.engines] == [3, 6]
        for strange, status in (("2", 400), ("-1", 400), ("x", 200)):
            headers = {"X-data-parallel-rank": strange}
            async with session.post(f"{url}/v1/completions", json=BODY, headers=headers) as response:
                assert response.status == status
        async with session.get(f"{url}/metrics") as response:
            page = await response.text()
        assert 'vllm:prompt_tokens_total{engine="1",model_name="sim"} 6' in page
        assert 'vllm:num_requests_running{engine="0",model_name="sim"} 0' in page


async def test_several_api_servers_say_no_start_time_and_count_apart() -> None:
    async with running_server(settings(api_servers=2)) as (url, server), aiohttp.ClientSession() as session:
        await asyncio.gather(*(post(session, url, max_tokens=24) for _ in range(8)))
        async with session.get(f"{url}/metrics") as response:
            page = await response.text()
        assert "vllm:generation_tokens_total" in page
        assert "process_start_time_seconds" not in page
        emitting = [record for record in server.engine.trace if record.width]
        assert server.engine.counters.iterations > len(emitting)


async def test_nan_is_400_and_null_in_a_stream() -> None:
    async with running_server(settings(faults=["F24"])) as (url, server), aiohttp.ClientSession() as session:
        prompts = [[5], [6], [7]]  # three rows in a graph of four
        status, answer = await post(session, url, prompt=prompts)
        assert (status, "not JSON compliant" in answer["error"]["message"]) == (400, True)
        async with session.post(f"{url}/v1/completions", json=BODY | {"prompt": prompts, "stream": True}) as response:
            assert "null" in (await response.text()).split('"token_logprobs": ')[-1].split("]")[0]
        assert server.engine.counters.corrupted > 0


@pytest.mark.parametrize(
    ("behaviour", "seen"),
    [
        ("status:503", (503, None)),
        ("too-long", (400, None)),
        ("garbage", (200, "no JSON")),
        ("hang:0", (None, "cut")),
        ("truncate", (None, "cut")),
        ("reserialise", (200, "equal")),
        ("no-details", (200, "equal")),
        ("restart", (200, "equal")),
        ("other-pod", (200, "equal")),
        ("upgrade", (200, "equal")),
        ("clock", (200, "equal")),
        ("slow:3", (200, "equal")),
        ("sometimes:0,status:503,truncate", (200, "equal")),
        ("round:3", (200, "other numbers")),
        ("stop:100", (200, "shorter")),
    ],
)
async def test_behaviour_does_what_it_says(behaviour: str, seen: tuple[int | None, str | None]) -> None:
    limits = Limits(prefix_caching=True, block_size=2)
    served = settings(limits=limits, token_details=True)
    async with running_server(served) as (url, server), aiohttp.ClientSession() as session:
        _, right = await post(session, url)
        server.active.switch(behaviour.split(","))
        status: int | None = None
        try:
            async with session.post(f"{url}/v1/completions", json=BODY) as response:
                status, text = response.status, await response.text()
                boot = response.headers["X-Detinf-Boot"]
        except aiohttp.ClientError:
            assert seen == (None, "cut")
            return
    assert status == seen[0]
    if status != 200:
        return
    if seen[1] == "no JSON":
        assert text.startswith("<html>")
        return
    answer = json.loads(text)
    same = answer["choices"] == right["choices"]
    shorter = len(answer["choices"][0]["token_ids"]) < 6
    assert seen[1] == ("equal" if same else "shorter" if shorter else "other numbers")
    assert (boot != "c" * 32) is (behaviour == "restart")
    assert (answer["system_fingerprint"] != right["system_fingerprint"]) is (behaviour == "upgrade")
    assert ("prompt_tokens_details" in answer["usage"]) is (behaviour != "no-details")
    if behaviour == "reserialise":
        assert text != json.dumps(answer)


@pytest.mark.parametrize(
    ("behaviour", "status", "edges", "total"),
    [
        (None, 200, 14, 6),
        ("metrics-404", 404, 0, None),
        ("metrics-empty", 200, 0, None),
        ("metrics-late", 200, 14, 0),
        ("metrics-edges", 200, 8, 6),
    ],
)
async def test_metrics_page_can_be_late_lacking_or_strange(
    behaviour: str | None, status: int, edges: int, total: int | None
) -> None:
    async with running_server(settings()) as (url, server), aiohttp.ClientSession() as session:
        async with session.get(f"{url}/metrics"):
            pass
        await post(session, url)
        server.active.switch([behaviour] if behaviour else [])
        async with session.get(f"{url}/metrics") as response:
            page = await response.text()
        assert response.status == status
        assert page.count("iteration_tokens_total_bucket{") == edges
        found = [
            int(line.split()[-1]) for line in page.splitlines() if line.startswith("vllm:iteration_tokens_total_count")
        ]
        assert found == ([] if total is None else [total])


def test_command_line_shapes_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model(tmp_path / "m", 500)
    line = "--block-size 16 --num-gpu-blocks-override 900 --no-enable-prefix-caching --api-server-count 2"
    line = f"{line} --data-parallel-size 3 --enable-prompt-tokens-details --lora-modules poems=/x"
    line = f"{line} --fingerprint-mode custom --fingerprint-value fp"
    arguments = ["serve", str(tmp_path / "m"), *line.split(), "--speculative-config", '{"num_speculative_tokens": 2}']
    made = settings_of(parser().parse_args(arguments))
    limits = made.limits
    assert (limits.block_size, limits.kv_blocks, limits.prefix_caching, limits.speculative_tokens) == (
        16,
        900,
        False,
        2,
    )
    assert (made.api_servers, made.data_parallel, made.token_details) == (2, 3, True)
    assert (made.adapters, made.fingerprint) == (("poems",), "fp")
    plain = [settings_of(parser().parse_args(["serve", str(tmp_path / "m")])) for _ in range(2)]
    assert plain[0].limits.prefix_caching  # vLLM's default
    assert plain[0].launch != plain[1].launch  # chance is the process's own where no guard names the boot
    monkeypatch.setenv(BOOT_VARIABLE, "b" * 32)
    assert settings_of(parser().parse_args(["serve", str(tmp_path / "m")])).launch is None


@pytest.mark.parametrize(
    ("remote", "taken"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::ffff:10.0.0.1", False), ("10.0.0.1", False)],
)
def test_faults_are_switched_from_this_machine_alone_whatever_the_socket_calls_it(remote: str, *, taken: bool) -> None:
    request = make_mocked_request("PUT", "/sim/faults").clone(remote=remote)
    with contextlib.nullcontext() if taken else pytest.raises(web.HTTPForbidden):
        _local_only(request)
