"""What the door of an engine lets in, what it refuses and in which words, and which answers are not promised."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from detinf.documents import Reference
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import requests as plan_requests
from detinf.guard import requests
from detinf.guard.middleware import RequestFilter
from detinf.guard.requests import Refusal, Route, Rules
from detinf.probe.client import EngineClient

PROFILE = PROFILES["vllm-ascend-0.23"]
LISTED = plan_requests(PROFILE)
assert LISTED is not None
DOCUMENT = LISTED.model_dump(mode="json", by_alias=True, exclude_none=True)
RULES = Rules(DOCUMENT)
COMPLETIONS = "/v1/completions"
PLAIN = {"model": "m", "prompt": [1, 2], "max_tokens": 3, "temperature": 0}


class Engine:
    """An application behind the filter: it reads what comes and answers what it got."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.answers: Callable[..., Awaitable[None]] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self.answers is not None:
            await self.answers(scope, receive, send)
            return
        if scope["type"] != "http":
            self.got.append((scope["type"], b""))
            return
        data = b""
        while True:
            message = await receive()
            data += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.got.append((scope["path"], data))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b"})


class Answer:
    """What a client sees."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.status = sent[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in sent[1:])

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.body)["error"])


Ask = Callable[..., Awaitable[Answer]]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def ask(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask an engine that runs under a plan with the profile's lists."""
    plan = {
        "schema": 1,
        "model": {"path": "/m"},
        "arguments": [],
        "environment": {"set": {}},
        "topology": {"devices": 0},
        "attestation": {"processes": ["guard"]},
        "requests": DOCUMENT,
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setenv("DETINF_PLAN", str(tmp_path / "plan.json"))
    monkeypatch.setenv("DETINF_BOOT", "b" * 32)
    application = RequestFilter(engine)

    async def asked(
        method: str, path: str, body: Any = None, *, parts: list[bytes] | None = None, **scope: Any
    ) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        queue = [
            {"type": "http.request", "body": part, "more_body": number + 1 < len(parts or [data])}
            for number, part in enumerate(parts or [data])
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            return queue.pop(0) if queue else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await application({"type": "http", "method": method, "path": path, "headers": []} | scope, receive, send)
        return Answer(sent)

    return asked


# Routes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/metrics/", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/version", 200),
        ("GET", "/load", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/static/a/b.js", 200),
        ("OPTIONS", COMPLETIONS, 200),
        ("GET", "/", 404),
        ("GET", "", 404),
        ("POST", "/generate", 404),
        ("POST", "//v1/completions", 404),
        ("POST", "/v1//completions", 404),
        ("POST", "/v1/completions;x", 404),
        ("POST", "/V1/Completions", 404),
        ("GET", "/metricsx", 404),
        ("GET", "/metrics/x", 404),
        ("GET", "/health\n", 404),
        ("GET", COMPLETIONS, 405),
        ("DELETE", "/v1/models", 405),
        ("BREW", "/health", 405),
        ("POST", "/generative_scoring", 403),
        ("POST", "/generative_scoring/", 403),
        ("POST", "/scale_elastic_ep", 403),
        ("POST", "/pause", 403),
        ("POST", "/update_weights", 403),
        ("POST", "/invocations", 403),
        ("POST", "/v1/responses", 403),
        ("GET", "/v1/responses/resp_1", 403),
        ("POST", "/v1/responses/resp_1/cancel", 403),
        ("POST", "/v1/messages", 403),
        ("POST", "/v1/load_lora_adapter", 403),
        ("POST", "/collective_rpc", 403),
        ("OPTIONS", "/generative_scoring", 403),
    ],
)
async def test_routes_are_served_or_refused(ask: Ask, engine: Engine, method: str, path: str, status: int) -> None:
    answer = await ask(method, path)
    assert (answer.status, answer.headers["x-detinf-boot"]) == (status, "b" * 32)
    assert bool(engine.got) == (status == 200)
    if status != 200:
        assert answer.error["code"] == status
        assert answer.headers["content-length"] == str(len(answer.body))


def test_every_refused_route_says_why_and_what_to_do() -> None:
    for rule in PROFILE.routes:
        for name in rule.names if rule.kind == "Refused" else ():
            method, _, path = name.partition(" ")
            refusal = RULES.route(method, path.replace("{response_id}", "x"))
            assert isinstance(refusal, Refusal)
            assert (refusal.status, refusal.message) == (403, f"{name} is not served: {rule.reason}; {rule.remedy}")


async def test_another_method_says_which_there_are(ask: Ask) -> None:
    answer = await ask("GET", COMPLETIONS)
    assert answer.headers["allow"] == "POST"
    assert answer.error["message"] == f"GET is no method of '{COMPLETIONS}'; use POST"


async def test_path_under_a_root_is_the_routes_own(ask: Ask) -> None:
    assert (await ask("GET", "/llm/health", root_path="/llm")).status == 200
    assert (await ask("POST", "/llm/generative_scoring", root_path="/llm")).status == 403
    assert (await ask("POST", "/generative_scoring", root_path="/llm")).status == 403
    assert (await ask("GET", "/llm", root_path="/llm")).status == 404


@pytest.mark.usefixtures("ask")
async def test_web_socket_that_is_not_served_is_closed_before_it_opens(engine: Engine) -> None:
    for path in ("/v1/realtime", "/nothing", COMPLETIONS):
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any, sent: list[dict[str, Any]] = sent) -> None:
            sent.append(message)

        await RequestFilter(engine)({"type": "websocket", "path": path, "headers": []}, receive, send)
        assert [message["type"] for message in sent] == ["websocket.close"]
    assert engine.got == []


# Fields ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("logprob_token_ids", [1], "logprob_token_ids = [1] is refused: while it is answered"),
        ("logprob_token_ids", [], "logprob_token_ids = [] is refused"),
        ("kv_transfer_params", {"a": 1}, "keys and values that were computed elsewhere"),
        ("vllm_xargs", {"x": 1}, "extensions"),
        ("priority", 1, "priority = 1 is refused: another order of requests"),
        ("priority", True, "priority = true is refused"),
        ("prompt_embeds", "AAAA", "prompt_embeds"),
        ("guided_json", {}, "'guided_json' = {}: no field of it that this engine serves; leave it out"),
        ("logits_processors", ["x"], "no field of it"),
        ("", 1, "'' = 1: no field of it"),
        ("Prompt", 1, "'Prompt' = 1: no field of it"),
        ("best_of", 2, "no field of it"),
    ],
)
async def test_fields_are_refused_by_name_value_reason_and_remedy(
    ask: Ask, engine: Engine, field: str, value: Any, words: str
) -> None:
    answer = await ask("POST", COMPLETIONS, PLAIN | {field: value})
    assert (answer.status, answer.error["type"], answer.error["param"]) == (400, "BadRequestError", field)
    assert words in answer.error["message"]
    assert "; " in answer.error["message"]
    assert engine.got == []


async def test_chat_template_of_a_request_is_refused_wherever_one_is_rendered(ask: Ask) -> None:
    for path in ("/v1/chat/completions", "/tokenize"):
        assert (await ask("POST", path, {"messages": [], "chat_template": "{{ now() }}"})).status == 400


@pytest.mark.parametrize(
    "field", ["logprob_token_ids", "priority", "kv_transfer_params", "seed", "tools", "function_call", "anything"]
)
async def test_null_is_as_if_the_field_were_not_there(ask: Ask, field: str) -> None:
    answer = await ask("POST", COMPLETIONS, PLAIN | {field: None})
    assert answer.status == 200
    assert "x-detinf-unpromised" not in answer.headers


async def test_default_values_of_refused_fields_pass(ask: Ask) -> None:
    assert (await ask("POST", COMPLETIONS, PLAIN | {"priority": 0})).status == 200


async def test_fields_that_openais_clients_send_and_vllm_ignores_pass(ask: Ask) -> None:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "a", "name": "x"}],
        "seed": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 1,
        "logprobs": True,
        "top_logprobs": 2,
        "user": "u",
        "store": False,
        "metadata": {"run": "1"},
        "service_tier": "auto",
        "safety_identifier": "u",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "tool_choice": "none",
        "stop": None,
        "functions": None,
    }
    answer = await ask("POST", "/v1/chat/completions", body)
    assert answer.status == 200
    assert "x-detinf-unpromised" not in answer.headers


# Bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"[]", "is list, no object"),
        (b'"x"', "is str, no object"),
        (b"\xff\xfe", "is no JSON"),
        (b"\x1f\x8b\x08\x00", "is no JSON"),
        (b"prompt=x&max_tokens=3", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "is no JSON"),
    ],
)
async def test_body_that_is_no_object_is_refused(ask: Ask, engine: Engine, body: bytes, words: str) -> None:
    answer = await ask("POST", COMPLETIONS, body)
    assert answer.status == 400
    assert words in answer.error["message"]
    assert engine.got == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32", "utf-8-sig"])
async def test_body_is_read_as_vllm_reads_it_whatever_its_encoding(ask: Ask, engine: Engine, encoding: str) -> None:
    good, bad = (json.dumps(PLAIN | more).encode(encoding) for more in ({}, {"logprob_token_ids": [1]}))
    assert (await ask("POST", COMPLETIONS, good)).status == 200
    assert engine.got == [(COMPLETIONS, good)]
    assert (await ask("POST", COMPLETIONS, bad)).status == 400


async def test_field_that_stands_twice_is_read_as_vllm_reads_it(ask: Ask) -> None:
    assert (await ask("POST", COMPLETIONS, b'{"priority": 1, "priority": 0, "temperature": 0}')).status == 200
    assert (await ask("POST", COMPLETIONS, b'{"priority": 0, "priority": 1}')).status == 400
    assert (await ask("POST", COMPLETIONS, b'{"logprob_token\\u005fids": [1]}')).status == 400


async def test_body_in_pieces_reaches_the_engine_whole_and_once(ask: Ask, engine: Engine) -> None:
    data = json.dumps(PLAIN).encode()
    answer = await ask("POST", COMPLETIONS, parts=[data[:5], b"", data[5:9], data[9:]])
    assert (answer.status, answer.body) == (200, b"ab")
    assert engine.got == [(COMPLETIONS, data)]


async def test_body_is_not_held_while_it_is_answered(ask: Ask, engine: Engine) -> None:
    held: list[int] = []

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        del receive
        gc.collect()
        held.append(sum(isinstance(item, dict) and item.get("prompt") == [4711] for item in gc.get_objects()))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    engine.answers = answering
    assert (await ask("POST", COMPLETIONS, b'{"prompt": [4711], "temperature": 0}')).status == 200
    assert held == [0]


async def test_trailing_slash_is_looked_into_as_the_route_that_vllm_redirects_to(ask: Ask) -> None:
    assert (await ask("POST", f"{COMPLETIONS}/", PLAIN | {"logprob_token_ids": [1]})).status == 400
    assert (await ask("POST", f"{COMPLETIONS}/", PLAIN)).status == 200


async def test_body_above_the_limit_is_refused_before_it_is_read(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_BYTES", 100)
    told = await ask("POST", COMPLETIONS, PLAIN, headers=[(b"content-length", b"101")])
    assert (told.status, told.headers["connection"]) == (413, "close")
    assert told.error["message"] == "the body has 101 bytes, 100 are read at most; send a smaller request"
    untold = await ask("POST", COMPLETIONS, parts=[b" " * 60, b" " * 60, b"{}"])
    assert untold.error["message"] == "the body has more bytes, 100 are read at most; send a smaller request"


@pytest.mark.usefixtures("ask")
async def test_client_that_leaves_inside_its_body_gets_nothing_and_asks_nothing(engine: Engine) -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await RequestFilter(engine)({"type": "http", "method": "POST", "path": COMPLETIONS, "headers": []}, receive, send)
    assert (sent, engine.got) == ([], [])


@pytest.mark.usefixtures("ask")
async def test_engine_sees_that_a_client_left_after_its_request() -> None:
    seen: list[str] = []

    async def app(_scope: Any, receive: Any, _send: Any) -> None:
        seen.extend([(await receive())["type"], (await receive())["type"]])

    messages = iter([{"type": "http.request", "body": b"{}"}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    await RequestFilter(app)({"type": "http", "method": "POST", "path": COMPLETIONS, "headers": []}, receive, receive)
    assert seen == ["http.request", "http.disconnect"]


async def test_engine_without_lists_serves_what_it_is_asked(engine: Engine) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x"}

    await RequestFilter(engine)({"type": "http", "method": "POST", "path": "/any", "headers": []}, receive, send)
    assert engine.got == [("/any", b"x")]


# The promise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "because"),
    [
        ({"temperature": 0}, []),
        ({"temperature": 0.000001}, []),
        ({"temperature": "0"}, []),
        ({"temperature": 1, "seed": 5}, []),
        ({"seed": 0}, []),
        ({"seed": "7"}, []),
        ({"seed": -2}, []),
        ({}, ["seed"]),
        ({"temperature": 0.5}, ["seed"]),
        ({"seed": -1}, ["seed"]),
        ({"seed": -1, "temperature": 0}, []),
        ({"seed": -2, "n": 3}, ["seed"]),
        ({"seed": -3, "n": 2}, []),
        ({"seed": 7, "n": 4}, []),
        ({"seed": None, "temperature": None}, ["seed"]),
        ({"seed": 1, "prompt_logprobs": 1}, ["prompt_logprobs"]),
        ({"seed": 1, "echo": True}, ["echo"]),
        ({"seed": 1, "echo": False}, []),
        ({"seed": 1, "response_format": {"type": "text"}}, []),
        ({"response_format": {"type": "json_object"}}, ["response_format", "seed"]),
        ({"seed": 1, "structured_outputs": {"choice": ["a"]}}, ["structured_outputs"]),
        ({"seed": 1, "use_beam_search": True}, ["use_beam_search"]),
    ],
)
async def test_answer_that_is_not_promised_says_because_of_what(ask: Ask, body: Any, because: list[str]) -> None:
    answer = await ask("POST", COMPLETIONS, {"prompt": [1]} | body)
    assert answer.status == 200
    assert answer.headers.get("x-detinf-unpromised", "") == ", ".join(because)


async def test_conversation_with_more_than_text_is_not_promised(ask: Ask) -> None:
    text, image = {"type": "text", "text": "a"}, {"image_url": "http://x/y.png"}
    for content, because in (
        ("a", None),
        ([text, "b"], None),
        ([text | {"uuid": None}], None),
        ([text, image | {"type": "image_url"}], "messages"),
        ([text, image], "messages"),  # vLLM goes by the member's name where there is no type, or a uuid
        ([text | image | {"uuid": "u"}], "messages"),
    ):
        body = {"messages": [{"role": "user", "content": content}], "seed": 1}
        answer = await ask("POST", "/v1/chat/completions", body)
        assert answer.headers.get("x-detinf-unpromised") == because


async def test_tokenizers_answers_are_told_nothing_about(ask: Ask) -> None:
    answer = await ask("POST", "/tokenize", {"prompt": "a"})
    assert answer.status == 200
    assert "x-detinf-unpromised" not in answer.headers


def test_every_request_of_the_probe_is_served_and_promised() -> None:
    client = EngineClient("http://127.0.0.1:1", "m", boot=None)
    reference = Reference(name="r", prompt_ids=[1, 2], max_tokens=4, temperature_milli=1000, seed=3, logprobs=20)
    for profile in PROFILES.values():
        listed = plan_requests(profile)
        assert listed is not None
        rules = Rules(listed.model_dump(mode="json", by_alias=True, exclude_none=True))
        for path in ("/health", "/metrics"):
            assert isinstance(rules.route("GET", path), Route)
        route = rules.route("POST", COMPLETIONS)
        assert isinstance(route, Route)
        body = client.body([1, 2], reference, max_tokens=4)
        assert requests.check_fields(route, body) is None
        assert requests.unpromised(route, body) == []


def test_later_rule_counts_so_that_a_site_can_open_a_route() -> None:
    opened = {"names": ["POST /v1/embeddings"], "kind": "Unpromised"}
    rules = Rules(DOCUMENT | {"routes": [*DOCUMENT["routes"], opened]})
    assert isinstance(rules.route("POST", "/v1/embeddings"), Route)
    assert isinstance(RULES.route("POST", "/v1/embeddings"), Refusal)


def test_two_requests_at_once_do_not_share_a_body(ask: Ask, engine: Engine) -> None:
    async def both() -> list[Answer]:
        return await asyncio.gather(
            *(ask("POST", COMPLETIONS, PLAIN | {"user": str(number)}, parts=None) for number in range(8))
        )

    assert {answer.status for answer in asyncio.run(both())} == {200}
    assert {json.loads(data)["user"] for _, data in engine.got} == {str(number) for number in range(8)}
