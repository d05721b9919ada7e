"""Reads the step trace that the engine's scheduler writes (``detinf.guard.trace``).

The file is shared with the engine's container, and its content is believed no further than its checksums: it may be
of another boot, cut off, half written, overwritten while it is read, or no ring at all. It is read with ``pread`` and
never mapped, since the pages of a mapped file that somebody truncates end the reader with SIGBUS.
"""

from __future__ import annotations

import itertools
import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from detinf.guard.trace import (
    BODY,
    BODY_OFFSET,
    CHECKSUM_BITS,
    COUNT_OFFSET,
    FRONT,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    MOST_OWN,
    RECORD_BYTES,
    RUN,
    RUNS_PER_RECORD,
    Own,
    Step,
    checksum,
    number_of,
    number_word,
)

MOST_RECORDS = 65_536
"""Capacity of a file that is read at all."""
MOST_OWN_READ = 65_536
"""Requests of our own in all steps of a window at most: a file may claim more of them than there is memory for."""
READINGS = 3
"""How often the count of records is read until it is whole; it is stored at once, so that once is enough."""


@dataclass(frozen=True)
class Window:
    """The steps between two moments."""

    steps: tuple[Step, ...]
    complete: bool
    """Whether every step between the two moments is here."""


@dataclass(frozen=True)
class Trace:
    """The trace of one boot."""

    path: Path
    boot: str

    def position(self) -> int | None:
        """Return how many records there are; None where there is no trace of this boot."""
        opened = self._open()
        if opened is None:
            return None
        descriptor, _ = opened
        try:
            return _written(descriptor)
        finally:
            os.close(descriptor)

    def since(self, position: int) -> Window | None:
        """Return the steps that were recorded from a position on; None where there is no trace of this boot."""
        opened = self._open()
        if opened is None:
            return None
        descriptor, capacity = opened
        try:
            written = _written(descriptor)
            if written is None or written < position:
                return None
            first = max(position, written - capacity)
            records = _records(descriptor, capacity, range(first, written))
        finally:
            os.close(descriptor)
        steps = _steps([record for record in records if record is not None])
        consecutive = all(after.step == before.step + 1 for before, after in itertools.pairwise(steps))
        return Window(tuple(steps), complete=first == position and None not in records and consecutive)

    def _open(self) -> tuple[int, int] | None:
        """Return (descriptor, capacity) of a file that is the ring of this boot."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            capacity = _capacity(descriptor, self.boot)
        except OSError:
            capacity = None
        if capacity is None:
            os.close(descriptor)
            return None
        return descriptor, capacity


def _capacity(descriptor: int, boot: str) -> int | None:
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        return None
    head = os.pread(descriptor, HEADER.size, 0)
    if len(head) < HEADER.size:
        return None
    magic, size, capacity, _process, _reserved, _started, of_boot = HEADER.unpack(head)
    known = magic == MAGIC and size == RECORD_BYTES and of_boot.rstrip(b"\0") == boot.encode()[:32]
    whole = 0 < capacity <= MOST_RECORDS and state.st_size >= HEADER_BYTES + capacity * RECORD_BYTES
    return int(capacity) if known and whole else None


def _written(descriptor: int) -> int | None:
    for _ in range(READINGS):
        if (count := number_of(os.pread(descriptor, 8, COUNT_OFFSET))) is not None:
            return count
    return None


@dataclass(frozen=True)
class _Record:
    """One slot that was written whole."""

    step: Step
    part: int
    runs: int
    runs_in_step: int


def _records(descriptor: int, capacity: int, indices: Iterable[int]) -> list[_Record | None]:
    found: list[_Record | None] = []
    room = MOST_OWN_READ
    for index in indices:
        record = _record(descriptor, capacity, index, min(room, MOST_OWN))
        found.append(record)
        room -= len(record.step.own) if record else 0
    return found


def _record(descriptor: int, capacity: int, index: int, most_own: int) -> _Record | None:
    """Return the record of an index; None where the slot does not hold it, whole, or it has more of our own."""
    data = os.pread(descriptor, RECORD_BYTES, HEADER_BYTES + index % capacity * RECORD_BYTES)
    if len(data) < BODY_OFFSET + BODY.size:
        return None
    front, body = int.from_bytes(data[: CHECKSUM_BITS // 8], "little"), data[BODY_OFFSET:]
    number, step, when, waiting, stored = FRONT.unpack_from(data)
    tokens, width, prefills, decodes, preemptions, cached, *numbers = BODY.unpack_from(body)
    part, count, in_step, _reserved = numbers
    body = body[: BODY.size + count * RUN.size]
    if number != number_word(index + 1) or count > RUNS_PER_RECORD:
        return None
    if stored != checksum(front, zlib.crc32(body)):
        return None
    runs = list(RUN.iter_unpack(body[BODY.size :]))
    if sum(length for _, _, length, *_ in runs) > most_own:
        return None
    own = tuple(
        Own(cohort, number, bool(prefill), scheduled, computed)
        for cohort, first, length, prefill, _, scheduled, computed in runs
        for number in range(first, first + length)
    )
    found = Step(step, when, tokens, width, prefills, decodes, waiting, preemptions, cached, own)
    return _Record(found, part, count, in_step)


def _steps(records: list[_Record]) -> list[Step]:
    """Return the steps of which every part is there, in their order."""
    steps: list[Step] = []
    open_step: Step | None = None
    missing = 0
    for record in records:
        if record.part == 0:
            open_step, missing = record.step, record.runs_in_step - record.runs
        elif open_step is not None and record.step.step == open_step.step:
            open_step = replace(open_step, own=open_step.own + record.step.own)
            missing -= record.runs
        else:
            open_step = None
        if open_step is not None and missing <= 0:
            steps.append(open_step)
            open_step = None
    return steps
