"""The references that are proposed, once for a resource; the controller freezes the first proposal that it reads.

Random ids keep every position's entropy high, and entropy is what makes a logprob a good checksum (probing.md 6.5);
mostly seeded sampling at temperature 1, because greedy answers soon loop and lose theirs. Their lengths stand around
the KV block and the numbers of tokens at which kernels change. The rest comes out of the engine itself, since the probe
has no tokenizer: text it wrote, and the places in it where it was least sure, or torn between two tokens.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from detinf.documents import Reference, References
from detinf.probe.engine import Outcome
from detinf.probe.observation import Top, value_of_bits
from detinf.probe.reasons import InconclusiveError

SEED = 20_260_101
TOKENS = 32
"""Tokens of each answer: W2 proves a width of 16 only where 32 of them came in at most 33 steps."""
LENGTHS = (
    *(5, 9, 17, 33, 64, 65, 127, 128, 129, 31, 7, 96, 48, 15, 80, 112),
    *(255, 256, 257, 511, 512, 513, 1025, 2049),
)
"""Of the random prompts. The first 16 fit every model that is served, and may run together."""
GREEDY_EVERY = 4

SCANS = 4
"""Texts that are sampled from the engine."""
SCAN_TOKENS = 64
SCAN_START = 8
"""Random ids that a text begins with."""
TOP = 5
"""Most probable tokens asked for where sampling hangs on them."""
ENTROPIES, MARGINS, TIES = 2, 3, 2
"""How many of each kind are taken from the texts, at most."""


def propose(vocabulary_size: int, special_ids: Sequence[int], max_model_len: int, count: int) -> References:
    """Return references of random ids: the same limits always give the same.

    Args:
        vocabulary_size: number of token ids.
        special_ids: ids that no prompt may hold.
        max_model_len: prompt and answer together, in tokens.
        count: how many at least.

    Raises:
        ValueError: where the model is too small to be asked anything.
    """
    special = frozenset(special_ids)
    usable = vocabulary_size - len(special)
    longest = max_model_len - TOKENS - 1
    if usable < 2 or longest < 1:
        raise ValueError(
            f"references: {usable} usable token ids and {max_model_len} tokens of context leave nothing to ask; "
            "raise spec.model.maxModelLen"
        )
    generator = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    items = []
    for index in range(max(count, 16)):
        length = min(LENGTHS[index % len(LENGTHS)], longest)
        items.append(
            Reference(
                name=f"random-{index:02d}",
                prompt_ids=list(_ids(generator, length, vocabulary_size, special)),
                max_tokens=TOKENS,
                temperature_milli=0 if index % GREEDY_EVERY == GREEDY_EVERY - 1 else 1000,
                seed=index + 1,
                kind="random",
            )
        )
    return References(
        vocabulary_size=vocabulary_size,
        special_ids=sorted(special),
        max_model_len=max_model_len,
        seed=SEED,
        items=items,
    )


async def propose_from(
    ask: Callable[[Reference], Awaitable[Outcome]],
    vocabulary_size: int,
    special_ids: Sequence[int],
    max_model_len: int,
) -> References | InconclusiveError:
    """Return random references and some that the engine's own texts give, or why an answer did not come.

    Another engine would propose others; so only the frozen ones count, and every lifetime answers those.

    Args:
        ask: one request to the engine.
        vocabulary_size: number of token ids.
        special_ids: ids that no prompt may hold.
        max_model_len: prompt and answer together, in tokens.

    Raises:
        ValueError: where the model is too small to be asked anything.
    """
    plain = propose(vocabulary_size, special_ids, max_model_len, len(LENGTHS))
    special = frozenset(special_ids)
    room = min(SCAN_TOKENS, max_model_len - SCAN_START - TOKENS - 1)
    if room < 1:
        return plain
    generator = random.Random(SEED + 1)  # noqa: S311 - reproducible, not secret
    texts: list[Reference] = []
    places: list[Place] = []
    for index in range(SCANS):
        scan = Reference(
            name=f"scan-{index:02d}",
            prompt_ids=list(_ids(generator, SCAN_START, vocabulary_size, special)),
            max_tokens=room,
            temperature_milli=1000,
            seed=SEED + index,
            logprobs=TOP,
        )
        answer = await ask(scan)
        if isinstance(answer, InconclusiveError):
            return answer
        text = [token for token in answer.token_ids if token not in special]
        if text:
            greedy = index % GREEDY_EVERY == GREEDY_EVERY - 1
            texts.append(_sampled("text", index, text, greedy=greedy, seed=index + 101))
        places += _places(scan.prompt_ids, answer.token_ids, answer.top, special)
    return plain.model_copy(update={"items": [*plain.items, *texts, *_chosen(places)]})


def comparable(references: References, *, vocabulary_size: int, max_model_len: int) -> list[Reference]:
    """Return the frozen references that an engine can be asked.

    Limits may change after references were frozen; what no longer fits is left out, and never replaced.
    """
    return [
        item
        for item in references.items
        if len(item.prompt_ids) + item.max_tokens <= max_model_len and max(item.prompt_ids) < vocabulary_size
    ]


@dataclass(frozen=True)
class Place:
    """One position of a text, and what the engine thought of it."""

    context: list[int]
    most: float
    """Logprob of the most probable token: the lower, the less sure."""
    margin: float
    """Nats between the two most probable tokens; 0 where they tie."""


def _places(prompt: list[int], ids: Sequence[int], tops: Sequence[Top], special: frozenset[int]) -> Iterator[Place]:
    context = list(prompt)
    for token, top in zip(ids, tops, strict=True):
        if len(top) > 1:
            first, second = (value_of_bits(bits) for _, bits in top[:2])
            yield Place(list(context), first, first - second)
        if token in special:
            return
        context.append(token)


def _chosen(places: list[Place]) -> list[Reference]:
    """Return references that begin where the engine was torn between two tokens, or knew least."""
    ties = [place for place in places if place.margin == 0][:TIES]
    close = sorted((place for place in places if place.margin > 0), key=lambda place: place.margin)[:MARGINS]
    unsure = sorted(places, key=lambda place: place.most)[:ENTROPIES]
    return [
        # Greedy where a token hangs on the difference of two, and sampled where all of them count.
        *(_sampled("tie", index, place.context, greedy=True, top=TOP) for index, place in enumerate(ties)),
        *(_sampled("margin", index, place.context, greedy=True, top=TOP) for index, place in enumerate(close)),
        *(_sampled("entropy", index, place.context, seed=index + 201) for index, place in enumerate(unsure)),
    ]


def _sampled(
    kind: str, index: int, prompt: list[int], *, greedy: bool = False, seed: int = 0, top: int | None = None
) -> Reference:
    return Reference(
        name=f"{kind}-{index:02d}",
        prompt_ids=prompt,
        max_tokens=TOKENS,
        temperature_milli=0 if greedy else 1000,
        seed=seed,
        kind=kind,
        logprobs=top,
    )


def _ids(generator: random.Random, length: int, vocabulary_size: int, special: frozenset[int]) -> Iterator[int]:
    while length:
        token = generator.randrange(vocabulary_size)
        if token not in special:
            length -= 1
            yield token
