"""Stands in for torch: what vllm_ascend/batch_invariant.py touches."""

from types import SimpleNamespace
from typing import Any


class Tensor:
    """A type to name."""


class _Library:
    def __init__(self, namespace: str, kind: str) -> None:
        self.registered = [f"{namespace}:{kind}"]

    def impl(self, name: str, _function: Any, _key: str) -> None:
        """Register an implementation."""
        self.registered.append(name)


library = SimpleNamespace(Library=_Library)
ops = SimpleNamespace()
_deterministic = False


def sum(value: Any, dim: Any = None, keepdim: bool = False) -> Any:  # noqa: A001 - torch's own signature
    """The native one."""
    return value, dim, keepdim


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Switch determinism."""
    global _deterministic  # noqa: PLW0603 - as in torch
    _deterministic = mode and warn_only


def are_deterministic_algorithms_enabled() -> bool:
    """Return the switch."""
    return _deterministic
