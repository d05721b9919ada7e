"""Continuous batching, one step at a time, with an honest trace. Pure: time is what the caller says it is.

As in vLLM's scheduler: running requests first, then waiting ones in order of arrival, within a budget of tokens and a
number of requests; prefills and decodes share a step. Prefix caching is not modelled and its counters stay 0.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from detinf_sim.faults import Active, Situation
from detinf_sim.model import Distribution, HashModel, add_ulps, uniform


@dataclass(frozen=True)
class Limits:
    """The engine's arguments that shape a step."""

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 8192
    max_model_len: int = 8192
    chunked_prefill: bool = False


@dataclass(frozen=True)
class StepCost:
    """The stated step-time model, in seconds: a base, and a cost per token of each kind."""

    base: float = 0.002
    per_prefill_token: float = 0.00001
    per_decode_token: float = 0.00005


@dataclass
class Request:
    """One sequence."""

    identifier: str
    prompt: list[int]
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    logprobs: int = 1
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    computed: int = 0
    output: list[int] = field(default_factory=list)
    state: bytes = b""


@dataclass(frozen=True)
class Emission:
    """One token of one request."""

    request: str
    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    finish_reason: str | None


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
    """Whether each request was still reading its prompt."""
    waiting: int = 0


EDGES = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bucket edges of ``vllm:iteration_tokens_total``, inclusive."""


@dataclass
class Counters:
    """What the metrics page shows, under vLLM's booking rules (0.23 to 0.33, ``v1/metrics/stats.py``)."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    iterations: int = 0
    iteration_tokens: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * len(EDGES))
    finished: dict[str, int] = field(default_factory=dict)

    def book_iteration(self, tokens: int) -> None:
        """Book a step that emitted something."""
        self.iterations += 1
        self.iteration_tokens += tokens
        for index, edge in enumerate(EDGES):
            self.buckets[index] += tokens <= edge


class SimEngine:
    """The engine's core. ``submit`` requests, call ``step`` until ``has_work`` is False."""

    def __init__(
        self, model: HashModel, limits: Limits, faults: Active | None = None, cost: StepCost | None = None
    ) -> None:
        """Start with empty queues.

        Raises:
            ValueError: for limits that vLLM refuses, too: a prompt that fits no step would wait for ever.
        """
        if not limits.chunked_prefill and limits.max_num_batched_tokens < limits.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens ({limits.max_num_batched_tokens}) is smaller than max_model_len "
                f"({limits.max_model_len}) without chunked prefill; raise it to at least max_model_len"
            )
        self.model = model
        self.limits = limits
        self.faults = faults or Active()
        self.cost = cost or StepCost()
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.trace: deque[StepRecord] = deque(maxlen=4096)
        self.counters = Counters()
        self.steps = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ValueError: where it cannot fit, in vLLM's words.
        """
        outside = [token for token in request.prompt if not 0 <= token < self.model.vocabulary_size]
        if outside:
            raise ValueError(f"Token id {outside[0]} is out of vocabulary")
        if not request.prompt:
            raise ValueError("The decoder prompt cannot be empty")
        if len(request.prompt) + request.max_tokens > self.limits.max_model_len:
            raise ValueError(
                f"This model's maximum context length is {self.limits.max_model_len} tokens. However, you requested "
                f"{request.max_tokens} output tokens and your prompt contains {len(request.prompt)} input tokens."
            )
        request.state = self.model.start(request.prompt)
        self.waiting.append(request)

    def abort(self, identifier: str) -> None:
        """Forget a request, as when its client has gone."""
        self.running = [request for request in self.running if request.identifier != identifier]
        self.waiting = deque(request for request in self.waiting if request.identifier != identifier)

    def step(self, now: float) -> tuple[list[Emission], float]:
        """Run one step; return what it emitted, and the seconds that it took."""
        scheduled = self._schedule()
        if not scheduled:
            return [], self.cost.base
        self.steps += 1
        tokens = sum(count for _, count in scheduled)
        decodes = sum(1 for request, _ in scheduled if request.computed >= len(request.prompt))
        record = StepRecord(
            self.steps,
            now,
            tokens,
            len(scheduled),
            len(scheduled) - decodes,
            decodes,
            tuple(request.identifier for request, _ in scheduled),
            tuple(count for _, count in scheduled),
            tuple(request.computed for request, _ in scheduled),
            tuple(request.computed < len(request.prompt) for request, _ in scheduled),
            len(self.waiting),
        )
        self.trace.append(record)
        emissions, booked = [], 0
        for row, (request, count) in enumerate(scheduled):
            first = request.computed < len(request.prompt)
            request.computed += count
            if request.computed < len(request.prompt):
                continue
            emission = self._emit(request, record, row)
            emissions.append(emission)
            booked += 1 + (len(request.prompt) if first else 0)
            if first:
                self.counters.prompt_tokens += len(request.prompt)
        if emissions:
            self.counters.book_iteration(booked)
            self.counters.generation_tokens += len(emissions)
        done = {emission.request for emission in emissions if emission.finish_reason}
        self.running = [request for request in self.running if request.identifier not in done]
        prefill_tokens = tokens - decodes
        seconds = self.cost.base + self.cost.per_prefill_token * prefill_tokens + self.cost.per_decode_token * decodes
        return emissions, seconds

    def _schedule(self) -> list[tuple[Request, int]]:
        budget = self.limits.max_num_batched_tokens
        most = 1 if "serialise" in self.faults.names else self.limits.max_num_seqs
        scheduled: list[tuple[Request, int]] = []
        for request in self.running[:most]:
            count = min(max(len(request.prompt) - request.computed, 1), budget)
            if count:
                scheduled.append((request, count))
                budget -= count
        while self.waiting and len(self.running) < most and budget > 0:
            need = len(self.waiting[0].prompt)
            if need > budget and not self.limits.chunked_prefill:
                break
            request = self.waiting.popleft()
            self.running.append(request)
            count = min(need, budget)
            scheduled.append((request, count))
            budget -= count
        return scheduled

    def _emit(self, request: Request, record: StepRecord, row: int) -> Emission:
        distribution = self.model.distribution(request.state)
        if request.temperature <= 0:
            token = distribution.greedy()
        else:
            number = uniform(request.seed, len(request.output))
            token = distribution.sample(number, request.temperature, request.top_k, request.top_p)
        situation = Situation(
            record.width, record.tokens, record.prefills, record.decodes, row, request.identifier, record.step
        )
        ulps, flips, names = self.faults.strike(situation)
        right = token
        if flips and len(distribution.items) > 1:
            token = distribution.items[1][0]
        shifted = _shift(distribution, ulps)
        # An emitted value: the token, and the logprob where it was asked for.
        if token != right or (request.logprobs and shifted.logprob(token) != distribution.logprob(token)):
            self.faults.count(names)
        request.output.append(token)
        request.state = self.model.advance(request.state, token)
        finish = None
        if len(request.output) >= request.min_tokens and token in request.stop_ids:
            finish = "stop"
        elif len(request.output) >= request.max_tokens:
            finish = "length"
        if finish:
            self.counters.finished[finish] = self.counters.finished.get(finish, 0) + 1
        return Emission(request.identifier, token, shifted.logprob(token), shifted.items[: request.logprobs], finish)


def _shift(distribution: Distribution, ulps: int) -> Distribution:
    if not ulps:
        return distribution
    return Distribution(tuple((token, add_ulps(logprob, ulps)) for token, logprob in distribution.items))
