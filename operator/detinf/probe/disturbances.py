"""The cells beside the solo ones: who is asked together, in which way. The gate wants each, the watch takes turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from detinf.documents import Reference
from detinf.probe.observation import Observation
from detinf.probe.relations import Prober
from detinf.probe.verdict import Round

TOGETHER_TOKENS = 129
"""Longest prompt of those that run together: sixteen of them still fit one step."""
LAUNCHES = ((127, 128), (127, 129), (128, 129))
"""Prompts whose sum is one below, at and above 256 tokens, where a kernel is known to change (vLLM's RMSNorm)."""
DECODING = 3
JOINING = (9, 129)
"""Prompts that join others while they decode: shorter and longer than a KV block."""


@dataclass(frozen=True)
class Disturbance:
    """One way to ask references together."""

    relation: str
    condition: str
    run: Callable[[Prober, int], Awaitable[Round]]
    """With a prober, and the tokens of the plug that a cohort forms behind."""


def disturbances(
    items: Sequence[Reference], expected: Mapping[str, Observation], widths: Sequence[int], turn: int, *, traced: bool
) -> list[Disturbance]:
    """Return the cells that can be proven: S03 at each width, and with a step trace S04 and S05, too.

    Args:
        items: references that this engine can be asked.
        expected: their answers.
        widths: of S03.
        turn: another one gives other companions.
        traced: whether there is a step trace.
    """
    short = [item for item in items if len(item.prompt_ids) <= TOGETHER_TOKENS] or list(items)
    found = [_width([short[(turn + index) % len(short)] for index in range(width)], expected) for width in widths]
    if not traced:
        return found
    by_length = {len(item.prompt_ids): item for item in reversed(items)}
    found += [
        _launch([by_length[length] for length in lengths], expected)
        for lengths in LAUNCHES
        if all(length in by_length for length in lengths)
    ]
    for length in JOINING:
        others = [item for item in short if len(item.prompt_ids) != length]
        if length in by_length and others:
            decoding = [others[(turn + index) % len(others)] for index in range(DECODING)]
            found.append(_join(decoding, by_length[length], expected))
    return found


def _width(cohort: list[Reference], expected: Mapping[str, Observation]) -> Disturbance:
    async def run(prober: Prober, plug_tokens: int) -> Round:
        return (await prober.width(cohort, expected, plug_tokens=plug_tokens))[0]

    return Disturbance("S03", f"width={len(cohort)}", run)


def _launch(cohort: list[Reference], expected: Mapping[str, Observation]) -> Disturbance:
    async def run(prober: Prober, plug_tokens: int) -> Round:
        return await prober.launch(cohort, expected, plug_tokens=plug_tokens)

    return Disturbance("S04", f"tokens={sum(len(item.prompt_ids) for item in cohort)}", run)


def _join(decoding: list[Reference], joins: Reference, expected: Mapping[str, Observation]) -> Disturbance:
    async def run(prober: Prober, _plug_tokens: int) -> Round:
        return await prober.join(decoding, joins, expected)

    return Disturbance("S05", f"prefill={len(joins.prompt_ids)}", run)
