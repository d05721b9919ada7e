"""The canonical encoding: controller, guard and probe must hash the same bytes.

JSON with sorted keys, no white space, UTF-8, and no floats. A float has more than one decimal spelling, and its
shortest one is a property of the printer; a logprob is therefore carried as the hexadecimal of its float32 bits.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

MAX_INTEGER = 2**53 - 1  # what every JSON reader keeps exactly


class CanonicalError(ValueError):
    """A value that has no canonical encoding; the message names its path and what to use instead."""


def _check_scalar(value: Any, path: str) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CanonicalError(
                f"{path}: {value!r} holds half a surrogate pair; carry whole characters or hexadecimal"
            ) from None
    elif isinstance(value, float):
        raise CanonicalError(f"{path}: {value!r} is a float; carry its bits, or an integer in a smaller unit")
    elif not (value is None or isinstance(value, int)):
        raise CanonicalError(f"{path}: {type(value).__name__} has no JSON form")
    elif isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise CanonicalError(
            f"{path}: an integer of {value.bit_length()} bits is beyond 2**53 - 1; carry it as a string"
        )


def _check(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CanonicalError(f"{path}: the key {key!r} is not a string")
            _check_scalar(key, f"{path} (a key)")
            _check(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]")
    else:
        _check_scalar(value, path)


def _plain(value: Any) -> bool:
    """Return whether everything in a value is of JSON's own types and exact; its strings are encoded later.

    What nearly every value is, found out without a path to each part: that is for the message to somebody whose value
    it is not.
    """
    kind = type(value)
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_plain, value.values()))
    if kind is list:
        return all(map(_plain, value))
    if kind is int:
        return bool(-MAX_INTEGER <= value <= MAX_INTEGER)
    return kind is str or kind is bool or value is None


def encode(value: Any) -> bytes:
    """Return the canonical bytes of a JSON value.

    Raises:
        CanonicalError: for floats, integers beyond 2**53 - 1, lone surrogates, keys that are no strings, other types,
            and values nested too deeply.
    """
    try:
        if not _plain(value):
            _check(value, "$")
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        try:
            return text.encode()
        except UnicodeEncodeError:
            _check(value, "$")
            raise
    except RecursionError:
        raise CanonicalError("$: nested too deeply; carry it flatter") from None


def digest_bytes(data: bytes) -> str:
    """Return ``sha256:<64 hex>`` of bytes that are already canonical."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest(value: Any) -> str:
    """Return ``sha256:<64 hex>`` of the canonical bytes of a JSON value."""
    return digest_bytes(encode(value))


def hex_of(digest_text: str) -> str:
    """Return the hexadecimal part of a digest, for ConfigMap keys and labels, which take no colon."""
    return digest_text.removeprefix("sha256:")


def short(digest_text: str) -> str:
    """Return the first ten hexadecimal digits of a digest: names and labels."""
    return hex_of(digest_text)[:10]
