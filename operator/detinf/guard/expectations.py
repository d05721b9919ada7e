"""Holding what is against what must be: paths in a configuration, and names in imported modules. Pure."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

Modules = Mapping[str, ModuleType]


def json_text(value: Any) -> str:
    """Return a value's JSON text; enumerations by name, and what JSON has no form for by its own text."""
    if isinstance(value, enum.Enum):
        value = value.name
    return json.dumps(value, sort_keys=True, default=str)


def value_at(root: Any, path: str) -> Any:
    """Return what is at a dotted path of attributes and keys.

    Raises:
        LookupError: naming the part that is not there.
    """
    value = root
    for part in path.split("."):
        if isinstance(value, Mapping):
            if part not in value:
                raise LookupError(f"{path} has no {part!r}")
            value = value[part]
        else:
            try:
                value = getattr(value, part)
            except AttributeError as error:
                raise LookupError(f"{path} has no {part!r}") from error
    return value


def check_configuration(expected: Mapping[str, str], configuration: Any) -> tuple[list[str], dict[str, str]]:
    """Return (what differs, what was seen) for JSON texts by path."""
    found: list[str] = []
    observed: dict[str, str] = {}
    for path, wanted in sorted(expected.items()):
        try:
            observed[path] = json_text(value_at(configuration, path))
        except LookupError as error:
            found.append(f"configuration: {error}; this engine is not of the plan's release")
            continue
        if json.loads(observed[path]) != json.loads(wanted) or _is_other_type(observed[path], wanted):
            found.append(
                f"configuration: {path} is {observed[path]} in effect, the plan says {wanted}; "
                "let the operator write the command line"
            )
    return found, observed


def _is_other_type(seen: str, wanted: str) -> bool:
    """Return whether equal values are of two kinds: Python's true is 1."""
    return (seen in {"true", "false"}) != (wanted in {"true", "false"})


def resolve(name: str, modules: Modules) -> Any:
    """Return what a dotted name stands for, in modules that are imported already; ``()`` at its end calls it.

    Raises:
        LookupError: where no such module was imported or the name is not there.
    """
    called = name.endswith("()")
    parts = name.removesuffix("()").split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = modules.get(".".join(parts[:length]))
        if module is not None:
            value = value_at(module, ".".join(parts[length:]))
            return value() if called else value
    raise LookupError(f"no module of {name} was imported")


def check_symbols(
    symbols: Sequence[Mapping[str, Any]], modules: Modules | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return (what differs, what was seen) for symbols as the plan has them: ``name``, and ``sameAs`` or ``values``."""
    loaded: Modules = sys.modules if modules is None else modules
    found: list[str] = []
    observed: dict[str, str] = {}
    for symbol in symbols:
        name = str(symbol["name"])
        same_as = symbol.get("sameAs")
        try:
            value = resolve(name, loaded)
            if same_as is not None:
                observed[name] = json_text(f"is {same_as}" if value is resolve(str(same_as), loaded) else "is another")
            else:
                observed[name] = json_text(value)
        except LookupError as error:
            found.append(f"symbol: {name}: {error}; batch invariance is not in effect")
            continue
        if same_as is not None and observed[name] != json_text(f"is {same_as}"):
            found.append(f"symbol: {name} is not {same_as}: it was not replaced; batch invariance is not in effect")
        elif same_as is None and observed[name] not in symbol.get("values", ()):
            wanted = " or ".join(symbol.get("values", ()))
            found.append(f"symbol: {name} is {observed[name]}, it must be {wanted}; batch invariance is not in effect")
    return found, observed
