"""Faults as data: when they strike, what they change, and a sentinel that proves they did.

The numbers are those of ``docs/reference/faults.md``. To add one: a line in ``FAULTS``, or in a copy of it that is
given to ``Active``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from detinf_sim.behaviours import BEHAVIOURS, Behaviour, Distort, Disturb, takes
from detinf_sim.effects import Effect
from detinf_sim.situation import Situation


class Per(StrEnum):
    """Of what a fault strikes a share."""

    REQUEST = "request"
    STEP = "step"
    EMISSION = "emission"
    LIFETIME = "lifetime"


_KEYS: dict[Per, Callable[[Situation], str]] = {
    Per.REQUEST: lambda s: s.request,
    Per.STEP: lambda s: f"{s.step}",
    Per.EMISSION: lambda s: f"{s.step}:{s.request}:{s.verified}",
    Per.LIFETIME: lambda _s: "",
}


@dataclass(frozen=True)
class Fault:
    """One way to be wrong."""

    name: str
    words: str
    when: Callable[[Situation], bool]
    """Whether it strikes a request in a step; also in steps in which the request emits nothing."""
    effect: Effect | Callable[[Situation], Effect]
    lasting: bool = False
    """Whether it changes all that the request emits from then on, and not the emission of that step alone."""
    share: float = 1.0
    """Share that it strikes of those that it could strike."""
    per: Per = Per.REQUEST

    def strikes(self, situation: Situation) -> bool:
        """Return whether it strikes, chance included: chance is a function of the process's launch."""
        if not self.when(situation):
            return False
        if self.share >= 1:
            return True
        key = f"{self.name}:{situation.launch}:{_KEYS[self.per](situation)}"
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2**64 < self.share

    def effect_in(self, situation: Situation) -> Effect:
        """Return what it does."""
        return self.effect if isinstance(self.effect, Effect) else self.effect(situation)


def _always(_situation: Situation) -> bool:
    return True


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(
            "F01",
            "output depends on the batch width from 9 up",
            lambda s: s.width >= 9,
            lambda s: Effect(ulps=1 + s.width % 3),
        ),
        Fault(
            "F02",
            "another kernel from width 65 up",
            lambda s: s.width >= 65,
            Effect(ulps=2),
        ),
        Fault(
            "F03",
            "another normalisation kernel from 256 tokens in a step up, whoever they belong to",
            lambda s: s.tokens >= 256,
            Effect(ulps=4),
        ),
        Fault(
            "F04",
            "prefills and decodes in one step go through one attention call",
            lambda s: s.prefills > 0 and s.decodes > 0,
            lambda s: Effect(ulps=1 + s.prefills),
        ),
        Fault(
            "F05",
            "a prompt's keys and values depend on where it was cut into chunks",
            lambda s: s.prefilling and (s.start - s.hit) % s.budget != 0,
            Effect(ulps=3),
            lasting=True,
        ),
        Fault(
            "F06",
            "a prompt that begins in the prefix cache is read by another kernel",
            lambda s: s.prefilling and s.hit > 0,
            Effect(ulps=2),
            lasting=True,
        ),
        Fault(
            "F07",
            "a cached prefix of exactly one block is misread in company",
            lambda s: s.prefilling and s.hit == s.block_size and s.width > 1,
            Effect(corrupt="block edge"),
            lasting=True,
        ),
        Fault(
            "F08",
            "every row but the first is off",
            lambda s: s.row > 0,
            Effect(ulps=1),
        ),
        Fault(
            "F09",
            "output depends on the order in the batch: on whether a longer sequence stands in the row above",
            lambda s: s.above > s.length,
            Effect(ulps=1),
        ),
        Fault(
            "F10",
            "top-k and top-p go another way from 8 requests up, and order equal candidates in reverse",
            lambda s: s.cuts and s.width >= 8,
            Effect(ties=True),
        ),
        Fault(
            "F11",
            "random numbers depend on the engine's step",
            lambda s: s.temperature > 0,
            lambda s: Effect(draw=f"step {s.step}"),
        ),
        Fault(
            "F12",
            "the API ignores the seed",
            lambda s: s.temperature > 0,
            lambda s: Effect(draw=f"{s.launch} {s.request}"),
        ),
        Fault(
            "F13",
            "what is computed again after a preemption is off by one position",
            lambda s: s.prefilling and s.preemptions > 0,
            Effect(corrupt="off by one"),
            lasting=True,
        ),
        Fault(
            "F14",
            "a request whose client leaves goes on writing to a block that was given to others",
            lambda s: s.aborted > 0,
            Effect(corrupt="leaked block"),
            lasting=True,
        ),
        Fault(
            "F15",
            "beyond 2048 tokens the attention's split over the KV cache depends on the batch",
            lambda s: s.length > 2048 and s.width > 1,
            lambda s: Effect(ulps=s.width),
        ),
        Fault(
            "F16",
            "drafts that are verified in company get other numbers than decoded tokens",
            lambda s: s.verified > 0 and s.width > 1,
            Effect(ulps=2),
        ),
        Fault(
            "F17",
            "a neighbour with a LoRA adapter changes the base model's numbers",
            lambda s: not s.adapter and s.others_adapters > 0,
            Effect(ulps=5),
        ),
        Fault(
            "F18",
            "run to run: the order of an all-reduce is left to chance",
            _always,
            Effect(ulps=1),
            share=0.5,
            per=Per.EMISSION,
        ),
        Fault(
            "F19",
            "every launch of the process chooses other kernels",
            _always,
            lambda s: Effect(ulps=1 + s.launch % 1021),
        ),
        Fault(
            "F20",
            "one replica wrong: a bad device; every answer of the replica where it is switched on is off",
            _always,
            Effect(ulps=64),
        ),
        Fault(
            "F21",
            "weights or version drifted under the same name",
            _always,
            Effect(corrupt="other weights"),
        ),
        Fault(
            "F22",
            "batch invariance off: every width gives other bits",
            lambda s: s.width >= 2,
            lambda s: Effect(ulps=s.width),
        ),
        Fault(
            "F22b",
            "batch invariance partial: attention beyond one block of keys depends on how many decode",
            lambda s: not s.prefilling and s.decodes >= 2 and s.length > s.block_size,
            lambda s: Effect(ulps=s.decodes),
        ),
        Fault(
            "F23",
            "data-parallel ranks that idle put their padding into the sum",
            lambda s: s.idle_peers > 0,
            lambda s: Effect(ulps=16 * s.idle_peers),
        ),
        Fault(
            "F24",
            "the last row of a padded graph is NaN",
            lambda s: s.padding > 0 and s.row == s.width - 1,
            Effect(nan=True),
        ),
        Fault(
            "F25",
            "one launch in three depends on the batch",
            lambda s: s.width >= 2,
            lambda s: Effect(ulps=s.width),
            share=1 / 3,
            per=Per.LIFETIME,
        ),
        Fault(
            "F26",
            "one request in a thousand is off",
            _always,
            Effect(ulps=1),
            share=1e-3,
        ),
        Fault(
            "F27",
            "a neighbour's penalties, or its wish for more logprobs, change the sampler's kernel",
            lambda s: s.others_penalised > 0 or s.others_logprobs > (s.logprobs or 0),
            lambda s: Effect(ulps=1 + s.others_penalised),
        ),
        Fault(
            "F28",
            "asking for logprobs changes tokens: of two that are close the second is taken",
            lambda s: s.logprobs is not None,
            Effect(flip=0.125),
        ),
        Fault(
            "F29",
            "a proxy rounds numbers to 6 decimals",
            _always,
            Effect(digits=6),
        ),
        Fault(
            "F30",
            "each part of a prompt that is not its last leaves the generator one draw behind",
            lambda s: s.temperature > 0 and s.chunked and not s.emits,
            Effect(rewind=1),
            lasting=True,
        ),
        Fault(
            "F31",
            "a prompt's logprobs come from a buffer in which another request's are",
            lambda s: s.prompt_logprobs and s.prefilling and s.width > 1,
            lambda s: Effect(stale=min(s.count - 1, 8)),
            lasting=True,
        ),
        Fault(
            "F32",
            "the first batch after the start is off",
            lambda s: s.busy == 1,
            Effect(ulps=2),
        ),
        Fault(
            "F33",
            "a neighbour that wants the logprobs of tokens that it names takes everybody's most probable ones away",
            lambda s: s.logprobs is not None and s.others_chosen > 0,
            Effect(floors=True),
        ),
    )
}


def check_names(names: Iterable[str], known: Mapping[str, Fault] = FAULTS) -> list[str]:
    """Return the names of faults and behaviours.

    Raises:
        ValueError: for a name that is neither, with those that exist.
    """
    chosen = list(names)
    for name in chosen:
        if name not in known and not takes(name):
            words = ", ".join([*known, *(behaviour.form for behaviour in BEHAVIOURS.values())])
            raise ValueError(f"faults: {name!r} is unknown; use some of {words}")
    return chosen


@dataclass
class Active:
    """What is switched on, and how often each fault changed an emitted value (the sentinel)."""

    names: list[str] = field(default_factory=list)
    struck: dict[str, int] = field(default_factory=dict)
    known: Mapping[str, Fault] = field(default_factory=lambda: FAULTS)
    faults: list[Fault] = field(init=False, default_factory=list)
    behaviours: list[tuple[Behaviour, int]] = field(init=False, default_factory=list)
    disturbances: list[tuple[Disturb, int]] = field(init=False, default_factory=list)
    distortions: list[tuple[Distort, int]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        """Switch to what was given."""
        self.switch(self.names)

    def switch(self, names: Iterable[str]) -> None:
        """Switch to exactly these.

        Raises:
            ValueError: for an unknown name.
        """
        self.names = check_names(names, self.known)
        self.faults = [self.known[name] for name in self.names if name in self.known]
        self.behaviours = [found for name in self.names if name not in self.known and (found := takes(name))]
        self.disturbances = [(item.disturb, number) for item, number in self.behaviours if item.disturb]
        self.distortions = [(item.distort, number) for item, number in self.behaviours if item.distort]

    def behaviour(self, kind: str) -> int | None:
        """Return the number of a behaviour such as ``status:429`` (0 where it has none), or None where it is off."""
        return next((number for behaviour, number in self.behaviours if behaviour.name == kind), None)

    def for_an_answer(self, chance: random.Random) -> list[tuple[Behaviour, int]]:
        """Return the behaviours that befall the next answer."""
        share = self.behaviour("sometimes")
        return [item for item in self.behaviours if share is None or chance.random() * 100 < share]

    def strike(self, situation: Situation) -> list[tuple[Fault, Effect]]:
        """Return the faults that strike one request in one step, and what each does."""
        return [(fault, fault.effect_in(situation)) for fault in self.faults if fault.strikes(situation)]

    def count(self, name: str) -> None:
        """Count a fault whose branch changed a value that was emitted: the sentinel."""
        self.struck[name] = self.struck.get(name, 0) + 1
