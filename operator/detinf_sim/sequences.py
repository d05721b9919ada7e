"""What is asked of the engine, what it emits, and what it remembers in between."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from detinf_sim.effects import Effect
from detinf_sim.model import HashModel, packed


@dataclass
class Request:
    """One request for one sequence, in vLLM's words. The engine never changes it."""

    identifier: str
    prompt: list[int]
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    """0 or -1: all."""
    top_p: float = 1.0
    seed: int = 0
    logprobs: int | None = 1
    """How many of the most probable tokens are listed beside the chosen one; None: no logprobs at all."""
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    cache_salt: str = ""
    prompt_logprobs: bool = False
    adapter: str = ""
    """The LoRA adapter; none for the base model."""
    chosen_logprobs: bool = False
    """Whether it wants the logprobs of tokens that it names (``logprob_token_ids``)."""
    server: int = 0
    """Which API server took it: each counts what it delivers itself."""

    @property
    def cuts(self) -> bool:
        """Whether top-k or top-p is in use: with temperature 0 neither is."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1)

    @property
    def penalised(self) -> bool:
        """Whether what was said before weighs on what is said next."""
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1


class Emission(NamedTuple):
    """One token of one request."""

    request: str
    token: int
    logprob: float
    """0 where none was asked for."""
    top: tuple[tuple[int, float], ...]
    finish_reason: str | None
    prompt_logprobs: tuple[float | None, ...] | None = None
    """With the first token, where they were asked for."""
    cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""


class Sequence:
    """A request on its way through the engine."""

    __slots__ = (
        "blocks",
        "computed",
        "corrupted",
        "first_hit",
        "hit",
        "identifier",
        "keys",
        "named",
        "output",
        "penalised",
        "preemptions",
        "reader",
        "reading",
        "request",
        "room",
        "state",
        "total",
        "wounds",
    )

    def __init__(self, request: Request, model: HashModel) -> None:
        """Queue a request."""
        self.request = request
        self.identifier = request.identifier
        self.penalised = request.penalised
        self.reader: hashlib.blake2b = model.read(request.prompt, request.adapter)
        self.state: bytes = self.reader.digest()
        self.output: list[int] = []
        self.total = len(request.prompt)
        """Tokens of the prompt and the output."""
        self.computed = 0
        """Tokens in the KV cache."""
        self.reading = True
        """Whether the next step of it is a prefill: from its start, or from a preemption on, to its next token."""
        self.hit = 0
        """Tokens that the prefix cache gave when it was last admitted."""
        self.first_hit = -1
        """The same when it was first admitted, as in ``usage``; -1 before that."""
        self.preemptions = 0
        self.blocks: list[int] = []
        self.room = 0
        """Tokens that its blocks have room for."""
        self.keys: list[bytes] = []
        """The prefix cache's keys of its full blocks, as far as they were needed."""
        self.named = 0
        """Its blocks that others can find."""
        self.corrupted = False
        """Whether it had NaN logits."""
        self.wounds: dict[str, Effect] = {}
        """What lasting faults have left, by their names."""

    def append(self, token: int) -> None:
        """Take a token as the next one."""
        self.output.append(token)
        self.total += 1
        self.reader.update(packed(token))
        self.state = self.reader.digest()

    def tokens(self, start: int, end: int) -> list[int]:
        """Return a slice of prompt and output."""
        prompt = self.request.prompt
        edge = len(prompt)
        if end <= edge:
            return prompt[start:end]
        return prompt[start:] + self.output[max(start - edge, 0) : end - edge]
