"""Reading vLLM's request bodies."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import Any

from detinf_sim.sequences import Request

MAX_LOGPROBS = 20


class BadRequestError(ValueError):
    """A request that vLLM answers with 400; ``param`` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        """Keep the field's name."""
        super().__init__(message)
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return vLLM's error body."""
        return {"error": {"message": str(self), "type": "BadRequestError", "param": self.param, "code": 400}}


@dataclass(frozen=True)
class Completion:
    """A parsed request for completions: one core request for each choice."""

    identifier: str
    requests: list[Request]
    logprobs: int | None
    stream: bool
    include_usage: bool
    token_ids: bool
    tokens_as_ids: bool
    chat: bool = False


def _prompts(body: dict[str, Any], vocabulary_size: int) -> list[list[int]]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [[byte % vocabulary_size for byte in prompt.encode()]]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, int) and not isinstance(item, bool) for item in prompt):
            return [list(prompt)]
        if all(isinstance(item, str) for item in prompt):
            return [[byte % vocabulary_size for byte in item.encode()] for item in prompt]
        if all(isinstance(item, list) and all(type(token) is int for token in item) for item in prompt):
            return [list(item) for item in prompt]
    raise BadRequestError("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")


def _number(body: dict[str, Any], name: str, default: float, *, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    whole = isinstance(default, int)
    kinds = int if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
        words = "a whole number " if whole else ""
        raise BadRequestError(f"{name} must be {words}between {low} and {high}, got {value!r}.", name)
    return value


def parse(
    body: Any,
    *,
    vocabulary_size: int,
    eos: frozenset[int],
    chat: bool,
    request_id: str | None = None,
    adapter: str = "",
    server: int = 0,
) -> Completion:
    """Read a body of ``/v1/completions`` or ``/v1/chat/completions``.

    Args:
        body: the parsed JSON.
        vocabulary_size: of the model; text is read as bytes modulo it.
        eos: what ends an answer.
        chat: which of the two it is.
        request_id: its X-Request-Id.
        adapter: the LoRA adapter that its ``model`` names.
        server: which API server took it.

    Raises:
        BadRequestError: in vLLM's words.
    """
    if not isinstance(body, dict):
        raise BadRequestError("The body must be a JSON object.")
    kinds_of = {"seed": int, "logprobs": (int, bool) if chat else int, "prompt_logprobs": int, "stream_options": dict}
    for name, kinds in kinds_of.items():
        value = body.get(name)
        wrong_bool = isinstance(value, bool) and kinds is int
        if value is not None and (wrong_bool or not isinstance(value, kinds)):
            raise BadRequestError(f"Input should be a valid {name}, got {value!r}", name)
    if chat:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
            raise BadRequestError("messages must be a non-empty list of objects.", "messages")
        text = "".join(f"<{item.get('role', 'user')}>{item.get('content', '')}" for item in messages)
        prompts = [[byte % vocabulary_size for byte in text.encode()]]
        logprobs = int(body.get("top_logprobs") or 1) if body.get("logprobs") else None
    else:
        prompts = _prompts(body, vocabulary_size)
        logprobs = body.get("logprobs")
    if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
        raise BadRequestError(
            f"Requested sample logprobs of {logprobs}, which is greater than max allowed: {MAX_LOGPROBS}", "logprobs"
        )
    salt = body.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt or "/" in salt):
        raise BadRequestError("Parameter 'cache_salt' must be a non-empty string without '/'.", "cache_salt")
    if body.get("stream") and body.get("prompt_logprobs") is not None:
        raise BadRequestError("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    most = int(_number(body, "max_tokens", 16, low=1, high=1_000_000))
    most = int(_number(body, "max_completion_tokens", most, low=1, high=1_000_000))
    temperature = _number(body, "temperature", 1.0, low=0, high=2)
    seed = body.get("seed")
    identifier = f"{'chatcmpl' if chat else 'cmpl'}-{request_id or uuid.uuid4().hex}"
    count = int(_number(body, "n", 1, low=1, high=128))
    requests = [
        Request(
            # As in vLLM 0.32: an id that a client chose twice is still two requests.
            identifier=f"{identifier}-{index * count + copy}-{secrets.token_hex(4)}",
            prompt=prompt,
            max_tokens=most,
            min_tokens=int(_number(body, "min_tokens", 0, low=0, high=most)),
            temperature=temperature,
            top_k=int(_number(body, "top_k", 0, low=-1, high=1_000_000)),
            top_p=_number(body, "top_p", 1.0, low=1e-9, high=1.0),
            # As measured in vLLM: n=3, seed=7 equals the seeds 7, 8 and 9; without a seed every answer is another.
            seed=secrets.randbits(48) if seed is None else int(seed) + copy,
            logprobs=logprobs,
            stop_ids=frozenset() if body.get("ignore_eos") else eos,
            min_p=_number(body, "min_p", 0.0, low=0, high=1),
            presence_penalty=_number(body, "presence_penalty", 0.0, low=-2, high=2),
            frequency_penalty=_number(body, "frequency_penalty", 0.0, low=-2, high=2),
            repetition_penalty=_number(body, "repetition_penalty", 1.0, low=1e-9, high=10),
            cache_salt=salt or "",
            prompt_logprobs=body.get("prompt_logprobs") is not None,
            adapter=adapter,
            chosen_logprobs=bool(body.get("logprob_token_ids")),
            server=server,
        )
        for index, prompt in enumerate(prompts)
        for copy in range(count)
    ]
    options = body.get("stream_options") or {}
    return Completion(
        identifier=identifier,
        requests=requests,
        logprobs=logprobs,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        token_ids=bool(body.get("return_token_ids")),
        tokens_as_ids=bool(body.get("return_tokens_as_token_ids")),
        chat=chat,
    )
