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
    references: tuple[Reference, ...]
    """Who is asked; of S05 the last one joins the others."""
    run: Callable[[Prober, int], Awaitable[Round]]
    """With a prober, and the tokens of the plug that a cohort forms behind."""


def disturbances(
    items: Sequence[Reference],
    expected: Mapping[str, Observation],
    widths: Sequence[int],
    turn: int,
    *,
    traced: bool,
    about: Reference | None = None,
) -> list[Disturbance]:
    """Return the cells that can be proven: S03 at each width, and with a step trace S04 and S05, too.

    Args:
        items: references that this engine can be asked.
        expected: their answers.
        widths: of S03.
        turn: another one gives other companions.
        traced: whether there is a step trace.
        about: a reference that is to be in each cell, as far as its length allows.
    """
    short = shorter(items)
    about = about if about in short else None
    found = [together(companions(short, about, width, turn), expected) for width in widths]
    if not traced:
        return found
    by_length = {len(item.prompt_ids): item for item in reversed(items)}
    if about is not None:
        by_length[len(about.prompt_ids)] = about
    found += [
        launch([by_length[length] for length in lengths], expected)
        for lengths in LAUNCHES
        if all(length in by_length for length in lengths)
    ]
    for length in JOINING:
        others = [item for item in short if len(item.prompt_ids) != length]
        if length in by_length and others:
            decoding = companions(others, about if about in others else None, DECODING, turn)
            found.append(join(decoding, by_length[length], expected))
    return found


def shorter(items: Sequence[Reference]) -> list[Reference]:
    """Return the references that run together; all where none is short enough."""
    return [item for item in items if len(item.prompt_ids) <= TOGETHER_TOKENS] or list(items)


def companions(items: Sequence[Reference], about: Reference | None, count: int, turn: int) -> list[Reference]:
    """Return so many references from a turn on, and first of all the one that is to be among them."""
    if about is None:
        return [items[(turn + index) % len(items)] for index in range(count)]
    others = [item for item in items if item != about] or [about]
    return [about, *(others[(turn + index) % len(others)] for index in range(count - 1))]


def in_turn(listed: Callable[[int], Sequence[Disturbance]], turn: int) -> Disturbance | None:
    """Return the cell whose turn it is, in company whose turn it is: each cell comes to each company in time.

    Args:
        listed: the cells in the company of a turn, always as many.
        turn: counts up.
    """
    count = len(listed(0))
    return listed(turn // count)[turn % count] if count else None


def together(cohort: Sequence[Reference], expected: Mapping[str, Observation]) -> Disturbance:
    """Return S03 of a cohort."""

    async def run(prober: Prober, plug_tokens: int) -> Round:
        return (await prober.width(cohort, expected, plug_tokens=plug_tokens))[0]

    return Disturbance("S03", f"width={len(cohort)}", tuple(cohort), run)


def launch(cohort: Sequence[Reference], expected: Mapping[str, Observation]) -> Disturbance:
    """Return S04 of a cohort."""

    async def run(prober: Prober, plug_tokens: int) -> Round:
        return await prober.launch(cohort, expected, plug_tokens=plug_tokens)

    return Disturbance("S04", f"tokens={sum(len(item.prompt_ids) for item in cohort)}", tuple(cohort), run)


def join(decoding: Sequence[Reference], joins: Reference, expected: Mapping[str, Observation]) -> Disturbance:
    """Return S05 of one that joins others."""

    async def run(prober: Prober, _plug_tokens: int) -> Round:
        return await prober.join(decoding, joins, expected)

    return Disturbance("S05", f"prefill={len(joins.prompt_ids)}", (*decoding, joins), run)
