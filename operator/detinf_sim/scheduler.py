"""Continuous batching, one step at a time, with an honest trace. Pure: time is what the caller says it is.

As in vLLM's scheduler: running requests first, then waiting ones in order of arrival, within a budget of tokens and a
number of requests; prefills and decodes share a step. Where no KV block is free the last running request loses its
place, and is computed again later. Without a fault an answer is a function of the request and the weights alone.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, replace

from detinf_sim.blocks import BlockPool, first_key, next_key
from detinf_sim.counters import EDGES, Counters
from detinf_sim.drawing import draw
from detinf_sim.effects import NOTHING, Effect
from detinf_sim.faults import Active
from detinf_sim.limits import Lifetime, Limits, StepCost
from detinf_sim.model import HashModel
from detinf_sim.sequences import Emission, Request, Sequence
from detinf_sim.situation import Situation

__all__ = ["EDGES", "Counters", "Emission", "Lifetime", "Limits", "Request", "SimEngine", "StepCost", "StepRecord"]


@dataclass(frozen=True)
class StepRecord:
    """One step, as it really ran."""

    step: int
    time: float
    tokens: int
    width: int
    prefills: int
    decodes: int
    requests: tuple[str, ...]
    counts: tuple[int, ...] = ()
    """Tokens of each request in the step."""
    computed: tuple[int, ...] = ()
    """Tokens of each request that were computed before it."""
    prefilling: tuple[bool, ...] = ()
    """Whether each request was reading: its prompt, or after a preemption all that it had."""
    waiting: int = 0
    preemptions: int = 0
    """Requests that were put back to the queue for it."""
    cached_tokens: int = 0
    """Tokens of requests that began with it and came from the prefix cache."""
    aborted: int = 0
    """Running requests whose clients left since the step before."""


class SimEngine:
    """The engine's core. ``submit`` requests, call ``step`` until ``has_work`` is False."""

    def __init__(
        self,
        model: HashModel,
        limits: Limits,
        faults: Active | None = None,
        cost: StepCost | None = None,
        lifetime: Lifetime | None = None,
    ) -> None:
        """Start with empty queues.

        Raises:
            ValueError: for limits that vLLM refuses, too.
        """
        limits.check()
        self.model = model
        self.limits = limits
        self.faults = faults or Active()
        self.cost = cost or StepCost()
        self.lifetime = lifetime or Lifetime()
        blocks = limits.kv_blocks or limits.max_num_seqs * -(-limits.max_model_len // limits.block_size)
        self.pool = BlockPool(blocks, limits.block_size, caching=limits.prefix_caching)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.trace: deque[StepRecord] = deque(maxlen=4096)
        self.counters = Counters()
        self.steps = 0
        self.idle_peers = 0
        """Data-parallel ranks beside it that have nothing to do; who drives them says so."""
        self.chance = random.Random(self.lifetime.launch)  # noqa: S311 - chaos that can be repeated
        """What disturbs it; nothing that an answer depends on."""
        self.most = limits.max_num_seqs
        self.slowness = 1.0
        self.clock_offset = 0.0
        self._busy = 0
        self._aborted = self._preempted = self._hit = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ValueError: where it cannot fit, in vLLM's words.
        """
        prompt = request.prompt
        if not prompt:
            raise ValueError("The decoder prompt cannot be empty")
        if min(prompt) < 0 or max(prompt) >= self.model.vocabulary_size:
            outside = next(token for token in prompt if not 0 <= token < self.model.vocabulary_size)
            raise ValueError(f"Token id {outside} is out of vocabulary")
        if len(prompt) + request.max_tokens > self.limits.max_model_len:
            raise ValueError(
                f"This model's maximum context length is {self.limits.max_model_len} tokens. However, you requested "
                f"{request.max_tokens} output tokens and your prompt contains {len(prompt)} input tokens."
            )
        if not self.has_work:
            self._busy += 1
        self.waiting.append(Sequence(request, self.model))

    def abort(self, identifier: str) -> None:
        """Forget a request, as when its client has gone."""
        for sequence in self.running:
            if sequence.identifier == identifier:
                self.running.remove(sequence)
                self.pool.release(sequence.blocks)
                self._aborted += 1
                return
        self.waiting = deque(sequence for sequence in self.waiting if sequence.identifier != identifier)

    def preempt(self, sequence: Sequence) -> None:
        """Put a request that was taken off ``running`` back to the queue, first in line, with nothing computed."""
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.room = sequence.computed = 0
        sequence.reading = True
        sequence.preemptions += 1
        self.waiting.appendleft(sequence)
        self._preempted += 1
        self.counters.preemptions += 1

    def step(self, now: float) -> tuple[list[Emission], float]:
        """Run one step; return what it emitted, and the seconds that it took."""
        self.most, self.slowness = self.limits.max_num_seqs, 1.0
        for disturb, number in self.faults.disturbances:
            disturb(self, number)
        scheduled = self._schedule()
        if not scheduled:
            return [], self.cost.base
        self.steps += 1
        record = self._record(scheduled, now)
        self.trace.append(record)
        situations = self._situations(record, scheduled, now) if self.faults.faults else None
        emissions: list[Emission] = []
        booked: dict[int, int] = {}
        for row, (sequence, count) in enumerate(scheduled):
            if tokens := self._advance(sequence, count, situations[row] if situations else None, emissions):
                server = sequence.request.server
                booked[server] = booked.get(server, 0) + tokens
        self._book(emissions, booked)
        prefill_tokens = sum(itertools.compress(record.counts, record.prefilling))
        return emissions, self.slowness * self.cost.seconds(prefill_tokens, record.tokens - prefill_tokens)

    def _schedule(self) -> list[tuple[Sequence, int]]:
        budget = self.limits.max_num_batched_tokens
        scheduled: list[tuple[Sequence, int]] = []
        undisturbed = self._preempted
        drafts = bool(self.limits.speculative_tokens)
        for sequence in self.running[: self.most]:
            count = sequence.total - sequence.computed
            if drafts:
                count += self._drafts(sequence)
            count = min(count, budget)
            if not count or (sequence.computed + count > sequence.room and not self._make_room(sequence, count)):
                break
            scheduled.append((sequence, count))
            budget -= count
        while self.waiting and len(self.running) < self.most and budget > 0 and self._preempted == undisturbed:
            count = self._admit(self.waiting[0], budget)
            if not count:
                break
            sequence = self.waiting.popleft()
            self.running.append(sequence)
            scheduled.append((sequence, count))
            budget -= count
        return scheduled

    def _drafts(self, sequence: Sequence) -> int:
        """Return how many draft tokens a decode takes along: never more than may still be emitted."""
        if not self.limits.speculative_tokens or sequence.reading:
            return 0
        return min(self.limits.speculative_tokens, sequence.request.max_tokens - len(sequence.output) - 1)

    def _make_room(self, sequence: Sequence, count: int) -> bool:
        """Take the blocks that a running request needs, in need from the last; False where it lost its own place."""
        missing = -(-(sequence.computed + count) // self.limits.block_size) - len(sequence.blocks)
        while sequence in self.running:
            taken = self.pool.take(missing)
            if taken is not None:
                sequence.blocks += taken
                sequence.room = len(sequence.blocks) * self.limits.block_size
                return True
            self.preempt(self.running.pop())
        return False

    def _admit(self, sequence: Sequence, budget: int) -> int:
        """Give a waiting request its first blocks; return how many of its tokens the step holds, 0 where none."""
        size = self.limits.block_size
        looks_up = self.limits.prefix_caching and not sequence.request.prompt_logprobs
        # The last token is always computed: its logits are what is wanted.
        shared = self.pool.cached(self._keys(sequence, (sequence.total - 1) // size)) if looks_up else []
        hit = len(shared) * size
        need = sequence.total - hit
        if need > budget and not self.limits.chunked_prefill:
            return 0
        count = min(need, budget)
        taken = self.pool.take(-(-(hit + count) // size) - len(shared), shared)
        if taken is None:
            return 0
        sequence.blocks = taken
        sequence.room = len(taken) * size
        sequence.computed = sequence.hit = hit
        sequence.named = len(shared)
        if looks_up and not sequence.preemptions:
            self.counters.prefix_queries += sequence.total
            self.counters.prefix_hits += hit
        if sequence.first_hit < 0:
            sequence.first_hit = hit
            self._hit += hit
        return count

    def _keys(self, sequence: Sequence, blocks: int) -> list[bytes]:
        """Return the prefix cache's keys of the first blocks of a sequence."""
        size, request = self.limits.block_size, sequence.request
        while len(sequence.keys) < blocks:
            start = len(sequence.keys) * size
            before = sequence.keys[-1] if start else first_key(request.adapter, request.cache_salt)
            sequence.keys.append(next_key(before, sequence.tokens(start, start + size)))
        return sequence.keys[:blocks]

    def _advance(self, sequence: Sequence, count: int, situation: Situation | None, emissions: list[Emission]) -> int:
        """Compute what the step holds of a request, and add its emissions; return the tokens to book for them."""
        booked = 0
        if sequence.reading and sequence.computed + count < sequence.total:
            sequence.computed += count
            if situation:
                self._strike(sequence, situation)
        else:
            if not sequence.output:
                length = len(sequence.request.prompt)
                self.counters.prompt_tokens += length
                booked = length - sequence.first_hit
            drafts = 0 if sequence.reading else count - 1
            accepted = sequence.state[0] % (drafts + 1) if drafts else 0
            sequence.reading = False
            before = len(emissions)
            for verified in range(1 + accepted):
                if situation is None:
                    emission = draw(self.model, sequence)
                else:
                    emission = self._emit(sequence, replace(situation, verified=verified))
                sequence.append(emission.token)
                for distort, number in self.faults.distortions:
                    emission = distort(emission, number, self.chance)
                emissions.append(emission)
                if emission.finish_reason:
                    break
            sequence.computed = sequence.total - 1
            emitted = len(emissions) - before
            booked += emitted
            if drafts:
                self.counters.book_drafts(drafts, emitted - 1)
        if self.limits.prefix_caching:
            self._share(sequence)
        return booked

    def _share(self, sequence: Sequence) -> None:
        """Let others find the blocks that are full."""
        full = sequence.computed // self.limits.block_size
        if full > sequence.named:
            keys = self._keys(sequence, full)
            for index in range(sequence.named, full):
                self.pool.name(sequence.blocks[index], keys[index])
            sequence.named = full

    def _emit(self, sequence: Sequence, situation: Situation) -> Emission:
        effects = self._strike(sequence, situation)
        emission = draw(self.model, sequence, sum(effects.values(), NOTHING))
        for name in effects:
            without = sum((effect for other, effect in effects.items() if other != name), NOTHING)
            if draw(self.model, sequence, without) != emission:
                self.faults.count(name)
        if math.isnan(emission.logprob) and not sequence.corrupted:
            sequence.corrupted = True
            self.counters.corrupted += 1
        return emission

    def _strike(self, sequence: Sequence, situation: Situation) -> dict[str, Effect]:
        """Return what changes the emission of a step, by the faults' names; what lasts stays with the sequence."""
        now: dict[str, Effect] = {}
        for fault, effect in self.faults.strike(situation):
            if fault.lasting:
                sequence.wounds[fault.name] = sequence.wounds.get(fault.name, NOTHING) + effect
            else:
                now[fault.name] = effect
        return now | sequence.wounds

    def _record(self, scheduled: list[tuple[Sequence, int]], now: float) -> StepRecord:
        # Lists are made faster than generators run, and this is done in every step.
        prefilling = tuple([sequence.reading for sequence, _ in scheduled])
        prefills = sum(prefilling)
        counts = tuple([count for _, count in scheduled])
        record = StepRecord(
            self.steps,
            now + self.clock_offset,
            sum(counts),
            len(scheduled),
            prefills,
            len(scheduled) - prefills,
            tuple([sequence.identifier for sequence, _ in scheduled]),
            counts,
            tuple([sequence.computed for sequence, _ in scheduled]),
            prefilling,
            len(self.waiting),
            self._preempted,
            self._hit,
            self._aborted,
        )
        self._aborted = self._preempted = self._hit = 0
        return record

    def _book(self, emissions: list[Emission], booked: dict[int, int]) -> None:
        for tokens in booked.values():
            self.counters.book_iteration(tokens)
        self.counters.generation_tokens += len(emissions)
        ended = {emission.request: emission.finish_reason for emission in emissions if emission.finish_reason}
        if ended:
            self.counters.book_ends(ended.values())
            for sequence in self.running:
                if sequence.identifier in ended:
                    self.pool.release(sequence.blocks)
            self.running = [sequence for sequence in self.running if sequence.identifier not in ended]

    def _situations(self, record: StepRecord, scheduled: list[tuple[Sequence, int]], now: float) -> list[Situation]:
        """Return what faults may look at, for each request of a step; called before it is computed."""
        requests = [sequence.request for sequence, _ in scheduled]
        logprobs = sorted((request.logprobs or 0 for request in requests), reverse=True)
        penalised = sum(request.penalised for request in requests)
        chosen = sum(request.chosen_logprobs for request in requests)
        padding = 0
        if not record.prefills:
            padding = next((size for size in self.limits.capture_sizes if size >= record.width), 0) - record.width
        situations: list[Situation] = []
        for row, (sequence, count) in enumerate(scheduled):
            request = sequence.request
            mine = request.logprobs or 0
            situations.append(
                Situation(
                    width=record.width,
                    tokens=record.tokens,
                    prefills=record.prefills,
                    decodes=record.decodes,
                    padding=max(padding, 0),
                    budget=self.limits.max_num_batched_tokens,
                    aborted=record.aborted,
                    others_logprobs=logprobs[0] if mine < logprobs[0] else [*logprobs, 0][1],
                    others_penalised=penalised - request.penalised,
                    others_chosen=chosen - request.chosen_logprobs,
                    others_adapters=sum(bool(other.adapter) and other.adapter != request.adapter for other in requests),
                    request=sequence.identifier,
                    row=row,
                    above=situations[-1].length if situations else 0,
                    prefilling=sequence.reading,
                    start=sequence.computed,
                    count=count,
                    emits=sequence.computed + count >= sequence.total,
                    block_size=self.limits.block_size,
                    hit=sequence.hit,
                    preemptions=sequence.preemptions,
                    temperature=request.temperature,
                    cuts=request.cuts,
                    seed=request.seed,
                    logprobs=request.logprobs,
                    prompt_logprobs=request.prompt_logprobs,
                    penalised=request.penalised,
                    adapter=request.adapter,
                    step=record.step,
                    busy=self._busy,
                    age=now - self.lifetime.started,
                    launch=self.lifetime.launch,
                    replica=self.lifetime.replica,
                    idle_peers=self.idle_peers,
                )
            )
        return situations
