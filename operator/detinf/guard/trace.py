"""The step trace: what every step of the engine's scheduler really held, in a ring file of a fixed layout.

One process writes it, from the scheduler; the probe reads it (``detinf.probe.trace``). It is the ground truth of what
ran together (witness W0): metrics and timing can only suggest it.

A file is one header page and ``capacity`` slots of ``RECORD_BYTES``. Requests of our own are written in runs: those of
one cohort with consecutive numbers that a step treats alike, such as all its decodes, are one entry. So a step takes
one slot, and more only where it holds more than ``RUNS_PER_RECORD`` of them. A slot carries the number of its record,
which says whether it was overwritten, and a checksum, which says whether it was written whole: the file is shared
between processes without a lock, and machines with weak memory order (aarch64) may show a record's bytes in any order.

A slot has two halves. What is new in each step stands in the first, which is written anew; what a step has in common
with the one before it, as a rule all the rest, was made ready once (``Part``). The forward pass has emptied the
processor's caches when a step is recorded, so that the cost is in how much code and memory is looked at: the first half
is one number, with a remainder for a checksum, which asks nothing of struct and zlib.

Requests of our own are those whose id holds ``detinf-<16 hex digits>-<number>``: the probe sends that as X-Request-Id,
and vLLM's ids keep it (``cmpl-<id>-<place in a list of prompts>-<8 hex>``, measured on 0.32). The prompts of a list
have consecutive numbers.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAGIC = b"DETINFT3"
HEADER = struct.Struct("<8sIIIIQ32s")
"""magic, record bytes, capacity, process id, reserved, start on CLOCK_MONOTONIC in ns, boot."""
COUNT_OFFSET = 128
"""8 bytes, stored at once: the number of the newest record. It says where that is; each record says itself what it
is."""
HEADER_BYTES = 4096
FRONT = struct.Struct("<QQQII")
"""number of the record, from 1 on, as ``number_word``; step; CLOCK_MONOTONIC ns; waiting; checksum of all before and of
the body (``checksum``)."""
BODY_OFFSET = FRONT.size
CHECKSUM_BITS = 224
"""Where the checksum begins in the number that the front is."""
PRIME = (1 << 30) - 35
"""The largest below 2**30, which is one digit of Python's numbers."""
BODY = struct.Struct("<IIIIIIHHHH")
"""tokens, width, prefills, decodes, preemptions, cached tokens, part, runs in this record, runs in the step, reserved;
the runs follow."""
RUN = struct.Struct("<8sHHHHII")
"""cohort, first number, how many numbers from it on, 1 for prefills, reserved, and of each: tokens scheduled, tokens
computed before (of a prefill; 0 for a decode)."""
RUNS_PER_RECORD = 40
RECORD_BYTES = 1024
CAPACITY = 8192
MOST_OWN = 1024
"""Requests of our own in one step at most; more are not ours."""

OWN_ID = re.compile(r"detinf-([0-9a-f]{16})-([0-9]{1,4})(?:-([0-9]{1,4}))?(?![0-9a-f])")


class Own(NamedTuple):
    """One request of our own in one step."""

    cohort: bytes
    """8 bytes, random for each cohort."""
    number: int
    prefill: bool
    tokens: int
    """Tokens scheduled for it in the step."""
    computed: int
    """Tokens of it that were computed before the step; 0 for a decode."""


@dataclass(frozen=True)
class Step:
    """One step of the scheduler."""

    step: int
    """Counted from 1 in each process; steps that scheduled nothing are not counted."""
    monotonic_ns: int
    tokens: int
    width: int
    """Requests in the step, whoever sent them."""
    prefills: int
    decodes: int
    waiting: int
    """Requests that waited after it."""
    preemptions: int
    """Requests that were put back to the queue for it."""
    cached_tokens: int
    """Prompt tokens of requests that began with it and came from the prefix cache."""
    own: tuple[Own, ...]


def own_of(request_id: str) -> tuple[bytes, int] | None:
    """Return (cohort, number) of a request of our own, else None."""
    found = OWN_ID.search(request_id)
    return (bytes.fromhex(found[1]), int(found[2]) + int(found[3] or 0)) if found else None


def own_id(cohort: bytes, number: int) -> str:
    """Return the X-Request-Id of a request of our own."""
    return f"detinf-{cohort.hex()}-{number}"


def checksum(front: int, body: int) -> int:
    """Return the checksum of a record, from its front without one and its body's; no field alone changes unseen."""
    return (front + body) % PRIME


class Part(NamedTuple):
    """The body of one record, made ready; a step that holds the same as the one before it has the same parts."""

    body: bytes
    """With its runs."""
    checksum: int
    """CRC-32 of it."""


def parts_of(
    own: Iterable[Own], *, tokens: int, width: int, prefills: int = 0, preemptions: int = 0, cached_tokens: int = 0
) -> list[Part]:
    """Return the parts of a step (see ``Step``): at least one, and no more than ``MOST_OWN`` requests of our own."""
    runs: list[bytes] = []
    alike: tuple[bytes, bool, int, int] | None = None
    first = length = 0
    for one in sorted(own)[:MOST_OWN]:
        like = (one.cohort, one.prefill, one.tokens, one.computed)
        if one.number == first + length and like == alike:
            length += 1
            continue
        if alike:
            runs.append(_run(alike, first, length))
        alike, first, length = like, one.number, 1
    if alike:
        runs.append(_run(alike, first, length))
    parts: list[Part] = []
    for start in range(0, max(1, len(runs)), RUNS_PER_RECORD):
        listed = runs[start : start + RUNS_PER_RECORD]
        counts = (tokens, width, prefills, width - prefills, preemptions, cached_tokens)
        body = BODY.pack(*counts, len(parts), len(listed), len(runs), 0) + b"".join(listed)
        parts.append(Part(body, zlib.crc32(body)))
    return parts


def _run(alike: tuple[bytes, bool, int, int], first: int, length: int) -> bytes:
    cohort, prefill, tokens, computed = alike
    return RUN.pack(cohort, first, length, prefill, 0, tokens, computed)


def number_word(number: int) -> int:
    """Return a record's number with check bits: 48 bits of it, and below them the lowest 16 inverted."""
    return number << 16 | ~number & 0xFFFF


def number_of(word: bytes) -> int | None:
    """Return the number that a word holds; None for a word that is none, or was not stored whole."""
    value = int.from_bytes(word, "little")
    return value >> 16 if len(word) == 8 and number_word(value >> 16) == value else None


class TraceWriter:
    """Writes the ring; used by one thread of one process."""

    def __init__(self, path: Path, boot: str, capacity: int = CAPACITY) -> None:
        """Make the file, whole before anybody can see it.

        Raises:
            OSError: where there is no room for it: a hole in the file would end the engine with SIGBUS later.
        """
        self.capacity = capacity
        self.records = 0
        self.steps = 0
        self.path = path
        size = HEADER_BYTES + capacity * RECORD_BYTES
        draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.fchmod(descriptor, 0o644)  # whatever the umask: the probe is another user
            os.posix_fallocate(descriptor, 0, size)
            # Every page is made now: the first store into one would cost its step some microseconds.
            self._map = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        except BaseException:
            draft.unlink()
            raise
        finally:
            os.close(descriptor)
        HEADER.pack_into(
            self._map, 0, MAGIC, RECORD_BYTES, capacity, os.getpid(), 0, time.monotonic_ns(), boot.encode()[:32]
        )
        self._map[COUNT_OFFSET : COUNT_OFFSET + 8] = number_word(0).to_bytes(8, "little")
        draft.replace(path)

    def write(self, parts: Sequence[Part], waiting: int, monotonic_ns: int | None = None) -> None:
        """Write one step: its parts, one at least, and how many requests waited after it."""
        self.steps = step = self.steps + 1
        now = time.monotonic_ns() if monotonic_ns is None else monotonic_ns
        ring, whole = self._map, b""
        for body, checked in parts:
            offset = HEADER_BYTES + self.records % self.capacity * RECORD_BYTES
            self.records = number = self.records + 1
            # number_word and checksum, without calls.
            front = number << 16 | ~number & 0xFFFF | step << 64 | now << 128 | waiting << 192
            whole = (front | (front + checked) % PRIME << CHECKSUM_BITS).to_bytes(BODY_OFFSET, "little") + body
            ring[offset : offset + len(whole)] = whole
        # A slice of 8 bytes is one store; struct stores them one by one, and this process may be halted in between.
        ring[COUNT_OFFSET : COUNT_OFFSET + 8] = whole[:8]

    def remove(self) -> None:
        """Take the file away: a trace that nobody continues must not be read as one in which nothing happened."""
        self._map.close()
        self.path.unlink(missing_ok=True)
