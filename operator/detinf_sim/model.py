"""A language model made of hashes: the distribution over the next token is a function of the whole prefix.

Nothing about it depends on a batch, so whatever differs between two answers was put there by a fault.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

CANDIDATES = 24
"""Tokens with a probability at each position; the others have none."""


def float32(value: float) -> float:
    """Return the float32 nearest to a double, as a double."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def add_ulps(value: float, ulps: int) -> float:
    """Return the float32 that lies ``ulps`` steps further from zero (for the negative numbers that logprobs are)."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return float(struct.unpack("<f", struct.pack("<I", bits + ulps))[0])


@dataclass(frozen=True)
class Distribution:
    """Candidates, most probable first: (token id, float32 logprob)."""

    items: tuple[tuple[int, float], ...]

    def greedy(self) -> int:
        """Return the most probable token."""
        return self.items[0][0]

    def sample(self, uniform: float, temperature: float, top_k: int, top_p: float) -> int:
        """Return the token at ``uniform`` of the distribution after temperature, top-k and top-p."""
        kept = self.items[:top_k] if top_k > 0 else self.items
        weights = [math.exp(logprob / temperature) for _, logprob in kept]
        total = sum(weights)
        cut, count = 0.0, 0
        for weight in weights:
            cut += weight / total
            count += 1
            if cut >= top_p:
                break
        scale = sum(weights[:count])
        position = 0.0
        for (token, _), weight in zip(kept[:count], weights, strict=False):
            position += weight / scale
            if uniform < position:
                return token
        return kept[count - 1][0]

    def logprob(self, token: int) -> float:
        """Return a token's logprob; vLLM's floor where it has none."""
        return next((logprob for candidate, logprob in self.items if candidate == token), -9999.0)


@dataclass(frozen=True)
class HashModel:
    """The model; other weights give other distributions."""

    vocabulary_size: int
    weights: bytes
    special_ids: frozenset[int] = field(default_factory=frozenset)

    def start(self, prompt: list[int]) -> bytes:
        """Return the state after a prompt."""
        state = hashlib.blake2b(self.weights, digest_size=32).digest()
        for token in prompt:
            state = self.advance(state, token)
        return state

    @staticmethod
    def advance(state: bytes, token: int) -> bytes:
        """Return the state after one more token."""
        return hashlib.blake2b(state + token.to_bytes(4, "little"), digest_size=32).digest()

    def distribution(self, state: bytes) -> Distribution:
        """Return the distribution over the next token."""
        stream = b"".join(
            hashlib.blake2b(state + bytes([block]), digest_size=64).digest() for block in range(CANDIDATES * 8 // 64)
        )
        # Some positions are sure of themselves and some are not, as in text.
        spread = 1.0 + stream[-1] / 32
        logits: dict[int, float] = {}
        for index in range(CANDIDATES):
            identifier, height = struct.unpack_from("<II", stream, index * 8)
            token = identifier % self.vocabulary_size
            logits.setdefault(token, height / 2**32 * spread)
        top = max(logits.values())
        normaliser = top + math.log(sum(math.exp(value - top) for value in logits.values()))
        items = sorted(((token, float32(value - normaliser)) for token, value in logits.items()), key=_by_probability)
        return Distribution(tuple(items))


def _by_probability(item: tuple[int, float]) -> tuple[float, int]:
    return (-item[1], item[0])


def uniform(seed: int, position: int) -> float:
    """Return the seeded uniform number of one output position, in [0, 1)."""
    data = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return int.from_bytes(data, "little") / 2**64


def load_model(folder: Path) -> HashModel:
    """Read a model folder: ``config.json``, and ``weights.bin`` where there is one.

    Raises:
        ValueError: where config.json is missing or names no vocabulary.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        size = int(config["vocab_size"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error!r}: a model folder needs config.json with vocab_size") from error
    special = {config.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    weights = folder / "weights.bin"
    return HashModel(
        size,
        weights.read_bytes() if weights.is_file() else b"detinf",
        frozenset(item for item in special if isinstance(item, int)),
    )


def make_model(folder: Path, vocabulary_size: int = 32_000) -> None:
    """Write a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 1,
        "max_position_embeddings": 32_768,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary_size,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / "weights.bin").write_bytes(hashlib.sha256(b"detinf simulated weights").digest())
