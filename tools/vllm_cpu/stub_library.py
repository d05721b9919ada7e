"""Stand-ins for the CUDA libraries that the published torch links to and that a CPU never calls.

The torch of the package registry is the CUDA build. Its libraries name a dozen CUDA libraries (some 3.9 GB) as
needed, and Python loads extensions with all symbols bound, so ``import torch`` fails without them although nothing of
them ever runs on a CPU. One small shared library that defines exactly the missing symbols takes their place under each
of their names. Every symbol is the same function: it says on standard error what happened and ends the process with
127, so a call that should not happen cannot pass in silence.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

STUB_NAME = "libdetinf_no_cuda.so"
MESSAGE = b"detinf: a CUDA function was called in an installation without CUDA libraries\n"

# Only these, never what the C library or Python itself defines: a stand-in for those would be called.
CUDA_SYMBOL = re.compile(r"(cu(blas|dnn|fft|file|pti|rand|solver|sparse|[A-Z])|nccl|nvshmem|nvrtc)")
SYSTEM_LIBRARY = re.compile(r"(ld-linux|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.)")

PAGE = 4096
SHT_DYNAMIC, SHT_DYNSYM, SHT_VERNEED, SHT_VERSYM = 6, 11, 0x6FFFFFFE, 0x6FFFFFFF
DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME = 1, 4, 5, 6, 10, 11, 14
DT_VERSYM, DT_VERDEF, DT_VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
GLOBAL, FUNCTION = 1, 2
R, W, X = 4, 2, 1


@dataclass(frozen=True, order=True)
class Symbol:
    """A dynamic symbol; the version is empty where it has none."""

    name: str
    version: str = ""


@dataclass(frozen=True)
class Library:
    """What one shared library links to, defines, and needs from elsewhere (weak symbols left out)."""

    needed: frozenset[str]
    defined: frozenset[str]
    undefined: frozenset[Symbol]


@dataclass(frozen=True)
class Section:
    """One section of an ELF file."""

    kind: int
    offset: int
    size: int
    link: int


def read_library(path: Path) -> Library:
    """Read the dynamic symbols of an x86-64 shared library.

    Raises:
        ValueError: where the file is none.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:5] != b"\x7fELF\x02":
            raise ValueError(f"{path} is no 64-bit ELF file")
        (table,) = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        sections = [
            Section(fields[1], fields[4], fields[5], fields[6])
            for fields in (struct.unpack_from("<IIQQQQIIQQ", data, table + index * size) for index in range(count))
        ]
        versions = _versions(data, sections)
        numbers = [
            number
            for section in sections
            if section.kind == SHT_VERSYM
            for (number,) in struct.iter_unpack("<H", data[section.offset : section.offset + section.size])
        ]
        needed: set[str] = set()
        defined: set[str] = set()
        undefined: set[Symbol] = set()
        for section in sections:
            content = data[section.offset : section.offset + section.size] if section.kind in {6, 11} else b""
            strings = sections[section.link].offset
            if section.kind == SHT_DYNAMIC:
                needed |= {
                    _string(data, strings + value)
                    for tag, value in struct.iter_unpack("<qQ", content)
                    if tag == DT_NEEDED
                }
            elif section.kind == SHT_DYNSYM:
                for position, (name, info, _, where, _, _) in enumerate(struct.iter_unpack("<IBBHQQ", content)):
                    text = _string(data, strings + name)
                    if where:
                        defined.add(text)
                    elif info >> 4 == GLOBAL:
                        undefined.add(Symbol(text, versions.get(numbers[position], "") if numbers else ""))
    return Library(frozenset(needed), frozenset(defined), frozenset(undefined))


def _versions(data: mmap.mmap, sections: list[Section]) -> dict[int, str]:
    """Return the names of the versions that a library needs, by their number in its symbol table."""
    found: dict[int, str] = {}
    for section in sections:
        if section.kind != SHT_VERNEED:
            continue
        strings, entry, following = sections[section.link].offset, section.offset, 1
        while following:
            _, count, _, first, following = struct.unpack_from("<HHIII", data, entry)
            item = entry + first
            for _ in range(count):
                _, _, number, name, step = struct.unpack_from("<IHHII", data, item)
                found[number] = _string(data, strings + name)
                item += step
            entry += following
    return found


def _string(data: mmap.mmap, offset: int) -> str:
    return data[offset : data.find(b"\0", offset)].decode()


def missing(libraries: Mapping[str, Library]) -> tuple[set[str], set[Symbol]]:
    """Return the names of the libraries that are needed and absent, and the CUDA symbols that nobody defines.

    Args:
        libraries: the libraries that are there, by file name; those of the system are known.
    """
    needed = {name for library in libraries.values() for name in library.needed}
    defined = {symbol for library in libraries.values() for symbol in library.defined}
    wanted = {symbol for library in libraries.values() for symbol in library.undefined}
    absent = {name for name in needed - set(libraries) if not SYSTEM_LIBRARY.match(name)}
    return absent, {symbol for symbol in wanted if symbol.name not in defined and CUDA_SYMBOL.match(symbol.name)}


def _hash(name: bytes) -> int:
    """Return the System V hash of a symbol's name."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value


def _code(address: int, message: int) -> bytes:
    """Return ``write(2, message, length); exit_group(127)``."""
    after_lea = address + 17
    return b"".join(
        (
            b"\xb8\x01\x00\x00\x00",  # mov eax, 1 (write)
            b"\xbf\x02\x00\x00\x00",  # mov edi, 2
            b"\x48\x8d\x35" + struct.pack("<i", message - after_lea),  # lea rsi, [rip + message]
            b"\xba" + struct.pack("<I", len(MESSAGE)),  # mov edx, length
            b"\x0f\x05",  # syscall
            b"\xb8\xe7\x00\x00\x00",  # mov eax, 231 (exit_group)
            b"\xbf\x7f\x00\x00\x00",  # mov edi, 127
            b"\x0f\x05",  # syscall
        )
    )


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


class _Strings:
    """A string table under construction."""

    def __init__(self) -> None:
        self.data = bytearray(b"\0")

    def add(self, text: str) -> int:
        offset = len(self.data)
        self.data += text.encode() + b"\0"
        return offset


def _version_definitions(versions: list[str], strings: _Strings) -> bytes:
    """Return the versions that the library defines; number 1 is the library itself, the others follow from 2."""
    parts = []
    for number, name in enumerate([STUB_NAME, *versions], start=1):
        step = 0 if number > len(versions) else 28
        parts.append(struct.pack("<HHHHIII", 1, number == 1, number, 1, _hash(name.encode()), 20, step))
        parts.append(struct.pack("<II", strings.add(name), 0))
    return b"".join(parts)


def stub_library(symbols: Iterable[Symbol]) -> bytes:
    """Return an x86-64 shared library that defines these symbols, all as one function that ends the process."""
    wanted = sorted(set(symbols))
    versions = sorted({symbol.version for symbol in wanted if symbol.version})
    strings = _Strings()
    soname = strings.add(STUB_NAME)
    names = [strings.add(symbol.name) for symbol in wanted]
    definitions = _version_definitions(versions, strings)
    count = len(wanted) + 1

    # Where everything lies: the file is mapped as it is, so offsets are addresses.
    symbol_table = 64 + 56 * 4
    hash_table = symbol_table + 24 * count
    version_table = hash_table + 4 * (2 + 2 * count)
    definition_table = _aligned(version_table + 2 * count, 8)
    string_table = definition_table + len(definitions)
    message = string_table + len(strings.data)
    code = _aligned(message + len(MESSAGE), 16)
    machine_code = _code(code, message)
    text_end = code + len(machine_code)
    dynamic = _aligned(text_end, PAGE)

    entries = [
        (DT_SONAME, soname),
        (DT_HASH, hash_table),
        (DT_STRTAB, string_table),
        (DT_SYMTAB, symbol_table),
        (DT_STRSZ, len(strings.data)),
        (DT_SYMENT, 24),
        (DT_VERSYM, version_table),
        (DT_VERDEF, definition_table),
        (DT_VERDEFNUM, len(versions) + 1),
        (0, 0),
    ]
    dynamic_section = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    programs = [
        (PT_LOAD, R | X, 0, text_end, PAGE),
        (PT_LOAD, R | W, dynamic, len(dynamic_section), PAGE),
        (PT_DYNAMIC, R | W, dynamic, len(dynamic_section), 8),
        (PT_GNU_STACK, R | W, 0, 0, 16),
    ]
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, len(programs), 64, 0, 0)
    for kind, flags, offset, size, alignment in programs:
        header += struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, size, size, alignment)

    # One bucket for each symbol, and chains for the collisions.
    buckets, chains = [0] * count, [0] * count
    for position, symbol in enumerate(wanted, start=1):
        bucket = _hash(symbol.name.encode()) % count
        chains[position], buckets[bucket] = buckets[bucket], position
    entry = (GLOBAL << 4 | FUNCTION, 0, 1, code, len(machine_code))
    pieces = {
        0: header,
        symbol_table: bytes(24) + b"".join(struct.pack("<IBBHQQ", name, *entry) for name in names),
        hash_table: struct.pack(f"<{2 + 2 * count}I", count, count, *buckets, *chains),
        version_table: struct.pack(
            f"<{count}H", 0, *(versions.index(symbol.version) + 2 if symbol.version else 1 for symbol in wanted)
        ),
        definition_table: definitions,
        string_table: bytes(strings.data),
        message: MESSAGE,
        code: machine_code,
        dynamic: dynamic_section,
    }
    image = bytearray(dynamic + len(dynamic_section))
    for offset, piece in pieces.items():
        image[offset : offset + len(piece)] = piece
    return bytes(image)


def write_stubs(libraries: Iterable[Path], target: Path) -> int:
    """Write the stand-in to a folder, under the name of each library that is missing; return how many those are.

    Args:
        libraries: the shared libraries that are there.
        target: folder on the search path of those libraries.
    """
    known = {path.name: read_library(path) for path in libraries if not path.is_symlink() and path.name != STUB_NAME}
    absent, symbols = missing(known)
    (target / STUB_NAME).write_bytes(stub_library(symbols))
    for name in sorted(absent):
        (target / name).unlink(missing_ok=True)
        (target / name).symlink_to(STUB_NAME)
    return len(absent)
