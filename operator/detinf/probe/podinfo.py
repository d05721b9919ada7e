"""Annotations of the pod as the downward API shows them: one ``key="value"`` line each, quoted as Go does.

``FormatMap`` of Kubernetes' ``pkg/fieldpath`` writes values with ``strconv.Quote`` (1.36, and ``%q`` before it): what
cannot be printed is escaped, so that a value never spans lines.
"""

from __future__ import annotations

import re
from pathlib import Path

ANNOTATIONS = "annotations"
_PART = re.compile(
    r"""[^"\\\n]+|\\(?:(?P<letter>[abfnrtv"\\])|x(?P<byte>[0-9a-f]{2})|u(?P<short>[0-9a-f]{4})|U(?P<long>[0-9a-f]{8}))"""
)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}


def unquoted(text: str) -> str:
    """Return what a quoted text stands for.

    Raises:
        ValueError: where it is none that Go writes.
    """
    if len(text) < 2 or not text.startswith('"') or not text.endswith('"'):
        raise ValueError(f"{text[:40]!r} does not stand in quotes")
    found, place, end = bytearray(), 1, len(text) - 1
    while place < end:
        part = _PART.match(text, place, end)
        if part is None:
            raise ValueError(f"{text[place : place + 10]!r} is no part of a quoted text")
        found += _meant(part)
        place = part.end()
    return found.decode()


def _meant(part: re.Match[str]) -> bytes:
    if part["byte"]:
        return bytes([int(part["byte"], 16)])
    if part["letter"]:
        return _LETTERS[part["letter"]].encode()
    number = part["short"] or part["long"]
    if not number:
        return part[0].encode()
    if int(number, 16) > 0x10FFFF:
        raise ValueError(f"{part[0]} is no character")
    return chr(int(number, 16)).encode()


def annotation(podinfo: Path, key: str) -> str | None:
    """Return an annotation of the pod as it is shown now; None where there is none.

    Raises:
        ValueError: where its value cannot be read.
    """
    try:
        lines = (podinfo / ANNOTATIONS).read_text(encoding="utf-8").split("\n")
    except OSError:
        return None
    start = f"{key}="
    line = next((line for line in lines if line.startswith(start)), None)
    return None if line is None else unquoted(line.removeprefix(start))
