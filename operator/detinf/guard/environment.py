"""The engine's environment: set from the plan, and verified on what the engine process really has."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from detinf.guard.errors import RefusedError
from detinf.guard.plan import Plan
from detinf.guard.scripts import sourced

EXEC_SECONDS = 10
"""What a process may take from the start of an exec to the kernel's showing its environment; some milliseconds."""
SHOWN_CHARACTERS = 200
"""So much of an overridden value is recorded."""


def problems(plan: Plan, environment: Mapping[str, str]) -> list[str]:
    """Return what in an environment is not as the plan says."""
    found = []
    for name, value in sorted(plan.variables.items()):
        seen = environment.get(name)
        if seen != value:
            shown = "unset" if seen is None else repr(seen)
            found.append(f"environment: {name} is {shown}, the plan says {value!r}; remove whatever sets it")
    found += [
        f"environment: {name} is {environment[name]!r}, the plan says unset; remove whatever sets it"
        for name in sorted(plan.unset)
        if name in environment
    ]
    return found


def otherwise(plan: Plan, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what an environment sets otherwise than the plan; what it leaves to us is not otherwise."""
    return {
        name: _text(environment[name])[:SHOWN_CHARACTERS]
        for name in sorted({*plan.variables, *plan.unset} & environment.keys())
        if environment[name] != plan.variables.get(name)
    }


def _text(value: str) -> str:
    """Return a value as an attestation can carry it: bytes that are no UTF-8 are written out."""
    return value.encode(errors="surrogateescape").decode(errors="backslashreplace")


def planned(plan: Plan, environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with the plan's variables set and unset, whatever it had."""
    return {name: value for name, value in environment.items() if name not in plan.unset} | plan.variables


@dataclass(frozen=True)
class Prepared:
    """The environment for an engine, and what it would have had without the plan."""

    variables: dict[str, str]
    overridden: dict[str, dict[str, str]]
    """By who had set it (``container``, ``scripts``): name and value, where the plan says otherwise."""


def engine_environment(
    plan: Plan, environment: Mapping[str, str], own: Mapping[str, str], guard: str, root: Path = Path("/")
) -> Prepared:
    """Return the environment for the engine: the container's, what set-up scripts make of it, then the plan's.

    The plan wins: it is what the user asked for. An image's ``ENV`` is nobody's wish (that of ``quay.io/ascend/cann``
    has ``ATB_MATMUL_SHUFFLE_K_ENABLE=1 LCCL_DETERMINISTIC=0``), and a webhook's or a
    script's variable stands against what was asked for by name. Nothing is overridden in silence: what was there is
    attested beside the identity, and told.

    Args:
        plan: the plan.
        environment: the container's.
        own: the guard's own variables, for the processes of the engine.
        guard: folder in which every engine process finds the middleware and the plug-in.
        root: where the scripts' absolute paths begin.

    Raises:
        RefusedError: where a script does not run.
    """
    container = otherwise(plan, environment)
    after = sourced(plan.scripts, environment, root)
    scripts = {name: value for name, value in otherwise(plan, after).items() if container.get(name) != value}
    wanted = planned(plan, after)
    # An empty part, with which the released images' ends, is the working folder: writable, and kept by a restart.
    path = os.pathsep.join(part for part in (guard, *wanted.get("PYTHONPATH", "").split(os.pathsep)) if part)
    overridden = {who: found for who, found in (("container", container), ("scripts", scripts)) if found}
    return Prepared({**wanted, **own, "PYTHONPATH": path}, overridden)


def overridden_words(overridden: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return for people what the plan was put over."""
    return [
        f"{name} was {value!r} in the {who}"
        for who, found in sorted(overridden.items())
        for name, value in sorted(found.items())
    ]


def read_environ(process: int) -> bytes:
    """Return ``/proc/<process>/environ``; empty also for a process that is gone, going or in the middle of an exec."""
    try:
        return Path(f"/proc/{process}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def process_environment(process: int, ended: Callable[[], bool]) -> dict[str, str]:
    """Return the environment that a process was started with, from ``/proc``.

    The kernel closes our end of the pipe before it sets where the new environment is (``begin_new_exec``, then
    ``create_elf_tables``), and shows nothing in between. Ours is never empty, so that nothing means: not yet.

    Args:
        process: its id.
        ended: whether it has ended.

    Raises:
        RefusedError: where it cannot be read.
    """
    where = f"environment: /proc/{process}/environ"
    limit = time.monotonic() + EXEC_SECONDS
    try:
        while not (data := read_environ(process)):
            if ended():
                raise RefusedError(f"{where}: the engine has ended; see its own output")
            if time.monotonic() > limit:
                raise RefusedError(f"{where} is empty; use a vllm that keeps the environment that it is given")
            time.sleep(0.001)
    except OSError as error:
        raise RefusedError(f"{where}: {error.strerror}; run the engine as the guard's own user") from error
    pairs = (entry.partition("=") for entry in data.decode(errors="surrogateescape").split("\0") if entry)
    return {name: value for name, _, value in pairs}


def check_process(plan: Plan, process: int, ended: Callable[[], bool]) -> dict[str, str]:
    """Hold the environment of a running process against the plan, and return it.

    Raises:
        RefusedError: where it differs or cannot be read.
    """
    seen = process_environment(process, ended)
    if found := problems(plan, seen):
        raise RefusedError(*found)
    return seen
