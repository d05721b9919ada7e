"""Digests of an answer, one for each thing that may differ, so that unequal digests name it (probing.md 6.3).

SHA-256 over a binary record: a tag, the prompt's length and ids, the answer's length, for each position what the
digest is about, and the finish reason. All integers are 32 bits, little-endian; text is preceded by its length.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from detinf.documents import AnswerDigests
from detinf.probe.observation import Observation

VERSION = 1


def digests(prompt_ids: Sequence[int], observation: Observation) -> AnswerDigests:
    """Return the digests of an answer to a prompt."""
    ids, bits = observation.token_ids, observation.logprob_bits
    pairs = [number for pair in zip(ids, bits, strict=True) for number in pair]
    tops: list[int] = []
    for place in observation.top:
        tops.append(len(place))
        tops.extend(number for entry in place for number in entry)
    return AnswerDigests(
        ids=_digest(b"ids", prompt_ids, ids, ids, observation.finish_reason),
        logprobs=_digest(b"logprobs", prompt_ids, ids, pairs, observation.finish_reason),
        top=_digest(b"top", prompt_ids, ids, [*pairs, *tops], observation.finish_reason) if tops else None,
    )


def digest48(digest: str) -> int:
    """Return the first 48 bits of a digest: a double, as Prometheus has, holds them exactly."""
    return int(digest.removeprefix("sha256:")[:12], 16)


def _digest(tag: bytes, prompt_ids: Sequence[int], ids: Sequence[int], record: Sequence[int], finish: str) -> str:
    name = finish.encode()
    head = struct.pack("<4I", VERSION, len(tag), len(prompt_ids), len(ids))
    body = struct.pack(f"<{len(prompt_ids) + len(record)}I", *prompt_ids, *record)
    data = head + tag + body + struct.pack("<I", len(name)) + name
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
