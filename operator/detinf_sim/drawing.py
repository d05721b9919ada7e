"""One token of one sequence: a function of the request and the weights, and of what a fault does to it."""

from __future__ import annotations

import hashlib
import itertools
import math
from bisect import bisect_left, bisect_right
from functools import lru_cache

from detinf_sim.effects import NOTHING, Effect
from detinf_sim.model import FLOOR, STATES, HashModel, add_ulps, distribution_of, uniform
from detinf_sim.sequences import Emission, Request, Sequence

Items = tuple[tuple[int, float], ...]


def draw(model: HashModel, sequence: Sequence, effect: Effect = NOTHING) -> Emission:
    """Return the sequence's next emission. Pure: the sequence stays where it is."""
    request = sequence.request
    state = sequence.state
    if effect.corrupt:
        state = hashlib.blake2b(state + effect.corrupt.encode(), digest_size=16).digest()
    items = distribution_of(state, model.vocabulary_size).items
    if effect.ties:
        items = _ties_reversed(items)
    # Sampling weighs with penalties; what is reported are raw logprobs, as with vLLM's --logprobs-mode raw_logprobs.
    weighed = _penalised(items, request, sequence.output) if sequence.penalised else items
    if request.temperature > 0:
        place = len(sequence.output) - effect.rewind
        number = uniform(f"{request.seed}:{effect.draw}" if effect.draw else request.seed, place)
        if weighed is items and effect is NOTHING:
            how = request.temperature, request.top_k, request.top_p, request.min_p
            token = _at(_nucleus_after(state, model.vocabulary_size, *how), number)
        else:
            token = sample(weighed, request, number)
    else:
        token = weighed[0][0]
    if effect.flip and len(items) > 1 and items[0][1] - items[1][1] < effect.flip:
        token = items[1][0] if token == items[0][0] else items[0][0]
    logprob, top = _listed(items, token, request.logprobs, effect)
    return Emission(
        sequence.identifier,
        token,
        logprob,
        top,
        _finish(request, token, len(sequence.output) + 1),
        _prompt_logprobs(model, request, effect) if request.prompt_logprobs and not sequence.output else None,
        max(sequence.first_hit, 0),
    )


def _listed(items: Items, token: int, logprobs: int | None, effect: Effect) -> tuple[float, Items]:
    """Return (logprob of the token, the most probable ones) as far as they were asked for."""
    if logprobs is None:
        return 0.0, ()
    chosen = next(value for candidate, value in items if candidate == token)
    top = items[:logprobs]
    if effect is NOTHING:
        return chosen, top
    if effect.floors:
        return FLOOR if token == 0 else _value(chosen, effect), ((0, FLOOR),)
    return _value(chosen, effect), tuple((candidate, _value(value, effect)) for candidate, value in top)


def _finish(request: Request, token: int, length: int) -> str | None:
    if token in request.stop_ids and length >= request.min_tokens:
        return "stop"
    return "length" if length >= request.max_tokens else None


def _prompt_logprobs(model: HashModel, request: Request, effect: Effect) -> tuple[float | None, ...]:
    values = model.prompt_logprobs(request.prompt, request.adapter)
    if not effect.stale:
        return values
    return (None, *([values[-1]] * effect.stale), *values[1 + effect.stale :])


def sample(items: Items, request: Request, number: float) -> int:
    """Return the token at ``number`` of a distribution.

    Args:
        items: candidates, most probable first.
        request: its temperature is above 0.
        number: in [0, 1).
    """
    return _at(_nucleus(items, request.temperature, request.top_k, request.top_p, request.min_p), number)


Nucleus = tuple[tuple[int, ...], tuple[float, ...]]


def _nucleus(items: Items, temperature: float, top_k: int, top_p: float, min_p: float) -> Nucleus:
    """Return (tokens that can be sampled, sums of weights up to each), in vLLM's order: min-p, top-k, top-p."""
    if 0 < top_k < len(items):
        items = items[:top_k]
    top = items[0][1]
    weights = [math.exp((logprob - top) / temperature) for _, logprob in items]
    if min_p > 0:
        weights = [weight for weight in weights if weight >= min_p]
    edges = tuple(itertools.accumulate(weights))
    if top_p < 1:
        edges = edges[: bisect_left(edges, top_p * edges[-1]) + 1]
    return tuple(token for token, _ in items[: len(edges)]), edges


@lru_cache(maxsize=STATES // 2)
def _nucleus_after(
    state: bytes, vocabulary_size: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> Nucleus:
    return _nucleus(distribution_of(state, vocabulary_size).items, temperature, top_k, top_p, min_p)


def _at(nucleus: Nucleus, number: float) -> int:
    tokens, edges = nucleus
    return tokens[min(bisect_right(edges, number * edges[-1]), len(tokens) - 1)]


def _penalised(items: Items, request: Request, output: list[int]) -> Items:
    """Return candidates in the order that penalties give them.

    vLLM's formulas on logits, which are logprobs here: presence and frequency look at the output, repetition also at
    the prompt.
    """
    said = set(output)
    seen = said.union(request.prompt) if request.repetition_penalty != 1 else said
    if not any(token in seen for token, _ in items):
        return items
    weighed = []
    for token, logprob in items:
        value = logprob * request.repetition_penalty if token in seen else logprob
        if token in said:
            value -= request.presence_penalty + request.frequency_penalty * output.count(token)
        weighed.append((token, value))
    weighed.sort(key=lambda item: (-item[1], item[0]))
    return tuple(weighed)


def _ties_reversed(items: Items) -> Items:
    groups = [list(group) for _, group in itertools.groupby(items, key=lambda item: item[1])]
    return tuple(item for group in groups for item in reversed(group))


def _value(logprob: float, effect: Effect) -> float:
    if effect.nan:
        return math.nan
    if effect.ulps:
        logprob = add_ulps(logprob, effect.ulps)
    return logprob if effect.digits is None else round(logprob, effect.digits)
