"""The references that are proposed: from a fixed seed, so that the same limits always give the same proposal.

Random ids: they keep every position's entropy high, and entropy is what makes a logprob a good checksum (probing.md
6.5). Mostly seeded sampling at temperature 1, because greedy answers soon loop and lose theirs.
"""

from __future__ import annotations

import random

from detinf.documents import Reference, References

SEED = 20_260_101
TOKENS = 32
"""Tokens of each answer: W2 proves a width of 16 only where 32 of them came in at most 33 steps."""
LENGTHS = (5, 9, 17, 33, 64, 65, 127, 128, 129, 31, 7, 96, 48, 15, 80, 112)
GREEDY_EVERY = 4


def propose(vocabulary_size: int, special_ids: list[int], max_model_len: int, count: int) -> References:
    """Return references for a vocabulary.

    Args:
        vocabulary_size: number of token ids.
        special_ids: ids that no prompt may hold.
        max_model_len: prompt and answer together, in tokens.
        count: how many at least, which is the widest cohort.

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
    for index in range(max(count, len(LENGTHS))):
        length = min(LENGTHS[index % len(LENGTHS)], longest)
        prompt: list[int] = []
        while len(prompt) < length:
            token = generator.randrange(vocabulary_size)
            if token not in special:
                prompt.append(token)
        items.append(
            Reference(
                name=f"random-{index:02d}",
                prompt_ids=prompt,
                max_tokens=TOKENS,
                temperature_milli=0 if index % GREEDY_EVERY == GREEDY_EVERY - 1 else 1000,
                seed=index + 1,
            )
        )
    return References(
        vocabulary_size=vocabulary_size,
        special_ids=sorted(special),
        max_model_len=max_model_len,
        seed=SEED,
        items=items,
    )
