"""Benign chaos as data: ways to be unhelpful without being wrong. None of them may ever lead to FAIL."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from detinf_sim.counters import Counters
from detinf_sim.sequences import Emission, Request

if TYPE_CHECKING:
    from detinf_sim.scheduler import SimEngine


Disturb = Callable[["SimEngine", int], None]
Distort = Callable[[Emission, int, random.Random], Emission]


@dataclass(frozen=True)
class Identity:
    """Who answers."""

    boot: str
    """The header ``X-Detinf-Boot``; none where empty."""
    started: float
    """``process_start_time_seconds``."""
    fingerprint: str
    """``system_fingerprint``."""


@dataclass(frozen=True)
class Refusal:
    """An answer that the engine never saw the request for."""

    status: int
    body: str
    delay: float = 0.0
    """Seconds until it comes."""
    whole: bool = True
    """False: the connection ends after it."""


@dataclass(frozen=True)
class Behaviour:
    """One way to be unhelpful; where it works is where it has a function."""

    name: str
    words: str
    number: str = ""
    """What the number after its name is, as in ``status:<code>``; none where empty."""
    disturb: Disturb | None = None
    """Before each step of the scheduler: answers stay what they are."""
    distort: Distort | None = None
    """On each emission: what arrives is not what was computed, and says so."""
    refuse: Callable[[int], Refusal] | None = None
    """Instead of an answer."""
    rewrite: Callable[[str], str] | None = None
    """On the JSON of an answer or of a stream's chunk."""
    identify: Callable[[Identity, random.Random], Identity] | None = None
    """Who gives the next answer, from who gave the last one."""
    page: Callable[[Sequence[str]], str | None] | None = None
    """On the last two metrics pages, newest last; None: 404."""
    cuts: bool = False
    """Whether the connection ends inside the answer."""

    @property
    def form(self) -> str:
        """How it is written."""
        return f"{self.name}:<{self.number}>" if self.number else self.name

    @property
    def where(self) -> str:
        """What it works on."""
        if self.disturb:
            return "scheduler"
        if self.distort:
            return "values"
        return "metrics" if self.page else "answers"


def _serialise(engine: SimEngine, _number: int) -> None:
    engine.most = 1


def _tenants(engine: SimEngine, percent: int) -> None:
    """Keep so many of the engine's places taken by strangers, with prompts and lengths of all kinds."""
    chance = engine.chance
    if engine.has_work and chance.random() < 0.75:
        return  # nobody arrives with every step
    there = sum(sequence.identifier.startswith("tenant-") for sequence in [*engine.running, *engine.waiting])
    for _ in range(engine.limits.max_num_seqs * percent // 100 - there):
        room = engine.limits.max_model_len
        length = min(int(chance.paretovariate(1.0) * 8), room // 2)
        engine.submit(
            Request(
                f"tenant-{engine.chance.getrandbits(48):x}",
                [chance.randrange(engine.model.vocabulary_size) for _ in range(length)],
                max_tokens=chance.randrange(1, min(room // 4, 64)),
                temperature=chance.choice([0.0, 1.0]),
                top_k=chance.choice([0, 50]),
                seed=chance.getrandbits(32),
                logprobs=chance.choice([None, 1, 20]),
                presence_penalty=chance.choice([0.0, 0.5]),
                cache_salt=chance.choice(["", "tenant"]),
            )
        )


def _shuffle(engine: SimEngine, _number: int) -> None:
    engine.chance.shuffle(engine.running)
    engine.waiting.rotate(engine.chance.randrange(len(engine.waiting) + 1))


def _preempt(engine: SimEngine, percent: int) -> None:
    if engine.running and engine.chance.random() * 100 < percent:
        engine.preempt(engine.running.pop())


def _evict(engine: SimEngine, percent: int) -> None:
    if engine.chance.random() * 100 < percent:
        engine.pool.forget()


def _slow(engine: SimEngine, times: int) -> None:
    engine.slowness = engine.chance.uniform(1, max(times, 1))


def _clock(engine: SimEngine, _number: int) -> None:
    if engine.chance.random() < 0.05:
        engine.clock_offset = engine.chance.choice([-3600.0, 0.0, 3600.0])


def _reset_counters(engine: SimEngine, _number: int) -> None:
    if engine.chance.random() < 0.02:
        engine.counters = Counters()


def _rounded(emission: Emission, digits: int, _chance: random.Random) -> Emission:
    top = tuple((token, round(value, digits)) for token, value in emission.top)
    return emission._replace(logprob=round(emission.logprob, digits), top=top)


def _other_tie(emission: Emission, _number: int, chance: random.Random) -> Emission:
    """List another of equally probable tokens at the last place, as a partial sort may."""
    if len(emission.top) < 2 or emission.top[-1][0] == emission.token or chance.random() < 0.5:
        return emission
    token, value = emission.top[-1]
    if token + 1 in {emission.token, *(listed for listed, _ in emission.top)}:
        return emission  # a list has no token twice
    return emission._replace(top=(*emission.top[:-1], (token + 1, value)))


def _stopped(emission: Emission, percent: int, chance: random.Random) -> Emission:
    return emission._replace(finish_reason="stop") if chance.random() * 100 < percent else emission


def _error(message: str, status: int) -> str:
    return json.dumps({"error": {"message": message, "type": "SimulatedError", "param": None, "code": status}})


def _too_long(_number: int) -> Refusal:
    return Refusal(400, _error("This model's maximum context length is 1 tokens.", 400))


def _reserialised(text: str) -> str:
    """Return the same values in another order and other digits, as a proxy may write them."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(key)} : {written(value[key])}" for key in reversed(value)) + "}"
        if isinstance(value, list):
            return "[ " + ", ".join(written(item) for item in value) + " ]"
        return f"{value:.17e}" if isinstance(value, float) else json.dumps(value)

    return written(json.loads(text))


def _without_details(text: str) -> str:
    body = json.loads(text)
    if usage := body.get("usage"):
        usage.pop("prompt_tokens_details", None)
    return json.dumps(body)


def _restarted(_identity: Identity, chance: random.Random) -> Identity:
    return Identity(f"{chance.getrandbits(128):032x}", chance.uniform(1e9, 2e9), _identity.fingerprint)


def _other_pod(identity: Identity, _chance: random.Random) -> Identity:
    return replace(identity, boot=identity.boot[::-1], started=-identity.started)


def _upgraded(identity: Identity, _chance: random.Random) -> Identity:
    return replace(identity, fingerprint=identity.fingerprint[::-1])


def _other_edges(pages: Sequence[str]) -> str:
    return re.sub(r'^\S*le="(8|32|128|512|2048|8192)\.0"\S* .*\n', "", pages[-1], flags=re.MULTILINE)


BEHAVIOURS: dict[str, Behaviour] = {
    behaviour.name: behaviour
    for behaviour in (
        Behaviour("serialise", "one request at a time", disturb=_serialise),
        Behaviour("load", "strangers take that share of the engine's places", "percent", disturb=_tenants),
        Behaviour("shuffle", "requests stand and wait in another order at every step", disturb=_shuffle),
        Behaviour(
            "preempt", "in that share of the steps a running request loses its place", "percent", disturb=_preempt
        ),
        Behaviour("evict", "in that share of the steps the prefix cache is emptied", "percent", disturb=_evict),
        Behaviour("slow", "steps take up to so many times as long", "times", disturb=_slow),
        Behaviour("clock", "the clock jumps by an hour, back and forth", disturb=_clock),
        Behaviour("metrics-reset", "counters start anew, now and then", disturb=_reset_counters),
        Behaviour("round", "logprobs are rounded to so many decimals, as by a proxy", "digits", distort=_rounded),
        Behaviour("tie", "at the last place of a list another, equally probable token stands", distort=_other_tie),
        Behaviour("stop", "that share of the tokens ends its answer early", "percent", distort=_stopped),
        Behaviour(
            "status",
            "every request for text is answered with that status",
            "code",
            refuse=lambda status: Refusal(status, _error("simulated", status)),
        ),
        Behaviour("too-long", "400: the prompt is longer than the context, whatever it is", refuse=_too_long),
        Behaviour(
            "garbage", "200, and no JSON", refuse=lambda _number: Refusal(200, "<html>upstream says hello</html>")
        ),
        Behaviour(
            "hang",
            "no answer for so many seconds, and then the connection ends",
            "seconds",
            refuse=lambda seconds: Refusal(200, "", delay=seconds, whole=False),
        ),
        Behaviour("truncate", "the connection ends inside the answer", cuts=True),
        Behaviour(
            "reserialise", "numbers and keys are written in another way, with the same values", rewrite=_reserialised
        ),
        Behaviour("no-details", "usage says nothing of cached tokens", rewrite=_without_details),
        Behaviour("restart", "every answer comes from another boot", identify=_restarted),
        Behaviour("other-pod", "answers come from two pods in turn", identify=_other_pod),
        Behaviour("upgrade", "answers come from two versions in turn", identify=_upgraded),
        Behaviour("metrics-404", "there is no metrics page", page=lambda _pages: None),
        Behaviour("metrics-late", "the metrics page is the one before", page=lambda pages: pages[0]),
        Behaviour("metrics-empty", "the metrics page lacks vLLM's series", page=lambda _pages: "up 1\n"),
        Behaviour("metrics-edges", "the histogram of tokens in a step has other edges", page=_other_edges),
        Behaviour("sometimes", "what befalls answers and metrics pages does so in that share of them alone", "percent"),
    )
}


def takes(name: str) -> tuple[Behaviour, int] | None:
    """Return the behaviour of a name such as ``status:429``, and its number (0 without one); None for no such name."""
    kind, colon, number = name.partition(":")
    behaviour = BEHAVIOURS.get(kind)
    if behaviour is None or bool(colon) != bool(behaviour.number) or (colon and not number.isdecimal()):
        return None
    return behaviour, int(number or 0)
