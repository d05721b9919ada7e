"""Writing vLLM's answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from detinf_sim.requests import Completion
from detinf_sim.sequences import Emission


def text_of(token: int) -> str:
    """Return the text of a token."""
    return f" t{token}"


def choice(completion: Completion, index: int, emissions: list[Emission]) -> dict[str, Any]:
    """Return one choice of an answer, or of a stream's chunk.

    Args:
        completion: what was asked.
        index: which choice.
        emissions: its tokens, in order.
    """

    def name(token: int) -> str:
        return f"token_id:{token}" if completion.tokens_as_ids else text_of(token)

    def value(logprob: float) -> float | None:
        # Measured on vLLM 0.32: `null` in a stream; a whole answer with NaN never gets here.
        return None if math.isnan(logprob) else logprob

    tokens = [emission.token for emission in emissions]
    text = "".join(text_of(token) for token in tokens)
    finish = emissions[-1].finish_reason if emissions else None
    result: dict[str, Any] = {"index": index, "finish_reason": finish, "stop_reason": None}
    logprobs: dict[str, Any] | None = None
    if completion.chat:
        if completion.logprobs is not None:
            logprobs = {
                "content": [
                    {
                        "token": name(emission.token),
                        "logprob": value(emission.logprob),
                        "bytes": list(text_of(emission.token).encode()),
                        "top_logprobs": [
                            {"token": name(token), "logprob": value(logprob), "bytes": list(text_of(token).encode())}
                            for token, logprob in emission.top
                        ],
                    }
                    for emission in emissions
                ]
            }
        part = {"role": "assistant", "content": text}
        result["delta" if completion.stream else "message"] = part
    else:
        result["text"] = text
        if completion.logprobs is not None:
            offsets = [0]
            for token in tokens:
                offsets.append(offsets[-1] + len(text_of(token)))
            logprobs = {
                "text_offset": offsets[:-1],
                "token_logprobs": [value(emission.logprob) for emission in emissions],
                "tokens": [name(token) for token in tokens],
                "top_logprobs": [
                    {name(token): logprob for token, logprob in emission.top} | {name(emission.token): emission.logprob}
                    for emission in emissions
                ],
            }
    result["logprobs"] = logprobs
    if not completion.stream and completion.requests[index].prompt_logprobs:
        result["prompt_logprobs"] = _prompt_logprobs(completion.requests[index].prompt, emissions)
    if completion.token_ids:
        result["token_ids"] = tokens
        if not completion.stream:
            result["prompt_token_ids"] = completion.requests[index].prompt
    return result


def _prompt_logprobs(prompt: list[int], emissions: list[Emission]) -> list[dict[str, Any] | None]:
    values = emissions[0].prompt_logprobs or ()
    return [
        None if value is None else {str(token): {"logprob": value, "rank": 1, "decoded_token": text_of(token)}}
        for token, value in zip(prompt, values, strict=True)
    ]


def usage(completion: Completion, emissions: Iterable[Emission], *, details: bool) -> dict[str, Any]:
    """Return the token counts of a request.

    Args:
        completion: what was asked.
        emissions: all of it.
        details: ``--enable-prompt-tokens-details``; as in vLLM 0.23, nothing is said of 0 cached tokens (0.32 says 0).
    """
    prompt = sum(len(each.prompt) for each in completion.requests)
    generated, cached = 0, {}
    for emission in emissions:
        generated += 1
        cached[emission.request] = emission.cached_tokens
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
    }
    if details and any(cached.values()):
        counts["prompt_tokens_details"] = {"cached_tokens": sum(cached.values())}
    return counts
