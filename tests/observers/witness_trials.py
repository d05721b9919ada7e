"""Witnesses W1 to W6 held against the step trace: what each claimed of a cohort, and what really took place.

Everything that runs carries an id that the trace knows: the cohort's own, and another for the tenants that are served
beside it. So the trace tells of each step what was ours and what was theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from detinf.documents import Reference
from detinf.guard.trace import own_id
from detinf.probe import arithmetic
from detinf.probe.arithmetic import Sent
from detinf.probe.client import EngineClient
from detinf.probe.cohort import Formed, Shape, form
from detinf.probe.metrics import Snapshot
from detinf.probe.observation import Observation
from detinf.probe.trace import Step, Trace, Window

TENANTS = b"tenants!"
EDGE = 256
"""The histogram edge that the prompts of a cohort exceed together."""


@dataclass(frozen=True)
class Truth:
    """What the trace says of a cohort."""

    decoded: int
    """Most of ours that one step decoded."""
    first: int
    """Most of ours that one step gave their first token."""
    read: bool
    """Whether one step read all of our prompts, whole."""
    resident: int
    """Most requests that were in the engine at one moment, whoever sent them."""
    own_resident: int
    foreign: bool
    """Whether a step held somebody else's request."""
    preemptions: int
    cached: int
    """Tokens of our prompts that were not read."""


@dataclass(frozen=True)
class Claims:
    """What the witnesses say of the same cohort."""

    resident: int
    decoded: int
    first: bool
    possible: int
    alone: bool
    preempted: int | None
    cached: int | None


@dataclass(frozen=True)
class Trial:
    """One cohort."""

    wanted: int
    truth: Truth
    claims: Claims

    def wrong(self) -> list[str]:
        """Return the claims that are larger than what took place."""
        truth, claims = self.truth, self.claims
        found = {
            "W1": claims.resident > truth.resident,
            "W2": claims.decoded > truth.decoded,
            "W3": claims.first and truth.first < self.wanted,
            "W4": claims.possible < truth.own_resident,
            "W6 alone": claims.alone and truth.foreign,
            "W6 preempted": (claims.preempted or 0) > truth.preemptions,
            "W6 cached": claims.cached is not None and claims.cached != truth.cached,
        }
        return [f"{name}: {claims} of {truth}" for name, is_wrong in found.items() if is_wrong]


def references(width: int, vocabulary: int, generator: random.Random, tokens: int = 32) -> list[Reference]:
    """Return cold references whose prompts exceed ``EDGE`` together, and no part of them does."""
    length = -(-(EDGE + 1 - width) // width)
    return [
        Reference(
            name=f"trial-{number:02d}",
            prompt_ids=[generator.randrange(16, vocabulary) for _ in range(length)],
            max_tokens=tokens,
            temperature_milli=0,
            seed=0,
        )
        for number in range(width)
    ]


def truth_of(window: Window, before: Window, cohort: bytes, asked: Sequence[Reference]) -> Truth:
    """Return what took place.

    Args:
        window: the steps between the looks.
        before: the steps from when the tenants began.
        cohort: whose steps are ours.
        asked: by number.
    """
    lengths = [len(item.prompt_ids) for item in asked]
    decoded = first = preemptions = 0
    read = foreign = False
    cached = {}
    for step in window.steps:
        own = [item for item in step.own if item.cohort == cohort]
        decoded = max(decoded, sum(not item.prefill for item in own))
        first = max(first, sum(item.prefill and item.computed + item.tokens == lengths[item.number] for item in own))
        read |= {(item.number, item.computed, item.tokens) for item in own} == {
            (number, 0, length) for number, length in enumerate(lengths)
        } and all(item.prefill for item in own)
        foreign |= any(item.cohort != cohort for item in step.own)
        for item in own:
            cached.setdefault(item.number, item.computed)
    preemptions = sum(step.preemptions for step in before.steps)
    ours = [step for step in before.steps if any(item.cohort == cohort for item in step.own)]
    return Truth(
        decoded,
        first,
        read,
        _most_at_once(before.steps, None),
        _most_at_once(ours, cohort),
        foreign,
        preemptions,
        sum(cached.values()),
    )


def _most_at_once(steps: Sequence[Step], cohort: bytes | None) -> int:
    """Return how many requests were resident at one moment: from the first step that held each to the last."""
    spans: dict[tuple[bytes, int], tuple[int, int]] = {}
    others: Counter[int] = Counter()
    for place, step in enumerate(steps):
        others[place] = step.width - len(step.own) if cohort is None else 0
        for item in step.own:
            if cohort in {None, item.cohort}:
                start, _ = spans.get((item.cohort, item.number), (place, place))
                spans[item.cohort, item.number] = (start, place)
    return max(
        (others[place] + sum(start <= place <= end for start, end in spans.values()) for place in range(len(steps))),
        default=0,
    )


@dataclass
class Trials:
    """Forms cohorts on one engine and holds the witnesses against the trace."""

    client: EngineClient
    trace: Trace
    vocabulary: int
    tenants: int = 0
    generator: random.Random = random.Random(7)  # noqa: RUF009 - the same prompts in every run

    async def first_step(self) -> None:
        """Make the engine schedule something, so that it has a trace."""
        (item,) = references(1, self.vocabulary, self.generator, tokens=1)
        assert isinstance(await self.client.ask(item), Observation)

    async def one(self, width: int, shape: Shape) -> Trial:
        """Form one cohort."""
        asked = references(width, self.vocabulary, self.generator)
        cohort = secrets.token_bytes(8)
        begin = self._position()
        async with self._served():
            first, position = await self._look(), self._position()
            forming = asyncio.create_task(form(self.client, asked, cohort, shape))
            await asyncio.sleep(0.02)
            middle = await self._look()
            formed = await forming
            window = self._since(position)
            last = await self._look()
        whole = self._since(begin)
        sent = _sent(formed, asked, shape)
        claims = Claims(
            arithmetic.resident(first, middle, last),
            arithmetic.decoded_together(first, last, sent),
            arithmetic.read_together(first, last, sent),
            arithmetic.possible_width(formed.intervals),
            arithmetic.ours_alone(first, last, sent),
            arithmetic.preempted(first, last),
            arithmetic.cached_of_ours(first, last, sent),
        )
        return Trial(width, truth_of(window, whole, cohort, asked), claims)

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        """Serve tenants meanwhile: each asks again as soon as it has its answer."""

        async def tenant(number: int) -> None:
            generator = random.Random(number)
            for turn in range(1000):
                prompt = [generator.randrange(16, self.vocabulary) for _ in range(generator.randrange(5, 120))]
                tokens = generator.randrange(4, 48)
                item = Reference(name="tenant", prompt_ids=prompt, max_tokens=tokens, temperature_milli=0, seed=0)
                await self.client.ask(item, own_id(TENANTS, number * 100 + turn % 100))

        position = self._position()
        tasks = [asyncio.create_task(tenant(number)) for number in range(self.tenants)]
        while tasks and not any(step.decodes >= self.tenants // 2 for step in self._since(position).steps):
            await asyncio.sleep(0.005)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            while tasks and (await self._look()).running:
                await asyncio.sleep(0.01)

    async def _look(self) -> Snapshot:
        snapshot = await self.client.metrics()
        assert snapshot is not None, "the engine has no metrics"
        return snapshot

    def _position(self) -> int:
        # The simulator has a ring from the start, the real engine from its first step on (``first_step``).
        position = self.trace.position()
        assert position is not None, "there is no step trace"
        return position

    def _since(self, position: int) -> Window:
        window = self.trace.since(position)
        assert window is not None
        assert window.complete, "the step trace has a gap"
        return window


def _sent(formed: Formed, asked: Sequence[Reference], shape: Shape) -> Sent:
    for answer in formed.answers:
        assert isinstance(answer, Observation), answer
    return Sent(
        tuple(len(item.prompt_ids) for item in asked),
        tuple(item.max_tokens for item in asked),
        (shape.plug_tokens,) if shape.plug_tokens else (),
    )
