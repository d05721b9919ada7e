"""How requests are made to run together: behind a plug, on one connection or several, joining and leaving.

Without a plug N connections, or a list of N prompts, split into 1 + (N - 1): the first is scheduled before the second
was parsed (measured on vLLM 0.32 by ``benchmarks/witnesses.py``). A plug is a long cold prompt with one output
token: while it is read, the others arrive, and the step after it begins with all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from detinf.documents import Reference
from detinf.guard.trace import own_id
from detinf.probe.engine import Outcome
from detinf.probe.reasons import InconclusiveError, Reason

PER_PLUG = 16
"""Requests that arrive while one plug is read, on a busy machine, too; more are sent behind more plugs."""
SETTLE_SECONDS = 0.002
"""Loopback and the API server's parsing; too early only costs the witness."""


class Asker(Protocol):
    """What a cohort needs of an engine's client."""

    async def ask(self, reference: Reference, request_id: str | None = None) -> Outcome:
        """Return the answer to one reference."""

    async def ask_list(self, references: Sequence[Reference], request_id: str | None = None) -> list[Outcome]:
        """Return the answers to one request with a list of prompts."""

    async def plug(self, length: int, reference: Reference) -> None:
        """Hold the scheduler for a step."""


@dataclass(frozen=True)
class Shape:
    """How a cohort is sent."""

    plug_tokens: int = 0
    """Length of a plug; 0 for none."""
    one_request: bool = False
    """A list of prompts in one request; else each has its own."""
    joins: Mapping[int, float] = field(default_factory=dict)
    """Member to the seconds after the others' start at which it is sent."""
    leaves: Mapping[int, float] = field(default_factory=dict)
    """Member to the seconds after which we hang up on it."""

    def check(self) -> None:
        """Refuse what one request cannot do.

        Raises:
            ValueError: for members of a list that would join or leave by themselves.
        """
        if self.one_request and (self.joins or self.leaves):
            raise ValueError("one_request: the prompts of a list come and go together; use joins and leaves without it")


def plugs_for(width: int) -> int:
    """Return how many plugs a cohort needs, each of which holds the scheduler for a step."""
    return -(-width // PER_PLUG)


@dataclass(frozen=True)
class Formed:
    """What came of a cohort."""

    answers: list[Outcome]
    intervals: list[tuple[float, float]]
    """When each was sent and when its answer had come, in seconds of one clock."""


async def form(client: Asker, references: Sequence[Reference], cohort: bytes, shape: Shape) -> Formed:
    """Ask references together; ``cohort`` are 8 bytes that the step trace knows them by, members by their numbers.

    Raises:
        ValueError: for a shape that one request cannot have.
    """
    shape.check()

    async def ask(number: int) -> tuple[Outcome, tuple[float, float]]:
        await asyncio.sleep(shape.joins.get(number, 0.0))
        began = time.monotonic()
        try:
            async with asyncio.timeout(shape.leaves.get(number)):
                answer = await client.ask(references[number], own_id(cohort, number))
        except TimeoutError:
            answer = InconclusiveError(Reason.CANCELLED, f"we hung up after {shape.leaves[number]} s, as intended")
        return answer, (began, time.monotonic())

    async with asyncio.TaskGroup() as group:
        if shape.plug_tokens:
            for _ in range(plugs_for(len(references))):
                await _is_running(group.create_task(client.plug(shape.plug_tokens, references[0])))
        if shape.one_request:
            began = time.monotonic()
            answers = await client.ask_list(references, own_id(cohort, 0))
            return Formed(answers, [(began, time.monotonic())] * len(answers))
        tasks = [group.create_task(ask(number)) for number in range(len(references))]
    return Formed([task.result()[0] for task in tasks], [task.result()[1] for task in tasks])


async def _is_running(plug: asyncio.Task[None]) -> None:
    """Let the plug's request leave before the cohort's: its bytes are written when the task next waits."""
    for _ in range(3):
        if plug.done():
            return
        await asyncio.sleep(0)
    await asyncio.sleep(SETTLE_SECONDS)
