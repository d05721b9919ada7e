"""What an engine is started with, how long its steps take, and what one process of it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The engine's arguments that shape a step."""

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 8192
    max_model_len: int = 8192
    chunked_prefill: bool = False
    prefix_caching: bool = False
    block_size: int = 128
    """Tokens of a KV block; 128 is the default on Ascend."""
    kv_blocks: int = 0
    """KV blocks; 0: as many as it takes that nobody is ever preempted."""
    speculative_tokens: int = 0
    """Draft tokens of each decode; 0: no speculative decoding."""
    capture_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128)
    """Widths for which there is a captured graph; a step of decodes alone is padded to the next."""

    def check(self) -> None:
        """Refuse what vLLM refuses, too.

        Raises:
            ValueError: for limits under which a prompt would wait for ever.
        """
        if not self.chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) is smaller than max_model_len "
                f"({self.max_model_len}) without chunked prefill; raise it to at least max_model_len"
            )
        if self.kv_blocks and self.kv_blocks * self.block_size < self.max_model_len:
            raise ValueError(
                f"max_model_len ({self.max_model_len}) is larger than the KV cache of {self.kv_blocks} blocks of "
                f"{self.block_size} tokens; lower max_model_len or raise kv_blocks"
            )


@dataclass(frozen=True)
class StepCost:
    """The stated step-time model, in seconds: a base, and a cost per token of each kind."""

    base: float = 0.002
    per_prefill_token: float = 0.00001
    per_decode_token: float = 0.00005

    def seconds(self, prefill_tokens: int, decode_tokens: int) -> float:
        """Return how long a step takes."""
        return self.base + self.per_prefill_token * prefill_tokens + self.per_decode_token * decode_tokens


@dataclass(frozen=True)
class Lifetime:
    """What a process is beside its arguments. A healthy engine's answers do not depend on it."""

    launch: int = 0
    """What chance decided when it started, 64 bits."""
    replica: int = 0
    started: float = 0.0
    """On the clock that ``step`` is given."""

    @staticmethod
    def of_boot(boot: str, replica: int = 0, started: float = 0.0) -> Lifetime:
        """Return the lifetime that a boot's name decides."""
        digest = hashlib.blake2b(boot.encode(), digest_size=8).digest()
        return Lifetime(int.from_bytes(digest, "little"), replica, started)
