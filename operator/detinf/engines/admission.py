"""Which releases of vLLM-Ascend are admitted, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase


class Decision(StrEnum):
    """What becomes of a release."""

    SUPPORTED = "Supported"
    PRE_RELEASE = "PreRelease"
    NO_PROFILE = "NoProfile"
    DEGRADED = "Degraded"
    REFUSED = "Refused"


@dataclass(frozen=True)
class Admission:
    """What is known of some releases."""

    versions: tuple[str, ...]
    """Versions, or patterns with ``*``; the first entry that matches counts."""
    decision: Decision
    reason: str
    profile: str | None = None


RELEASES = (
    Admission(
        ("0.23.0", "0.23.0.post1"),
        Decision.SUPPORTED,
        "strict collectives and deterministic algorithms; serves only with the attested operator library",
        "vllm-ascend-0.23",
    ),
    Admission(
        ("0.26.0rc1",),
        Decision.PRE_RELEASE,
        "still the operator library 1.0.0, with the gaps of 0.23",
        "vllm-ascend-0.26rc",
    ),
    Admission(
        ("0.21.0rc*", "0.22.1rc*", "0.23.0rc*", "0.24.0rc*", "0.25.1rc*"),
        Decision.NO_PROFILE,
        "a pre-release that no profile is held against; use 0.23.0.post1, or give the chart a profile of your own",
    ),
    Admission(
        ("0.18.0", "0.19.*", "0.20.*"),
        Decision.DEGRADED,
        "its operator library was never published, so attention is not batch-invariant: it could not be attested",
    ),
    Admission(
        ("0.13.*", "0.14.*", "0.15.*", "0.16.*", "0.17.*", "0.18.0rc*"),
        Decision.REFUSED,
        "HCCL_DETERMINISTIC=true at most in its older ones, and attention, sum and norm are native",
    ),
    Admission(
        tuple(f"0.{minor}.*" for minor in range(13)),
        Decision.REFUSED,
        "it has no batch invariance at all",
    ),
)

UNKNOWN = Admission(
    ("*",),
    Decision.NO_PROFILE,
    "a release that this one does not know: with other symbols and another operator library, a profile for 0.23 would "
    "attest the wrong things",
)


def admission(version: str) -> Admission:
    """Return what is known of a release of vLLM-Ascend."""
    matching = (entry for entry in RELEASES if any(fnmatchcase(version, pattern) for pattern in entry.versions))
    return next(matching, UNKNOWN)
