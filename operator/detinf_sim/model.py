"""A language model made of hashes: the distribution over the next token is a function of the whole prefix.

Nothing about it depends on a batch, so whatever differs between two answers was put there by a fault. Logits are
exact bfloat16 numbers on a grid, as an engine's are: equal ones are frequent, also among the most probable.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import struct
from array import array
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from sys import byteorder

CANDIDATES = 24
"""Tokens that can be emitted at each position; the others lie far below them."""

STATES = 16_384
"""Distributions that are kept, the most recently used: 3 KiB each. Probes ask the same references for ever."""

STEPS = (1 / 128, 1 / 64, 1 / 32, 1 / 16)
"""Distances between neighbouring logits: some positions are sure of themselves and some are not, as in text."""

_WEIGHTS = tuple(tuple(math.exp(-level * step) for level in range(256)) for step in STEPS)
_STREAM = struct.Struct(f"<{CANDIDATES}I{CANDIDATES}BB")
FLOOR = -9999.0
"""What vLLM puts where there is no finite logprob."""


def float32(value: float) -> float:
    """Return the float32 nearest to a double, as a double."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def add_ulps(value: float, ulps: int) -> float:
    """Return the float32 that lies ``ulps`` steps further from zero (for the negative numbers that logprobs are)."""
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return float(struct.unpack("<f", struct.pack("<I", bits + ulps))[0])


@dataclass(frozen=True, slots=True)
class Distribution:
    """Candidates, most probable first and equal ones by their id: (token id, float32 logprob)."""

    items: tuple[tuple[int, float], ...]

    def logprob(self, token: int) -> float:
        """Return a candidate's logprob; vLLM's floor for any other token."""
        return next((logprob for candidate, logprob in self.items if candidate == token), FLOOR)


@lru_cache(maxsize=STATES)
def distribution_of(state: bytes, vocabulary_size: int) -> Distribution:
    """Return the distribution over the next token after a prefix."""
    numbers = _STREAM.unpack(hashlib.shake_128(state).digest(_STREAM.size))
    step = numbers[-1] % len(STEPS)
    levels: dict[int, int] = {}
    for token, level in zip(numbers[:CANDIDATES], numbers[CANDIDATES:], strict=False):
        levels.setdefault(token % vocabulary_size, -level)
    ordered = sorted((level, token) for token, level in levels.items())
    top = ordered[0][0]
    weights, size = _WEIGHTS[step], STEPS[step]
    normaliser = math.log(sum([weights[level - top] for level, _ in ordered]))
    exact = [(top - level) * size - normaliser for level, _ in ordered]
    form = f"<{len(exact)}f"
    values = struct.unpack(form, struct.pack(form, *exact))
    return Distribution(tuple(zip((token for _, token in ordered), values, strict=True)))


@dataclass(frozen=True)
class HashModel:
    """The model; other weights give other distributions."""

    vocabulary_size: int
    weights: bytes
    special_ids: frozenset[int] = field(default_factory=frozenset)

    def read(self, tokens: list[int], adapter: str = "") -> hashlib.blake2b:
        """Return what has read tokens: its digest is the state, and ``update(packed(token))`` reads one more.

        The state depends on the tokens alone, and not on which of them were a prompt.
        """
        reader = hashlib.blake2b(self.weights, digest_size=16, key=adapter.encode()[:64])
        reader.update(array("I", tokens).tobytes())
        return reader

    def distribution(self, state: bytes) -> Distribution:
        """Return the distribution over the next token."""
        return distribution_of(state, self.vocabulary_size)

    def prompt_logprobs(self, tokens: list[int], adapter: str = "") -> tuple[float | None, ...]:
        """Return the logprob of each token of a prompt after those before it; None for the first, as in vLLM.

        A token that is no candidate gets one below the candidates', which the whole prefix decides, too.
        """
        reader = self.read([], adapter)
        values: list[float | None] = [None]
        for before, token in itertools.pairwise(tokens):
            reader.update(packed(before))
            state = reader.digest()
            # Each is used once: not worth a place among the distributions that are kept.
            found = distribution_of.__wrapped__(state, self.vocabulary_size).logprob(token)
            if found == FLOOR:
                digest = hashlib.blake2b(state + packed(token), digest_size=4).digest()
                found = float32(-20 - int.from_bytes(digest, "little") / 2**28)
            values.append(found)
        return tuple(values)


def packed(token: int) -> bytes:
    """Return the bytes of a token, as ``HashModel.read`` reads them."""
    return token.to_bytes(4, byteorder)


def uniform(seed: int | str, position: int) -> float:
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
