"""Whether a chat template can be another text tomorrow: what of it is reachable, and whether that reads the clock.

A template is parsed as transformers parses it (``chat_template_utils``), with the jinja2 of the engine's image, which
vLLM requires. It is never rendered: which branch a conversation takes is its own matter, so all count that nothing
known rules out. Known is that a variable is defined where the command line gives it: a request may give it another
value, and cannot take it away. What is not certain counts as read.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator
from typing import Any

CLOCK = "strftime_now"
"""What transformers offers to a template for the time of day."""
CHANCE = ("lipsum", "random")
"""jinja2's own random text, and its filter that chooses an item."""
PROVIDED = frozenset({CLOCK, "raise_exception", "lipsum", "range", "dict", "namespace", "cycler", "joiner"})
"""Functions that are always there."""


class UnclearError(Exception):
    """A template that names the clock and cannot be looked through; the message says why."""


def reads(template: str, given: Collection[str]) -> str | None:
    """Return the name of what makes a template another text tomorrow; None where nothing reachable does.

    Args:
        template: its text.
        given: names of variables that are defined for every request.

    Raises:
        UnclearError: where it names one of these and cannot be parsed.
    """
    if not any(word in template for word in (CLOCK, *CHANCE)):
        return None  # nearly every template, and jinja2 takes a quarter of a second to import
    tree = _parsed(template)
    try:
        known = set(given)
        while True:
            look = _Look(known)
            look.nodes([tree])
            if not known & look.assigned:
                return look.found
            known -= look.assigned  # nobody follows what it is afterwards
    except RecursionError:
        raise UnclearError("it is nested too deeply") from None


def _parsed(template: str) -> Any:
    try:
        jinja2 = importlib.import_module("jinja2")
        extensions = importlib.import_module("jinja2.ext")
    except ImportError as error:
        raise UnclearError(f"this python3 has no jinja2 to look through it with ({error})") from None

    class Generation(extensions.Extension):  # type: ignore[misc, name-defined]  # it is known at run time alone
        """``{% generation %}`` of transformers: what is in it is rendered as it stands."""

        tags = frozenset({"generation"})

        def parse(self, parser: Any) -> Any:
            """Return what stands between the tags."""
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, extensions.loopcontrols]
    )
    try:
        return environment.parse(template)
    except jinja2.TemplateError as error:
        raise UnclearError(f"jinja2 does not read it: {error}") from None
    except RecursionError:
        raise UnclearError("it is nested too deeply") from None


class _Look:
    """One look at everything that can be reached; nodes are known by the names of their classes."""

    def __init__(self, known: Collection[str]) -> None:
        self.known = known
        self.assigned: set[str] = set()
        self.found: str | None = None

    def nodes(self, nodes: Iterator[Any] | list[Any]) -> None:
        for node in nodes:
            self.node(node)

    def node(self, node: Any) -> None:
        kind = type(node).__name__
        if kind == "If":
            self.branches(node)
        elif kind == "CondExpr":
            self.node(node.test)
            holds = self.holds(node.test)
            self.nodes([item for item, left in ((node.expr1, False), (node.expr2, True)) if item and holds is not left])
        elif kind in {"And", "Or"}:
            self.node(node.left)
            if self.holds(node.left) is not (kind == "Or"):
                self.node(node.right)
        elif kind == "Test" and node.name in {"defined", "undefined"} and type(node.node).__name__ == "Name":
            return  # to ask whether there is a clock does not read it
        elif kind in {"Filter", "Name"}:
            self.leaf(node, kind)
        else:
            self.nodes(node.iter_child_nodes())

    def leaf(self, node: Any, kind: str) -> None:
        if kind == "Name":
            if node.ctx != "load":
                self.assigned.add(node.name)
            elif node.name == CLOCK or node.name in CHANCE:
                self.found = self.found or node.name
            return
        mapped = {getattr(item, "value", None) for item in node.args} if node.name == "map" else set()
        if node.name in CHANCE or mapped & set(CHANCE):
            self.found = self.found or "random"
        if node.name in {"default", "d"} and self.is_known(node.node) and len(node.args) == 1 and not node.kwargs:
            return  # what the default would be shows nowhere
        self.nodes(node.iter_child_nodes())

    def branches(self, node: Any) -> None:
        """Look at the branches that can be taken."""
        for branch in (node, *node.elif_):
            self.node(branch.test)
            holds = self.holds(branch.test)
            if holds is not False:
                self.nodes(branch.body)
            if holds is True:
                return
        self.nodes(node.else_)

    def is_known(self, node: Any) -> bool:
        return type(node).__name__ == "Name" and node.name in self.known

    def holds(self, test: Any) -> bool | None:
        """Return whether a condition holds, or None where that depends on the conversation."""
        kind = type(test).__name__
        if kind == "Const":
            return bool(test.value)
        if kind == "Not":
            inner = self.holds(test.node)
            return None if inner is None else not inner
        if kind in {"And", "Or"}:
            sides = (self.holds(test.left), self.holds(test.right))
            decisive = kind == "Or"
            return decisive if decisive in sides else None if None in sides else not decisive
        if kind == "Test" and test.name in {"defined", "undefined"} and type(test.node).__name__ == "Name":
            there = self.is_known(test.node) or test.node.name in PROVIDED
            return (test.name == "defined") if there else None
        return None
