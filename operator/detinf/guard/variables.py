"""Every variable of the engine's environment is accounted for: none that could change a bit is left unseen. Pure.

A variable is exactly one of these:

- the plan's (``environment.set``): held against the plan, which is in the fingerprint as a whole;
- the guard's own, or the pod's names for itself (``OWN``);
- unrecorded: the plan says that it differs by pod or cannot change outputs (``environment.unrecorded``, which is the
  profile's ``allowedVariables``, ``unrecordedVariables`` and ``podVariables``);
- recorded: name and value are part of Tier N, so that engines which differ in it have different fingerprints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from detinf.guard.canonical import digest_bytes
from detinf.guard.layout import BOOT_VARIABLE, PLAN_VARIABLE, SHARED_VARIABLE, TRACE_VARIABLE

OWN = frozenset(
    {
        *(BOOT_VARIABLE, PLAN_VARIABLE, SHARED_VARIABLE, TRACE_VARIABLE),
        *("POD_NAMESPACE", "POD_NAME", "POD_UID", "NODE_NAME"),
    }
)
"""The guard's words to the engine's processes, and what the operator's pods are told of themselves."""

SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH|COOKIE|SIGNATURE", re.IGNORECASE)
"""In a name: its value is recorded by digest, never in plain."""
CREDENTIALS = re.compile(r"://[^/@\s]*@")
"""In a value, such as a proxy's: user and password."""
DIGEST = "sha256:"
OBSERVED = "environment."
LONGEST = 4096
"""Characters of a value that is recorded as it is; a longer one is recorded by digest."""


def unrecorded(name: str, value: str, patterns: Iterable[str]) -> bool:
    """Return whether the plan leaves a variable unrecorded.

    Args:
        name: its name.
        value: its value.
        patterns: ``NAME`` with any value, ``NAME=VALUE`` with this one alone, ``PREFIX*`` for a family of names.
    """
    listed = frozenset(patterns)
    return _is_unrecorded(name, value, listed, _families(listed))


def _families(patterns: frozenset[str]) -> tuple[str, ...]:
    return tuple(item[:-1] for item in patterns if item.endswith("*") and "=" not in item)


def _is_unrecorded(name: str, value: str, patterns: frozenset[str], families: tuple[str, ...]) -> bool:
    # No name has a "=", and a family is none: its "*" would be of a variable that is really called so.
    named = name in patterns and not name.endswith("*")
    return named or f"{name}={value}" in patterns or name.startswith(families)


def written(name: str, value: str) -> str:
    """Return a value as it is recorded: itself, or its digest where it may be secret, is long or is no text.

    The name is hashed with it, so that a value which two variables share does not show. A value that looks like a
    digest is hashed too: what is recorded says which of the two it is.
    """
    plain = not SECRET.search(name) and not CREDENTIALS.search(value) and len(value) <= LONGEST
    if plain and not value.startswith(DIGEST) and _is_text(value):
        return value
    return digest_bytes(f"{name}={value}".encode(errors="surrogateescape"))


def name_written(name: str) -> str:
    """Return a name as it is recorded: one that is no UTF-8 as ``=`` and its bytes in hexadecimal."""
    return name if _is_text(name) else "=" + name.encode(errors="surrogateescape").hex()


def problems(expected: Mapping[str, str], seen: Mapping[str, str]) -> list[str]:
    """Return what an engine was started with otherwise than the guard started it, by recorded environments."""
    return [
        f"environment: {told(name, *pair)}; remove whatever sets it between the guard and the engine"
        for name, pair in differences(expected, seen).items()
    ]


def observed(expected: Mapping[str, str], seen: Mapping[str, str]) -> dict[str, str]:
    """Return what a process of the engine has set by itself: JSON text by ``environment.NAME``, null where it is gone.

    Not compared, neither between ranks nor between engines: released engines set ports, folders and devices of their
    own there (``PROMETHEUS_MULTIPROC_DIR`` in vLLM, ``ASCEND_LOCAL_COMM_RES`` in vllm-ascend), and what sets them is
    the engine's own code.
    """
    return {OBSERVED + name: json.dumps(pair[1]) for name, pair in differences(expected, seen).items()}


def recorded(
    environment: Mapping[str, str], planned: Mapping[str, str], patterns: Iterable[str] = ()
) -> dict[str, str]:
    """Return what of an environment is part of the identity: value as it is recorded, by name.

    Args:
        environment: an engine's, once set-up scripts have run and the plan was applied.
        planned: the plan's variables.
        patterns: the plan's, of what is not recorded (``unrecorded``).
    """
    listed = frozenset(patterns)
    families = _families(listed)
    return {
        name_written(name): written(name, value)
        for name, value in sorted(environment.items())
        if name not in planned and name not in OWN and not _is_unrecorded(name, value, listed, families)
    }


def differences(expected: Mapping[str, str], seen: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return (expected, seen) by name where two recorded environments differ; None for a variable that is not set."""
    return {
        name: (expected.get(name), seen.get(name))
        for name in sorted({*expected, *seen})
        if expected.get(name) != seen.get(name)
    }


def told(name: str, expected: str | None, seen: str | None) -> str:
    """Return what a recorded variable is and was to be, for people."""
    return f"{name} is {_shown(seen)}, expected {_shown(expected)}"


def _shown(value: str | None) -> str:
    return "unset" if value is None else value if value.startswith(DIGEST) else repr(value)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
