"""What a fault may look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One request in one step. The defaults are those of a request that decodes alone in a plain engine."""

    # The step
    width: int = 1
    """Requests in the step."""
    tokens: int = 1
    """Tokens scheduled in the step."""
    prefills: int = 0
    decodes: int = 1
    padding: int = 0
    """Rows that the captured graph adds to a step of decodes alone."""
    budget: int = 8192
    """``--max-num-batched-tokens``."""
    aborted: int = 0
    """Running requests whose clients left since the step before."""

    # Its requests' parameters, without this one's
    others_logprobs: int = 0
    """The most logprobs that another request in the step wants; 0 where none does."""
    others_penalised: int = 0
    others_chosen: int = 0
    """Other requests in the step that want the logprobs of tokens that they name."""
    others_adapters: int = 0
    """Requests in the step with another LoRA adapter than this one's."""

    # The request in the step
    request: str = ""
    row: int = 0
    above: int = 0
    """Length of the sequence in the row above; 0 in the first."""
    prefilling: bool = False
    start: int = 0
    """Tokens in its KV cache before the step."""
    count: int = 1
    """Tokens scheduled for it."""
    emits: bool = True
    """Whether it emits a token in the step: not where its prompt goes on."""
    verified: int = 0
    """Draft tokens of the same step that were verified before this emission (speculative decoding)."""
    block_size: int = 128
    hit: int = 0
    """Tokens that the prefix cache gave when it was last admitted."""
    preemptions: int = 0

    # Its parameters
    temperature: float = 0.0
    cuts: bool = False
    """Whether top-k or top-p is in use."""
    seed: int = 0
    logprobs: int | None = 1
    prompt_logprobs: bool = False
    penalised: bool = False
    adapter: str = ""

    # The process and its world
    step: int = 1
    """Counted from 1 in each process."""
    busy: int = 1
    """How often the process has begun to work after it had nothing to do: 1 in the first batch after its start."""
    age: float = 0.0
    """Seconds since the process started."""
    launch: int = 0
    """What chance decided when the process started: 64 bits, the same for its whole life."""
    replica: int = 0
    idle_peers: int = 0
    """Data-parallel ranks that have nothing to do in the step, and run it with padding."""

    @property
    def length(self) -> int:
        """Tokens in its KV cache after the step."""
        return self.start + self.count

    @property
    def chunked(self) -> bool:
        """Whether the step holds a part of its prompt that is not the whole rest since its admission."""
        return self.prefilling and (self.start > self.hit or not self.emits)
