"""Quantities in the one spelling that the API server stores: ``1024Mi`` comes back as ``1Gi``, ``0.5`` as ``500m``.

A manifest that spells it otherwise never equals what is read back, and would be written again for ever. What others
wrote, such as a node's kubelet, is read in every spelling that Kubernetes takes.
"""

from __future__ import annotations

import functools
import math
import re
from fractions import Fraction

FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
ANY_FORM = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)|[eE]([+-]?[0-9]{1,3}))?"
)
"""The grammar in apimachinery's pkg/api/resource/quantity.go; an exponent of four digits is no amount of anything."""
DECIMAL = ("m", "", "k", "M", "G", "T", "P", "E")
BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
MILLI = Fraction(1, 1000)
"""The first decimal suffix: amounts of resources are rounded up to it."""
SMALL = {"n": Fraction(1, 10**9), "u": Fraction(1, 10**6)}
LARGEST = 2**63 - 1
"""Kubernetes caps what is more."""


@functools.lru_cache(maxsize=4096)
def parse(value: int | str) -> Fraction:
    """Return a quantity's amount, in every spelling that Kubernetes takes: signs, exponents, ``n`` and ``u`` too.

    Args:
        value: a number or a text from anybody's manifest.

    Raises:
        ValueError: for a text that is no quantity.
    """
    match = ANY_FORM.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is no quantity; Kubernetes writes them as 2, 500m, 16Gi or 1e3")
    number, suffix, exponent = Fraction(match[1]), match[2] or "", match[3]
    if exponent is not None:
        scale = Fraction(10) ** int(exponent)
    elif suffix in BINARY[1:]:
        scale = Fraction(1024 ** BINARY.index(suffix))
    else:
        scale = SMALL.get(suffix) or MILLI * 1000 ** DECIMAL.index(suffix)
    return min(number * scale, Fraction(LARGEST))


def canonical_quantity(value: int | str) -> str:
    """Return a quantity as the API server writes it.

    Args:
        value: a number, or a text that the resource's schema lets in.

    Raises:
        ValueError: for a text that is no quantity.
    """
    match = FORM.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is no quantity; write it as 2, 500m or 16Gi")
    number, suffix = Fraction(match[1]), match[2] or ""
    if suffix in BINARY[1:]:
        amount = number * 1024 ** BINARY.index(suffix)
        # What is no whole number of bytes, or less than 1024 of them, is spelled in decimal units.
        if amount >= 1024 and amount.denominator == 1:
            return _largest(amount.numerator, 1024, BINARY)
    else:
        amount = number * MILLI * 1000 ** DECIMAL.index(suffix)
    return _largest(math.ceil(amount / MILLI), 1000, DECIMAL)


def _largest(amount: int, base: int, suffixes: tuple[str, ...]) -> str:
    """Return a whole number of the largest unit that it divides."""
    if amount == 0:
        return "0"
    place = 0
    while amount % base == 0 and place < len(suffixes) - 1:
        amount //= base
        place += 1
    return f"{amount}{suffixes[place]}"
