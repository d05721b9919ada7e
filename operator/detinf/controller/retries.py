"""When what was refused is tried again: less and less often, and at once where something about it changed.

It is memory of this process alone, and nothing depends on it: a restarted controller tries everything once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from detinf.cluster.port import Manifest
from detinf.controller.actions import Action, Delete, Undone
from detinf.guard.canonical import digest

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 30.0
"""A quota that was raised tells nobody; so long it may take until that is seen."""


@dataclass(frozen=True)
class _Refused:
    undone: Undone
    wanted: object
    """What was tried on what: another one is tried at once."""
    count: int
    until: float


def _tried(action: Action, live: Manifest | None) -> object:
    version = None if live is None else live["metadata"].get("resourceVersion")
    return (action.uid if isinstance(action, Delete) else digest(action.manifest)), version


class Retries:
    """What was refused, by the resource and the object that it is about."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start with nothing; ``clock`` returns monotonic seconds."""
        self.clock = clock
        self._refused: dict[Hashable, dict[tuple[str, str], _Refused]] = {}

    def held(self, key: Hashable, action: Action, live: Manifest | None) -> Undone | None:
        """Return what came of an action the last time, where it is too early to try the same again."""
        known = self._refused.get(key, {}).get(action.about)
        if known is None or known.wanted != _tried(action, live) or self.clock() >= known.until:
            return None
        return known.undone

    def refused(self, key: Hashable, undone: Undone, live: Manifest | None) -> None:
        """Remember a refusal."""
        wanted = _tried(undone.action, live)
        known = self._refused.setdefault(key, {}).get(undone.action.about)
        count = known.count + 1 if known is not None and known.wanted == wanted else 0
        until = self.clock() + min(FIRST_SECONDS * 2.0 ** min(count, 10), LONGEST_SECONDS)
        self._refused[key][undone.action.about] = _Refused(undone, wanted, count, until)

    def keep(self, key: Hashable, about: set[tuple[str, str]]) -> None:
        """Forget what was done, or is no longer wanted."""
        kept = {item: found for item, found in self._refused.pop(key, {}).items() if item in about}
        if kept:
            self._refused[key] = kept
