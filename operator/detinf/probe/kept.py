"""The books of a boot in the probe's own folder: a probe that starts again goes on where it was.

They are bound to the boot, its plan and its fingerprint, as the gate's pass is (``readiness.py``): a restarted engine
inherits nothing. What cannot be read is not there; the gate's pass stands without it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from detinf.documents import Cell, Document, DocumentError, Evidence, Reply
from detinf.probe.attested import Attested

BOOKS_FILE = "books.json"
LARGEST_BYTES = 4 * 1024**2
"""Of a file that is read: the folder holds 16 MiB, and books come to some tens of KiB."""


class Kept(Document):
    """What is kept of the books. It never leaves the pod."""

    KIND: ClassVar[str] = "books"

    boot: str
    plan_digest: str
    fingerprint: str
    references_digest: str | None = None
    baseline_digest: str | None = None
    """What the cells were held against."""
    cells: list[Cell]
    evidence: Evidence | None = None
    further: list[Evidence]
    failing: list[tuple[str, str]]
    passed: list[tuple[str, str]]
    alone: list[str]
    """What was looked at since the first divergence (``hints.Looked``)."""
    gate_failed: str | None = None
    """Why this boot never serves."""
    replies: list[Reply]
    whole: int
    longest: int
    partial: str | None = None
    """How the engine has read our prompts (``excluded.Prefills``)."""
    solo_turn: int
    turn: int
    """Where the watch's turns stand."""


def write_kept(state: Path, kept: Kept) -> None:
    """Keep the books, whole or not at all.

    Raises:
        OSError: where the folder cannot be written.
    """
    draft = state / f"{BOOKS_FILE}.draft"
    draft.write_bytes(kept.canonical())
    os.replace(draft, state / BOOKS_FILE)  # noqa: PTH105 - the one call that is known to be atomic


def read_kept(state: Path, attested: Attested) -> Kept | None:
    """Return the books of this boot; None where there are none, or none that can be read."""
    try:
        with (state / BOOKS_FILE).open("rb") as file:
            kept = Kept.parse(file.read(LARGEST_BYTES))
    except (OSError, DocumentError):
        return None
    own = (attested.boot, attested.plan_digest, attested.fingerprint)
    return kept if (kept.boot, kept.plan_digest, kept.fingerprint) == own else None
