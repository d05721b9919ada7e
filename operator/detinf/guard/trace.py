"""The step trace: what every step of the engine's scheduler really held, in a ring file of a fixed layout.

One process writes it, from the scheduler; the probe reads it (``detinf.probe.trace``). It is the ground truth of what
ran together (witness W0): metrics and timing can only suggest it.

A file is one header page and ``capacity`` slots of ``RECORD_BYTES``. Requests of our own are written in runs: those of
one cohort with consecutive numbers that a step treats alike, such as all its decodes, are one entry. So a step takes
one slot, and more only where it holds more than ``RUNS_PER_RECORD`` of them. A slot carries the number of its record,
which says whether it was overwritten, and a checksum, which says whether it was written whole: the file is shared
between processes without a lock, and machines with weak memory order (aarch64) may show a record's bytes in any order.

Requests of our own are those whose id holds ``detinf-<16 hex digits>-<number>``: the probe sends that as X-Request-Id,
and vLLM's ids keep it (``cmpl-<id>-<place in a list of prompts>-<8 hex>``, measured on 0.32). The prompts of a list
have consecutive numbers.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MAGIC = b"DETINFT2"
HEADER = struct.Struct("<8sIIIIQ32s")
"""magic, record bytes, capacity, process id, reserved, start on CLOCK_MONOTONIC in ns, boot."""
COUNT_OFFSET = 128
"""8 bytes of the machine's own order, stored at once: how many records were written, with check bits (``count_word``).

Where the newest record is; each record says itself what it is."""
COUNT_BITS = 48
HEADER_BYTES = 4096
HEAD = struct.Struct("<QQQIIIIIIIHHHH")
RECORD = struct.Struct(HEAD.format + "I")
"""index, step, CLOCK_MONOTONIC ns, tokens, width, prefills, decodes, waiting, preemptions, cached tokens, part, runs in
this record, runs in the step, reserved, checksum of all before and of the runs."""
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


def checksum(head: bytes, runs: bytes) -> int:
    """Return the checksum of a record: of its runs, and of its head without the checksum."""
    return zlib.crc32(head[:-4], zlib.crc32(runs))


@dataclass(frozen=True)
class Part:
    """The runs of one record, made ready; a step that holds the same as the one before it has the same parts."""

    runs: bytes
    count: int
    in_step: int
    """Runs of all the step's parts."""
    checksum: int


def parts_of(own: Iterable[Own]) -> list[Part]:
    """Return the parts of a step: at least one, and no more than ``MOST_OWN`` requests."""
    runs: list[bytes] = []
    alike: tuple[bytes, bool, int, int] | None = None
    first = length = 0
    for cohort, number, prefill, tokens, computed in sorted(own)[:MOST_OWN]:
        if number == first + length and (cohort, prefill, tokens, computed) == alike:
            length += 1
            continue
        if alike:
            runs.append(_run(alike, first, length))
        alike, first, length = (cohort, prefill, tokens, computed), number, 1
    if alike:
        runs.append(_run(alike, first, length))
    parts = []
    for start in range(0, max(1, len(runs)), RUNS_PER_RECORD):
        listed = runs[start : start + RUNS_PER_RECORD]
        joined = b"".join(listed)
        parts.append(Part(joined, len(listed), len(runs), zlib.crc32(joined)))
    return parts


def _run(alike: tuple[bytes, bool, int, int], first: int, length: int) -> bytes:
    cohort, prefill, tokens, computed = alike
    return RUN.pack(cohort, first, length, prefill, 0, tokens, computed)


def count_word(records: int) -> int:
    """Return the word that says how many records there are: 48 bits of it, and 16 that check them."""
    count = records & (1 << COUNT_BITS) - 1
    return count | ((count ^ count >> 16 ^ count >> 32 ^ 0xFFFF) & 0xFFFF) << COUNT_BITS


def count_of(word: bytes) -> int | None:
    """Return how many records a word says there are; None for a word that is none."""
    value = int.from_bytes(word, sys.byteorder)
    count = value & (1 << COUNT_BITS) - 1
    return count if len(word) == 8 and count_word(count) == value else None


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
        # One store of 8 bytes; struct would store them one by one, and this process may be halted in between.
        self._count = memoryview(self._map)[COUNT_OFFSET : COUNT_OFFSET + 8].cast("Q")
        self._count[0] = count_word(0)
        draft.replace(path)

    def write(
        self,
        *,
        tokens: int,
        width: int,
        prefills: int,
        waiting: int,
        preemptions: int,
        cached_tokens: int,
        own: Sequence[Part],
        monotonic_ns: int | None = None,
    ) -> None:
        """Write one step; ``own`` are its parts, one at least."""
        self.steps += 1
        now = time.monotonic_ns() if monotonic_ns is None else monotonic_ns
        for number, part in enumerate(own):
            # One by one: unpacking a tuple here costs a step three microseconds.
            head = HEAD.pack(
                self.records,
                self.steps,
                now,
                tokens,
                width,
                prefills,
                width - prefills,
                waiting,
                preemptions,
                cached_tokens,
                number,
                part.count,
                part.in_step,
                0,
            )
            offset = HEADER_BYTES + self.records % self.capacity * RECORD_BYTES
            whole = head + zlib.crc32(head, part.checksum).to_bytes(4, "little") + part.runs
            self._map[offset : offset + len(whole)] = whole
            self.records += 1
        self._count[0] = count_word(self.records)

    def remove(self) -> None:
        """Take the file away: a trace that nobody continues must not be read as one in which nothing happened."""
        self._count.release()
        self._map.close()
        self.path.unlink(missing_ok=True)
