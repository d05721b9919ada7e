"""The simulator's core behind the probe's own interface, in virtual time: no sockets, no event loop, no waiting.

Requests become the bytes that the HTTP client would send, answers the bytes that it would read, and both go through
its code. Calls never suspend, so ``drive`` runs the probe's coroutines to their ends.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import json
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from detinf.documents import Reference
from detinf.guard.trace import Step, own_id
from detinf.probe.client import EngineClient, read_answer
from detinf.probe.cohort import plugs_for
from detinf.probe.engine import EngineIdentity, Look, Outcome
from detinf.probe.metrics import Snapshot, parse_metrics
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.trace import Window
from detinf_sim import metrics
from detinf_sim.answers import choice
from detinf_sim.behaviours import BEHAVIOURS
from detinf_sim.requests import Completion, parse
from detinf_sim.ring import own_in
from detinf_sim.scheduler import Emission, Request, SimEngine, StepRecord

T = TypeVar("T")
BOOT = "b" * 32
LOOK_SECONDS = 0.002
ARRIVAL_SECONDS = 0.004
"""Requests that are sent together arrive within this."""
TENANT_PROMPTS = 64
KEPT_STEPS = 8192


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits.

    Raises:
        RuntimeError: where it does.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("something waited for the wall clock in virtual time")


@dataclass
class Chaos:
    """Ways to be unhelpful on the way to the engine and back; shares of requests, all 0 when it is well."""

    status: float = 0.0
    broken: float = 0.0
    """The connection breaks, or a timeout."""
    truncated: float = 0.0
    garbage: float = 0.0
    rewritten: float = 0.0
    """A proxy parses the answer and writes it again."""
    rounded: float = 0.0
    stopped: float = 0.0
    too_long: float = 0.0
    """400: the context is exceeded."""
    other_pod: float = 0.0
    """A load balancer asks another pod, with other weights."""
    restarted: float = 0.0
    """Another process answers from then on."""
    no_metrics: float = 0.0
    reset_metrics: float = 0.0
    late_metrics: float = 0.0
    """The page is the one before."""
    other_edges: float = 0.0
    """The histogram's edges are others."""
    no_trace: float = 0.0
    gap: float = 0.0
    """The trace lacks steps."""


EVERYTHING = Chaos(
    status=0.006,
    broken=0.004,
    truncated=0.002,
    garbage=0.002,
    rewritten=0.3,
    rounded=0.002,
    stopped=0.002,
    too_long=0.002,
    other_pod=0.002,
    restarted=0.0005,
    no_metrics=0.02,
    reset_metrics=0.02,
    late_metrics=0.02,
    other_edges=0.1,
    no_trace=0.02,
    gap=0.02,
)


@dataclass
class Pending:
    """A request on its way."""

    completion: Completion
    emissions: list[Emission] = field(default_factory=list)
    refused: str | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing more to come."""
        return self.refused is not None or bool(self.emissions and self.emissions[-1].finish_reason)


class VirtualEngine:
    """One engine, asked in virtual time; it is the trace of its steps, too."""

    def __init__(
        self,
        engine: SimEngine,
        seed: int,
        *,
        chaos: Chaos | None = None,
        load: float = 0.0,
        traced: bool = True,
        spread: float = ARRIVAL_SECONDS,
    ) -> None:
        """Prepare.

        Args:
            engine: the core.
            seed: of everything that happens by chance.
            chaos: what goes wrong on the way.
            load: share of the engine's places that tenants always hold.
            traced: whether there is a step trace.
            spread: seconds within which requests that are sent together arrive.
        """
        self.engine = engine
        self.chance = random.Random(seed)
        self.chaos = chaos or Chaos()
        self.load = load
        self.traced = traced
        self.spread = spread
        self.now = 1000.0
        self.started = 1000.0
        self.client = EngineClient("http://virtual", "sim", boot=BOOT)
        self.boot = BOOT
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.waiting: dict[str, Pending] = {}
        self.steps: list[Step] = []
        self.dropped = 0
        self.tenants = 0
        self.pages = [metrics.render(engine, model="sim", started=self.started)]
        self.prompts = prompts_of(engine.model.vocabulary_size)

    # Time ----------------------------------------------------------------------------------------------------------

    def at(self, delay: float, what: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self.events, (self.now + delay, next(self.numbers), what))

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until something is so.

        Raises:
            RuntimeError: where it never will be.
        """
        while not condition():
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
            if condition():
                return
            self.invite()
            if self.engine.has_work:
                self.step()
            elif self.events:
                self.now = self.events[0][0]
            else:
                raise RuntimeError("virtual time stands still")

    def step(self) -> None:
        """Run one step of the engine; its tokens are there when it is over."""
        before = self.engine.steps
        emissions, seconds = self.engine.step(self.now)
        if self.engine.steps > before:
            self.steps.append(step_of(self.engine.trace[-1]))
            if len(self.steps) > 2 * KEPT_STEPS:
                del self.steps[:KEPT_STEPS]
                self.dropped += KEPT_STEPS
        self.now += seconds
        for emission in emissions:
            if emission.request.startswith("tenant"):
                self.tenants -= emission.finish_reason is not None
            elif (pending := self.waiting.get(emission.request)) is not None:
                pending.emissions.append(emission)

    def invite(self) -> None:
        """Keep the tenants' share of places taken."""
        wanted = int(self.load * self.engine.limits.max_num_seqs)
        while self.tenants < wanted:
            self.tenants += 1
            # Greedy, and the same few prompts again and again: that is fast, and what they are told does not matter.
            prompt, tokens = self.chance.choice(self.prompts), self.chance.randint(1, 64)
            self.engine.submit(Request(f"tenant-{next(self.numbers)}", prompt, tokens, logprobs=None))

    # The probe's engine --------------------------------------------------------------------------------------------

    async def look(self) -> Look:
        """Return who answers now, and what the metrics page says."""
        return Look(EngineIdentity(self.boot, self.started), await self.metrics())

    async def metrics(self) -> Snapshot | None:
        """Return the metrics page, read as the client reads it."""
        if self.chance.random() < self.chaos.no_metrics:
            return None
        if self.chance.random() < self.chaos.reset_metrics:
            self.engine.counters = type(self.engine.counters)()
        self.pages = [self.pages[-1], metrics.render(self.engine, model="sim", started=self.started)]
        page = self.pages[0] if self.chance.random() < self.chaos.late_metrics else self.pages[1]
        edges = BEHAVIOURS["metrics-edges"].page
        if edges is not None and self.chance.random() < self.chaos.other_edges:
            page = edges([page]) or page
        return parse_metrics(page)

    async def ask(self, reference: Reference, request_id: str | None = None) -> Outcome:
        """Ask one reference."""
        pending = self.send(reference, request_id)
        self.until(lambda: pending.done)
        return self.receive(pending, reference)

    async def cohort(self, references: Sequence[Reference], plug_length: int, cohort: bytes) -> list[Outcome]:
        """Ask references behind plugs."""
        first = references[0]
        prompt = (first.prompt_ids * (plug_length // len(first.prompt_ids) + 1))[:plug_length]
        plug = first.model_copy(update={"prompt_ids": prompt, "max_tokens": 1})
        plugs = [self.send(plug, None) for _ in range(plugs_for(len(references)))]
        sent = self.send_all(references, cohort, 0, LOOK_SECONDS)
        self.until(lambda: len(sent) == len(references) and all(item.done for item in [*plugs, *sent.values()]))
        return [self.receive(sent[number], reference) for number, reference in enumerate(references)]

    async def join(
        self, first: Sequence[Reference], then: Sequence[Reference], cohort: bytes, may_join: Callable[[], bool]
    ) -> list[Outcome]:
        """Ask references, and others once the first decode."""
        sent = self.send_all(first, cohort, 0, 0.0)

        def look() -> None:
            if may_join() or (len(sent) == len(first) and all(item.done for item in sent.values())):
                sent.update(self.send_all(then, cohort, len(first), LOOK_SECONDS, sent))
            else:
                self.at(LOOK_SECONDS, look)

        self.at(LOOK_SECONDS, look)
        together = [*first, *then]
        self.until(lambda: len(sent) == len(together) and all(item.done for item in sent.values()))
        return [self.receive(sent[number], reference) for number, reference in enumerate(together)]

    # Its step trace ------------------------------------------------------------------------------------------------

    def position(self) -> int | None:
        """Return how many steps there were."""
        if not self.traced or self.chance.random() < self.chaos.no_trace:
            return None
        return self.dropped + len(self.steps)

    def since(self, position: int) -> Window | None:
        """Return the steps from a position on."""
        if position < self.dropped:
            return Window((), complete=False)
        steps = self.steps[position - self.dropped :]
        if steps and self.chance.random() < self.chaos.gap:
            del steps[self.chance.randrange(len(steps))]
            return Window(tuple(steps), complete=False)
        return Window(tuple(steps), complete=True)

    # Requests ------------------------------------------------------------------------------------------------------

    def send_all(
        self,
        references: Sequence[Reference],
        cohort: bytes,
        start: int,
        delay: float,
        sent: dict[int, Pending] | None = None,
    ) -> dict[int, Pending]:
        """Send requests that arrive within ``spread`` seconds, in an order of chance; they are added as they do."""
        found: dict[int, Pending] = {} if sent is None else sent

        def arrive(number: int, reference: Reference) -> None:
            found[number] = self.send(reference, own_id(cohort, number))

        for number, reference in enumerate(references, start):
            self.at(delay + self.chance.uniform(0, self.spread), functools.partial(arrive, number, reference))
        return found

    def send(self, reference: Reference, request_id: str | None) -> Pending:
        """Submit a request as the server would."""
        body = self.client.body(reference.prompt_ids, reference, max_tokens=reference.max_tokens)
        size = self.engine.model.vocabulary_size
        completion = parse(body, vocabulary_size=size, eos=frozenset(), chat=False, request_id=request_id)
        pending = Pending(completion)
        request = completion.requests[0]
        if self.chance.random() < self.chaos.too_long:
            pending.refused = "This model's maximum context length is 1 tokens."
        else:
            self.engine.submit(request)
            self.waiting[request.identifier] = pending
        return pending

    def receive(self, pending: Pending, reference: Reference) -> Outcome:
        """Return what the client makes of the answer."""
        self.waiting.pop(pending.completion.requests[0].identifier, None)
        try:
            status, boot, data = self.answer(pending)
            return read_answer(self.client.accepted(status, boot, data), reference)
        except InconclusiveError as error:
            return error

    def answer(self, pending: Pending) -> tuple[int, str, bytes]:
        """Return status, boot and bytes of an answer, after all that happens on its way.

        Raises:
            InconclusiveError: where nothing arrives.
        """
        chaos, chance = self.chaos, self.chance
        if pending.refused is not None:
            return 400, self.boot, pending.refused.encode()
        if chance.random() < chaos.status:
            return chance.choice([429, 500, 503]), self.boot, b"simulated"
        if chance.random() < chaos.broken:
            raise InconclusiveError(chance.choice([Reason.TIMEOUT, Reason.TRANSPORT]), "simulated")
        if chance.random() < chaos.restarted:
            # A client of the old boot is told so for ever; the soak begins another lifetime then.
            self.boot, self.started = f"{chance.getrandbits(128):032x}", self.now
        content = {"choices": [choice(pending.completion, 0, pending.emissions)]}
        boot = self.boot
        if chance.random() < chaos.other_pod:
            boot = "c" * 32
            content["choices"][0]["token_ids"][0] += 1
        self.distort(content["choices"][0])
        data = json.dumps(content).encode()
        if chance.random() < chaos.rewritten:
            data = rewritten(content, chance)
        if chance.random() < chaos.truncated:
            data = data[: chance.randrange(len(data))]
        if chance.random() < chaos.garbage:
            data = b"<html>upstream says hello</html>"
        return 200, boot, data

    def distort(self, given: dict[str, Any]) -> None:
        """Change an answer so that it says itself that it is none."""
        chaos, chance = self.chaos, self.chance
        values = given["logprobs"]["token_logprobs"]
        if chance.random() < chaos.stopped:
            last = chance.randrange(1, len(values) + 1)
            given["token_ids"], given["finish_reason"] = given["token_ids"][:last], "stop"
            given["logprobs"]["token_logprobs"] = values[:last]
        elif chance.random() < chaos.rounded:
            digits = chance.choice([2, 4, 6, 8])
            given["logprobs"]["token_logprobs"] = [round(value, digits) for value in values]


@functools.lru_cache(maxsize=4)
def prompts_of(vocabulary_size: int) -> list[list[int]]:
    """Return the prompts of all tenants."""
    chance = random.Random(vocabulary_size)
    return [
        [chance.randrange(vocabulary_size) for _ in range(chance.choice([3, 20, 60, 200]))]
        for _ in range(TENANT_PROMPTS)
    ]


def step_of(record: StepRecord) -> Step:
    """Return a step as the trace's reader gives it."""
    return Step(
        record.step,
        int(record.time * 1e9),
        record.tokens,
        record.width,
        record.prefills,
        record.decodes,
        record.waiting,
        record.preemptions,
        record.cached_tokens,
        tuple(own_in(record)),
    )


def rewritten(content: Any, chance: random.Random) -> bytes:
    """Return the same numbers in another form, as proxies in other languages write them."""
    form = chance.choice(["%.17g", "%.17e", "%.60f"])

    def write(value: Any) -> str:
        if isinstance(value, float):
            return "0" if value == 0 else form % value
        if isinstance(value, list):
            return "[" + " , ".join(write(item) for item in value) + "]"
        if isinstance(value, dict):
            items = [f"{json.dumps(key)} : {write(item)}" for key, item in value.items()]
            chance.shuffle(items)
            return "{" + ",".join(items) + "}\n"
        return json.dumps(value)

    return write(content).encode()
