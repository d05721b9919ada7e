"""``POST /generative_scoring`` as vLLM has it: how probable given tokens are after a query and an item.

It is a completion of one token with the logprobs of chosen tokens (``logprob_token_ids``) for each item, which is what
its neighbours feel on vLLM 0.23 to 0.33 (fault F33).
"""

from __future__ import annotations

import math
from typing import Any

from detinf_sim.requests import BadRequestError


def as_completion(body: Any) -> dict[str, Any]:
    """Return the body of the completion that scores.

    Raises:
        BadRequestError: where there is no query, no item or no token to score.
    """
    if not isinstance(body, dict):
        raise BadRequestError("The body must be a JSON object.")
    query, items, labels = (body.get(name) for name in ("query", "items", "label_token_ids"))
    if not isinstance(items, list) or not items or any(type(item) is not type(query) for item in items):
        raise BadRequestError("items must be a non-empty list of what query is.", "items")
    if not isinstance(labels, list) or not labels:
        raise BadRequestError("label_token_ids must be a non-empty list.", "label_token_ids")
    first = bool(body.get("item_first"))
    prompts = [item + query if first else query + item for item in items]
    wanted = {"prompt": prompts, "max_tokens": 1, "temperature": 0, "logprobs": 1, "logprob_token_ids": labels}
    return wanted | {name: body[name] for name in ("model", "cache_salt") if name in body}


def as_scores(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the scores in a completion's answer: what the emitted token's probability is; no model has labels here."""
    data = [
        {"index": choice["index"], "object": "score", "score": math.exp(choice["logprobs"]["token_logprobs"][0])}
        for choice in answer["choices"]
    ]
    return {"id": answer["id"], "object": "list", "model": answer["model"], "data": data, "usage": answer["usage"]}
