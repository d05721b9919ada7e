"""The step trace: what is written is read, and what cannot be believed is not."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.guard.trace import (
    BODY,
    BODY_OFFSET,
    CAPACITY,
    CHECKSUM_BITS,
    COUNT_OFFSET,
    HEADER,
    HEADER_BYTES,
    MOST_OWN,
    RECORD_BYTES,
    RUN,
    RUNS_PER_RECORD,
    Own,
    TraceWriter,
    checksum,
    number_word,
    own_id,
    own_of,
    parts_of,
)
from detinf.probe.trace import Trace, Window

BOOT = "0123456789abcdef0123456789abcdef"
COHORT = b"cohort-1"


def write(
    writer: TraceWriter, own: int = 0, *, waiting: int = 3, monotonic_ns: int | None = None, **values: int
) -> None:
    entries = [Own(COHORT, number, False, 1, 10 + number) for number in range(own)]  # no two of them are alike
    known = {"tokens": 8, "width": 8, "prefills": 2, "preemptions": 1, "cached_tokens": 7}
    writer.write(parts_of(entries, **(known | values)), waiting, monotonic_ns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.ring"


def window_of(path: Path, position: int = 0) -> Window:
    window = Trace(path, BOOT).since(position)
    assert window is not None
    return window


def test_steps_are_read_as_they_were_written(path: Path) -> None:
    writer = TraceWriter(path, BOOT)
    write(writer, own=2, monotonic_ns=5)
    trace = Trace(path, BOOT)
    position = trace.position()
    assert position == 1
    write(writer, tokens=11, width=1, prefills=1)
    window = trace.since(0)
    assert window is not None
    assert window.complete
    first, second = window.steps
    assert (first.step, first.monotonic_ns, first.tokens, first.width, first.prefills, first.decodes) == (
        *(1, 5, 8, 8, 2),
        6,
    )
    assert (first.waiting, first.preemptions, first.cached_tokens) == (3, 1, 7)
    assert [(own.cohort, own.number, own.prefill, own.tokens, own.computed) for own in first.own] == [
        (COHORT, 0, False, 1, 10),
        (COHORT, 1, False, 1, 11),
    ]
    assert (second.step, second.tokens, second.own) == (2, 11, ())
    assert [step.step for step in window_of(path, position).steps] == [2]


@pytest.mark.parametrize("own", [RUNS_PER_RECORD, RUNS_PER_RECORD + 1, 3 * RUNS_PER_RECORD + 5])
def test_step_with_more_of_our_own_than_a_record_holds_is_read_whole(path: Path, own: int) -> None:
    writer = TraceWriter(path, BOOT)
    write(writer, own=own)
    write(writer, own=1)
    window = window_of(path)
    assert window.complete
    assert [[item.number for item in step.own] for step in window.steps] == [list(range(own)), [0]]


@given(
    st.lists(
        st.builds(
            Own,
            st.sampled_from([COHORT, b"cohort-2"]),
            st.integers(0, 60),
            st.booleans(),
            st.integers(1, 2),
            st.sampled_from([0, 0, 7]),
        ),
        max_size=200,
    )
)
def test_requests_of_a_step_are_read_as_they_were_written_whatever_they_are_like(
    tmp_path_factory: pytest.TempPathFactory, own: list[Own]
) -> None:
    path = tmp_path_factory.mktemp("ring") / "trace.ring"
    writer = TraceWriter(path, BOOT, capacity=64)
    writer.write(parts_of(own, tokens=1, width=1), waiting=0)
    window = window_of(path)
    assert window.complete
    assert list(window.steps[0].own) == sorted(own)


def test_a_full_step_of_requests_that_are_alike_is_one_record(path: Path) -> None:
    writer = TraceWriter(path, BOOT)
    alike = (Own(COHORT, number, False, 1, 0) for number in range(MOST_OWN + 1))
    writer.write(parts_of(alike, tokens=1, width=1), waiting=0)
    assert Trace(path, BOOT).position() == 1
    assert [item.number for item in window_of(path).steps[0].own] == list(range(MOST_OWN))


def test_file_that_claims_more_requests_than_can_be_is_a_gap(path: Path) -> None:
    """The same few bytes, over and over, would otherwise become more requests than there is memory for."""
    writer = TraceWriter(path, BOOT, capacity=256)
    parts = parts_of((Own(COHORT, number, False, 1, 0) for number in range(MOST_OWN)), tokens=1, width=1)
    for _ in range(256):
        writer.write(parts, waiting=0)
    window = window_of(path)
    assert not window.complete
    assert sum(len(step.own) for step in window.steps) == 64 * MOST_OWN
    data = bytearray(path.read_bytes())
    lie = RUN.pack(COHORT, 0, MOST_OWN + 1, 0, 0, 1, 0)
    start = HEADER_BYTES + BODY_OFFSET
    body = bytes(data[start : start + BODY.size]) + lie
    data[start : start + len(body)] = body
    front = int.from_bytes(data[HEADER_BYTES : HEADER_BYTES + CHECKSUM_BITS // 8], "little")
    data[start - 4 : start] = checksum(front, zlib.crc32(body)).to_bytes(4, "little")
    path.write_bytes(data)
    assert window_of(path).steps[0].step == 2


def test_overwritten_steps_leave_a_gap_that_is_told(path: Path) -> None:
    writer = TraceWriter(path, BOOT, capacity=8)
    for _ in range(20):
        write(writer)
    assert [step.step for step in window_of(path, 12).steps] == list(range(13, 21))
    assert window_of(path, 12).complete
    older = window_of(path, 11)
    assert [step.step for step in older.steps] == list(range(13, 21))
    assert not older.complete


def test_record_that_was_not_written_whole_is_left_out_and_told(path: Path) -> None:
    writer = TraceWriter(path, BOOT)
    for _ in range(3):
        write(writer, own=4)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + RECORD_BYTES + 80] ^= 1  # one bit of an own entry
    path.write_bytes(data)
    window = window_of(path)
    assert [step.step for step in window.steps] == [1, 3]
    assert not window.complete


def test_no_bit_of_a_record_changes_unseen(path: Path) -> None:
    write(TraceWriter(path, BOOT, capacity=1), own=2)
    assert len(window_of(path).steps) == 1
    right = path.read_bytes()
    for bit in range(8 * (BODY_OFFSET + BODY.size + 2 * RUN.size)):
        data = bytearray(right)
        data[HEADER_BYTES + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert window_of(path).steps == (), bit


@given(st.integers(0, 2**12 - 1), st.integers(1, 10**12), st.integers(1, 10**12))
def test_slot_with_words_of_two_records_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, older: int, before: int, after: int
) -> None:
    """A machine with weak memory order may show the words of a slot in any mixture while it is written."""
    path = tmp_path_factory.mktemp("ring") / "trace.ring"
    writer, slots = TraceWriter(path, BOOT, capacity=1), []
    for moment, width in ((before, 2), (before + after, 3)):
        write(writer, own=1, monotonic_ns=moment, width=width, waiting=width)
        slots.append(path.read_bytes()[HEADER_BYTES:])
    words = (BODY_OFFSET + BODY.size + RUN.size) // 8
    mixed = b"".join(slots[older >> word & 1 == 0][8 * word : 8 * word + 8] for word in range(words))
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES : HEADER_BYTES + len(mixed)] = mixed
    path.write_bytes(data)
    window = window_of(path, 1)
    assert window.steps == () or mixed == slots[1][: len(mixed)]


def test_step_whose_second_part_is_missing_is_left_out_and_told(path: Path) -> None:
    writer = TraceWriter(path, BOOT)
    write(writer, own=RUNS_PER_RECORD + 1)
    write(writer)
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + RECORD_BYTES] ^= 1
    path.write_bytes(data)
    window = window_of(path)
    assert [step.step for step in window.steps] == [2]
    assert not window.complete


def test_trace_of_another_boot_is_none(path: Path) -> None:
    trace = Trace(path, BOOT)
    assert trace.position() is None
    write(TraceWriter(path, BOOT))
    assert trace.position() == 1
    write(TraceWriter(path, "f" * 32))  # the engine was restarted: another file took the name
    assert trace.position() is None
    assert trace.since(0) is None


def test_position_beyond_what_was_written_is_another_files(path: Path) -> None:
    write(TraceWriter(path, BOOT))
    assert Trace(path, BOOT).since(2) is None


def test_symbolic_link_fifo_and_folder_are_no_trace(path: Path) -> None:
    real = path.with_name("real")
    write(TraceWriter(real, BOOT))
    path.symlink_to(real)
    assert Trace(path, BOOT).position() is None
    path.unlink()
    os.mkfifo(path)
    assert Trace(path, BOOT).position() is None
    path.unlink()
    path.mkdir()
    assert Trace(path, BOOT).position() is None


def test_truncated_file_is_no_trace_and_ends_nobody(path: Path) -> None:
    writer = TraceWriter(path, BOOT)
    write(writer)
    for size in (HEADER_BYTES + RECORD_BYTES, HEADER.size, HEADER.size - 1, 0):
        os.truncate(path, size)
        assert Trace(path, BOOT).since(0) is None


def test_capacity_that_is_a_lie_is_no_trace(path: Path) -> None:
    write(TraceWriter(path, BOOT))
    data = bytearray(path.read_bytes())
    for capacity in (0, CAPACITY + 1, 2**32 - 1):
        data[12:16] = capacity.to_bytes(4, "little")
        path.write_bytes(data)
        assert Trace(path, BOOT).position() is None


def test_count_of_records_that_is_a_lie_gives_no_steps_that_were_not_written(path: Path) -> None:
    write(TraceWriter(path, BOOT, capacity=8))
    data = bytearray(path.read_bytes())
    for written in (5, 2**40, 2**48 - 1):
        put_count(data, number_word(written))
        path.write_bytes(data)
        window = window_of(path)
        assert not window.complete
        assert len(window.steps) <= 1


def put_count(data: bytearray, word: int) -> None:
    data[COUNT_OFFSET : COUNT_OFFSET + 8] = word.to_bytes(8, "little")


def test_count_of_records_that_was_written_by_half_is_no_count(path: Path) -> None:
    writer = TraceWriter(path, BOOT)
    write(writer)
    data = bytearray(path.read_bytes())
    put_count(data, number_word(0xFF) & ~0xFFFF | number_word(0x100) & 0xFFFF)
    path.write_bytes(data)
    assert Trace(path, BOOT).position() is None
    assert Trace(path, BOOT).since(0) is None
    write(writer)
    assert Trace(path, BOOT).position() == 2


@given(st.binary(max_size=300), st.integers(0, HEADER_BYTES + 8 * RECORD_BYTES - 1))
def test_any_bytes_give_steps_that_were_written_or_a_gap(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "trace.ring"
    writer = TraceWriter(path, BOOT, capacity=8)
    for _ in range(6):
        write(writer, own=3, monotonic_ns=9)
    written = window_of(path).steps
    data = bytearray(path.read_bytes())
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    window = Trace(path, BOOT).since(0)
    if window is not None:
        assert set(window.steps) <= set(written)
        assert not window.complete or window.steps == written[: len(window.steps)]


def test_reader_beside_a_writer_sees_no_step_that_was_not_written(path: Path) -> None:
    """A process writes as fast as it can, through many turns of a small ring, while we read."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom detinf.guard.trace import Own, TraceWriter, parts_of\n"
        f"writer = TraceWriter(Path(sys.argv[1]), {BOOT!r}, capacity=64)\nprint('started', flush=True)\n"
        "for number in range(1, 200_001):\n"
        "    own = [Own(b'cohort-1', number % 7, False, 1, number)] * (number % 5)\n"
        "    writer.write(parts_of(own, tokens=number, width=number % 5), waiting=0)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    trace, seen = Trace(path, BOOT), 0
    while process.poll() is None:
        position = trace.position()
        assert position is not None
        window = trace.since(max(0, position - 32))
        assert window is not None
        for step in window.steps:
            assert step.tokens == step.step
            assert len(step.own) == step.width == step.step % 5
            assert all(own.computed == step.step for own in step.own)
        seen += len(window.steps)
    process.stdout.close()
    assert process.returncode == 0
    assert seen > 0


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        (f"cmpl-{own_id(COHORT, 12)}-0-0a1b2c3d", (COHORT, 12)),
        (f"cmpl-{own_id(COHORT, 12)}-3-0a1b2c3d", (COHORT, 15)),  # the fourth prompt of a list
        (f"cmpl-{own_id(COHORT, 12)}-3", (COHORT, 15)),
        (f"chatcmpl-{own_id(COHORT, 0)}", (COHORT, 0)),
        (f"chatcmpl-{own_id(COHORT, 7)}-12345678", (COHORT, 7)),
        (f"chatcmpl-{own_id(COHORT, 7)}-1234abcd", (COHORT, 7)),
        ("cmpl-0123456789abcdef-3", None),
        ("cmpl-detinf-0123456789ABCDEF-3", None),
        (f"cmpl-detinf-{COHORT.hex()}-12345", None),
    ],
)
def test_requests_of_our_own_are_known_by_their_ids(identifier: str, expected: tuple[bytes, int] | None) -> None:
    assert own_of(identifier) == expected
