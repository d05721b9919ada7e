"""What a profile is: what is known of one engine release, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Argument:
    """One argument after ``vllm serve MODEL``, and why it is there."""

    flag: str
    reason: str
    value: str | None = None
    """Text with the placeholders of ``detinf.engines.plan.values``; None for a flag that stands alone."""


@dataclass(frozen=True)
class Variable:
    """One environment variable, and why it is there."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class Unset:
    """One environment variable that must not be there, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Symbol:
    """What a name must be in every worker once it has warmed up, and why (``detinf.documents.PlanSymbol``)."""

    name: str
    reason: str
    same_as: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What the engine's effective configuration must hold at a path of ``VllmConfig``, and why."""

    path: str
    value: str
    """JSON text with the placeholders of ``detinf.engines.plan.values``."""
    reason: str


@dataclass(frozen=True)
class FailureLine:
    """A text in the engine's log that means that it must not go on, and what it tells."""

    text: str
    reason: str


@dataclass(frozen=True)
class IdentityFile:
    """A file of the engine's image whose bytes can change a number; its digest is in the fingerprint."""

    name: str
    path: str
    """With ``${VARIABLE}`` of the engine's environment."""
    reason: str


@dataclass(frozen=True)
class Profile:
    """One engine release family."""

    name: str
    description: str
    image: str | None
    """Image where neither the resource nor the chart names one; None where none is published."""
    uses_devices: bool
    """Whether a replica takes ``parallelism.tensor`` NPUs; without them the plan expects none."""
    arguments: tuple[Argument, ...]
    """Of the plan: everything that can change outputs."""
    variables: tuple[Variable, ...]
    """Of the plan: set by the guard, verified on the running engine."""
    unset: tuple[Unset, ...]
    """Of the plan: the guard refuses to start an engine that has them."""
    pod_variables: tuple[Variable, ...]
    """Set on the container and outside the plan: they cannot change outputs."""
    middleware: str | None
    """``--middleware`` that puts the boot into every answer; None where the engine does that by itself."""
    processes: tuple[str, ...]
    """Who has to attest before the replica may serve; every rank of ``worker`` comes to it."""
    gate_widths: tuple[int, ...]
    """Widths that the gate proves, where ``maxNumSeqs`` allows them."""
    default_requests: tuple[tuple[str, str], ...] = ()
    """Resource requests of the engine container where the resource names none."""
    shared_memory: str = "1Gi"
    """Size limit of /dev/shm, which workers exchange tensors through."""
    worker: str | None = None
    """``module:Class`` of the engine's workers, where the plug-in attests in them."""
    initialiser: str | None = None
    """``module:function`` that switches batch invariance on in a worker."""
    symbols: tuple[Symbol, ...] = ()
    configuration: tuple[Setting, ...] = ()
    files: tuple[IdentityFile, ...] = ()
    failure_lines: tuple[FailureLine, ...] = ()
    scripts: tuple[str, ...] = ()
    """Shell scripts that the guard sources before it sets ``variables``."""
