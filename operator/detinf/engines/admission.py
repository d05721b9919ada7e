"""Which releases of vLLM-Ascend are admitted, and why the others are not."""

from __future__ import annotations

import re
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
        ("0.27.1rc1",),
        Decision.PRE_RELEASE,
        "prefill and decode have attention calls of their own; still the operator library 1.0.0",
        "vllm-ascend-0.27rc",
    ),
    Admission(
        ("0.28.0rc1",),
        Decision.PRE_RELEASE,
        "the operator library 2.0.0; RMSNorm calls an operator that batch invariance does not replace",
        "vllm-ascend-0.28rc",
    ),
    Admission(
        ("0.29.0rc1",),
        Decision.PRE_RELEASE,
        "the operator library 2.0.0; RMSNorm calls an operator that batch invariance does not replace",
        "vllm-ascend-0.29rc",
    ),
    Admission(
        ("0.30.0rc2",),
        Decision.PRE_RELEASE,
        "CANN 9.2.0; RMSNorm calls an operator that batch invariance does not replace",
        "vllm-ascend-0.30rc",
    ),
    Admission(
        ("0.30.0rc1",),
        Decision.NO_PROFILE,
        "its official image did not build as it was meant to, says the vendor; use 0.30.0rc2, which is the same code",
    ),
    Admission(
        ("0.26.0rc2",),
        Decision.NO_PROFILE,
        "an image alone: no package of it was published that a profile could be held against; use 0.26.0rc1",
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
    "a release that this one does not know: which symbols it replaces, with which operator library, which "
    "configuration it takes and which packages it is made for was not looked up, so another release's profile would "
    "attest the wrong things",
)

NO_VERSION = Admission(("",), Decision.NO_PROFILE, "no version of vLLM-Ascend: give one such as 0.23.0.post1")


VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:\.?(rc|post|dev)(\d+))?")
KINDS = {"dev": 0, "rc": 1, None: 2, "post": 3}


def _order(version: str) -> tuple[int, ...] | None:
    """Return what versions are compared by; None for what is no version."""
    found = VERSION.fullmatch(version)
    if found is None:
        return None
    numbers = (int(found[1]), int(found[2]), int(found[3]))
    return (*numbers, KINDS[found[4]], int(found[5] or 0))


def admission(version: str) -> Admission:
    """Return what is known of a release of vLLM-Ascend; a ``v`` before it, as in an image's tag, is none of it."""
    if _order(version) is None:
        return NO_VERSION
    plain = version.removeprefix("v")
    matching = (entry for entry in RELEASES if any(fnmatchcase(plain, pattern) for pattern in entry.versions))
    return next(matching, UNKNOWN)


def nearest(version: str) -> str | None:
    """Return the profile of the release before a version, or of the oldest one; None for what is no version."""
    wanted = _order(version)
    if wanted is None:
        return None
    known = sorted(
        (order, entry.profile)
        for entry in RELEASES
        if entry.profile is not None
        for listed in entry.versions
        if (order := _order(listed)) is not None
    )
    before = [profile for order, profile in known if order <= wanted]
    return before[-1] if before else known[0][1]
