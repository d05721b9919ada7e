"""Hooks that run right after a module was imported, without importing it early.

An engine's modules have effects when they are imported, and their order is the engine's own. So nothing is imported
here: a module that is there already is handed over at once, and another one when somebody imports it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], None]


class _Loader(importlib.abc.Loader):
    """Another loader, and what is to happen after it."""

    def __init__(self, loader: Any, hooks: Sequence[Hook]) -> None:
        self.loader = loader
        self.hooks = hooks

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Create the module as the real loader does."""
        created: ModuleType | None = self.loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then the hooks."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader  # as if nobody had been here
        module.__loader__ = self.loader
        self.loader.exec_module(module)
        for hook in self.hooks:
            hook(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the hooked modules where the other finders find them."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Hook]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the other finders' answer, with our loader around theirs."""
        hooks = self.hooks.get(name)
        if not hooks:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                del self.hooks[name]
                spec.loader = _Loader(spec.loader, hooks)
                return spec
        return None


_FINDER = _Finder()


def after_import(name: str, hook: Hook) -> None:
    """Call ``hook`` with the module of that name once it has been imported; at once where it was."""
    if (module := sys.modules.get(name)) is not None:
        hook(module)
        return
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.hooks.setdefault(name, []).append(hook)
