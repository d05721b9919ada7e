"""Chat templates that read the clock: the same request would be another prompt tomorrow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detinf.guard.errors import RefusedError

CLOCK = "strftime_now"
"""What transformers offers to a template for the time of day (``chat_template_utils``)."""
PINNED_BY = "date_string"
"""The variable that such templates take instead, where it is given."""
FLAG = "--default-chat-template-kwargs"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def reads_clock(model: Path) -> Path | None:
    """Return the file of a model whose chat template reads the clock, or None."""
    for path in sorted((*model.glob("*.jinja"), *model.glob("additional_chat_templates/*.jinja"))):
        if CLOCK in path.read_text(encoding="utf-8", errors="replace"):
            return path
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = model / name
        if path.is_file():
            try:
                parsed = json.loads(path.read_bytes())
            except (ValueError, RecursionError):
                continue  # the engine cannot read it either
            templates = parsed.get("chat_template") if isinstance(parsed, dict) else None
            if any(CLOCK in text for text in _texts(templates)):
                return path
    return None


def is_pinned(arguments: list[str]) -> bool:
    """Return whether the command line gives templates a date of their own."""
    words = [*arguments, ""]
    given = [words[place + 1] for place, word in enumerate(arguments) if word == FLAG]
    given += [word.partition("=")[2] for word in arguments if word.startswith(f"{FLAG}=")]
    for text in given:
        try:
            values = json.loads(text)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get(PINNED_BY), str):
            return True
    return False


def check(model: Path, arguments: list[str]) -> None:
    """Refuse a model whose chat template reads the clock, unless the date is pinned.

    Raises:
        RefusedError: naming the file and the argument that pins the date.
    """
    if (path := reads_clock(model)) is not None and not is_pinned(arguments):
        raise RefusedError(
            f"model: the chat template in {path} reads the clock ({CLOCK}), so the same request is another prompt "
            f'tomorrow; add {FLAG} \'{{"{PINNED_BY}": "1 Jan 2026"}}\' to spec.engine.extraArgs'
        )
