"""Faults as data: when they strike, what they change, and a sentinel that proves they did.

The numbers are those of ``docs/reference/faults.md``. To add one: a line in ``FAULTS``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Situation:
    """What a fault may look at: one request in one step."""

    width: int
    """Requests in the step."""
    tokens: int
    """Tokens scheduled in the step."""
    prefills: int
    decodes: int
    row: int
    """The request's place in the step."""
    request: str
    step: int


@dataclass(frozen=True)
class Fault:
    """One way to be wrong."""

    name: str
    words: str
    strikes: Callable[[Situation], bool]
    ulps: Callable[[Situation], int] = lambda _situation: 1
    """How far the logprob moves; at least 1."""
    flips_token: bool = False
    """Whether the second most probable token is emitted instead."""
    probability: float = 1.0
    """Share of requests that it strikes."""


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(
            "F01",
            "output depends on the batch width from 9 up",
            lambda situation: situation.width >= 9,
            lambda situation: 1 + situation.width % 3,
        ),
        Fault(
            "F20",
            "one replica wrong: a bad device or other weights; every answer is off",
            lambda _situation: True,
            lambda _situation: 64,
        ),
        Fault(
            "F22",
            "batch invariance off: every width gives other bits",
            lambda situation: situation.width >= 2,
            lambda situation: situation.width,
        ),
    )
}

BEHAVIOURS = ("serialise", "garbage", "truncate", "restart")
"""Ways to be unhelpful without being wrong; also ``status:<code>`` and ``round:<digits>``."""


def check_names(names: Iterable[str]) -> list[str]:
    """Return the names of faults and behaviours.

    Raises:
        ValueError: for a name that is neither, with those that exist.
    """
    chosen = list(names)
    for name in chosen:
        kind, _, number = name.partition(":")
        if name not in FAULTS and name not in BEHAVIOURS and not (kind in {"status", "round"} and number.isdigit()):
            known = [*FAULTS, *BEHAVIOURS, "status:<code>", "round:<digits>"]
            raise ValueError(f"faults: {name!r} is unknown; use some of {', '.join(known)}")
    return chosen


@dataclass
class Active:
    """The faults that are switched on, and how often each changed an emitted value (the sentinel)."""

    names: list[str] = field(default_factory=list)
    struck: dict[str, int] = field(default_factory=dict)

    def switch(self, names: Iterable[str]) -> None:
        """Switch to exactly these.

        Raises:
            ValueError: for an unknown name.
        """
        self.names = check_names(names)

    def behaviour(self, kind: str) -> int | None:
        """Return the number of a behaviour such as ``status:429`` (0 where it has none), or None where it is off."""
        for name in self.names:
            head, _, number = name.partition(":")
            if head == kind:
                return int(number or 0)
        return None

    def strike(self, situation: Situation) -> tuple[int, bool, list[str]]:
        """Return (ulps to add, whether the token flips, the faults that want it) for one emission."""
        striking = [
            fault
            for name in self.names
            if (fault := FAULTS.get(name)) and fault.strikes(situation) and _chosen(fault, situation.request)
        ]
        ulps = sum(fault.ulps(situation) for fault in striking)
        return ulps, any(fault.flips_token for fault in striking), [fault.name for fault in striking]

    def count(self, names: Iterable[str]) -> None:
        """Count faults whose branch changed a value that was emitted: the sentinel."""
        for name in names:
            self.struck[name] = self.struck.get(name, 0) + 1


def _chosen(fault: Fault, request: str) -> bool:
    if fault.probability >= 1:
        return True
    digest = hashlib.blake2b(f"{fault.name}:{request}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64 < fault.probability
