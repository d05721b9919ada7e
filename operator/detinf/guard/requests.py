"""Which requests an engine answers, and for which of them the promise stands. Pure; the rules are data of the plan.

One request can change its neighbours' answers (``POST /generative_scoring`` on vLLM 0.23 to 0.33), and which can is
known of the routes and fields that somebody looked at. So what is listed is served, and everything else is refused: a
release's new route or field is served when it has been looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 32 * 1024**2
"""Of a body that is read; a prompt of a million token ids has 7 MiB."""
PROMISED, UNPROMISED, REFUSED = "Promised", "Unpromised", "Refused"
GREEDY = 1e-5
"""Below it a temperature is greedy (vLLM, ``sampling_params.py``, ``_SAMPLING_EPS``)."""
UNSEEDED = -1
"""The seed that is none (vLLM, ``sampling_params.py``, ``seed == -1``)."""
TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")

_TYPES = {
    400: "BadRequestError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestEntityTooLargeError",
}


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    message: str
    param: str | None = None
    allow: tuple[str, ...] = ()
    """Methods that the path has, where the request's is another."""

    @property
    def body(self) -> bytes:
        """Return it as vLLM and OpenAI write an error."""
        error = {"message": self.message, "type": _TYPES[self.status], "param": self.param, "code": self.status}
        return json.dumps({"error": error}).encode()


@dataclass(frozen=True)
class Rule:
    """What is known of a route or of a field."""

    kind: str
    reason: str
    remedy: str
    values: tuple[Any, ...] = ()
    """Values with which the field is as if it were not there."""


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    name: str
    rule: Rule
    fields: Mapping[str, Rule] = field(default_factory=dict)
    """What its body may hold; empty where its body is not looked at."""


def pattern_of(path: str) -> re.Pattern[str]:
    """Return the pattern of a path as FastAPI writes it: ``{name}`` is one segment, ``{name:path}`` any."""
    parts = re.split(r"(\{\w+(?::path)?\})", path)
    return re.compile(
        "".join(
            (".*" if part.endswith(":path}") else "[^/]+") if part.startswith("{") else re.escape(part)
            for part in parts
        )
    )


class Rules:
    """All that is known of an engine's routes and fields."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Read ``requests`` of a plan: of two rules for one name the later one counts.

        Raises:
            KeyError, TypeError, ValueError: where it is none.
        """
        fields: dict[str, dict[str, Rule]] = {}
        for item in document["fields"]:
            for route in item["routes"]:
                fields.setdefault(route, {}).update(_named(item))
        rules: dict[str, Rule] = {}
        for item in document["routes"]:
            rules.update(_named(item))
        self.by_path: dict[str, dict[str, Route]] = {}
        for name, rule in rules.items():
            method, _, path = name.partition(" ")
            self.by_path.setdefault(path, {})[method] = Route(name, rule, fields.get(name, {}))
        self.patterns = [(pattern_of(path), path) for path in self.by_path if "{" in path]

    def methods(self, path: str) -> Mapping[str, Route] | None:
        """Return the routes of a path by method; of one with a slash at its end those that vLLM redirects to."""
        for wanted in (path, path.rstrip("/")) if len(path) > 1 else (path,):
            if found := self.by_path.get(wanted):
                return found
            for pattern, name in self.patterns:
                if pattern.fullmatch(wanted):
                    return self.by_path[name]
        return None

    def route(self, method: str, path: str) -> Route | Refusal:
        """Return the route that answers, or why none does."""
        found = self.methods(path)
        if found is None:
            return Refusal(404, f"{path!r:.200} is no route that this engine serves; {_ASK}")
        route = found.get(method) or (found.get("GET") if method == "HEAD" else None)
        if route is None and method == "OPTIONS":  # a browser's question, answered by vLLM's CORS middleware
            route = next(iter(found.values()))
        if route is None:
            allowed = tuple(sorted(name for name, item in found.items() if item.rule.kind != REFUSED))
            return Refusal(
                405,
                f"{method} is no method of {path!r:.200}; use {' or '.join(allowed) or 'another route'}",
                None,
                allowed,
            )
        if route.rule.kind == REFUSED:
            return Refusal(403, f"{route.name} is not served: {route.rule.reason}; {route.rule.remedy}")
        return route


_ASK = "`detinf profile show` lists those that it does"


def _named(item: Mapping[str, Any]) -> Iterator[tuple[str, Rule]]:
    values = tuple(json.loads(text) for text in item.get("values") or ())
    rule = Rule(item["kind"], item.get("reason") or "", item.get("remedy") or "", values)
    return ((name, rule) for name in item["names"])


def read_body(route: Route, data: bytes) -> dict[str, Any] | Refusal:
    """Return the object in a body, as vLLM reads it, or why it is none."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        return Refusal(400, f"the body of {route.name} is no JSON ({str(error)[:120]}); send one JSON object")
    if not isinstance(body, dict):
        return Refusal(400, f"the body of {route.name} is {type(body).__name__}, no object; send one JSON object")
    return body


def check_fields(route: Route, body: Mapping[str, Any]) -> Refusal | None:
    """Return why a body is refused; None where it is served. A field that is null is not there."""
    for name, value in body.items():
        rule = route.fields.get(name)
        if rule is None and value is None:  # clients write the fields that they have and do not use
            continue
        if rule is None:
            known = "no field of it that this engine serves"
            return Refusal(400, f"{name!r:.100} = {_told(value)}: {known}; leave it out ({_ASK})", name[:100])
        if rule.kind == REFUSED and value is not None and not _is_one_of(value, rule.values):
            return Refusal(400, f"{name} = {_told(value)} is refused: {rule.reason}; {rule.remedy}", name)
    return None


def unpromised(route: Route, body: Mapping[str, Any]) -> list[str]:
    """Return because of which fields the answer to a body is not promised."""
    if route.rule.kind != PROMISED:
        return []
    found = [
        name
        for name, value in body.items()
        if value is not None
        and route.fields[name].kind == UNPROMISED
        and not _is_one_of(value, route.fields[name].values)
    ]
    if not is_seeded(body):
        found.append("seed")
    if any(kind not in TEXT_PARTS for kind in _parts(body.get("messages"))):
        found.append("messages")
    return found


def look_into(route: Route, data: bytes) -> list[str] | Refusal:
    """Return because of which fields the answer to a body is not promised, or why it is not served."""
    body = read_body(route, data)
    if isinstance(body, Refusal):
        return body
    return check_fields(route, body) or unpromised(route, body)


def is_seeded(body: Mapping[str, Any]) -> bool:
    """Return whether each choice of an answer is a function of its request: greedy, or with a seed.

    Choice i of ``n`` has the seed ``seed + i``, and -1 is none (vLLM 0.23 to 0.33, ``v1/engine/parallel_sampling.py``
    and ``sampling_params.py``; seen on 0.32). Without a temperature vLLM samples at 1.
    """
    temperature, seed, count = (_number(body.get(name)) for name in ("temperature", "seed", "n"))
    if temperature is not None and temperature < GREEDY:
        return True
    if seed is None:
        return False
    return not seed <= UNSEEDED < seed + max(count or 1, 1)


def _number(value: Any) -> float | None:
    """Return a number as pydantic takes it from JSON, which reads it from text, too; None where it is none."""
    try:
        return None if value is None else float(value)
    except (OverflowError, TypeError, ValueError):
        return None


def _parts(messages: Any) -> Iterator[str]:
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if not isinstance(part, dict):
                yield "text"
            elif part.get("uuid") is None:
                yield str(part.get("type"))
            else:  # vLLM goes by the other members then, as it does without a type (``entrypoints/chat_utils.py``)
                yield "uuid"


def _is_one_of(value: Any, values: Iterable[Any]) -> bool:
    """Return whether a value is listed; true is not 1."""
    return any(value == known and type(value) is type(known) for known in values)


def _told(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
