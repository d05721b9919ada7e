"""Chat templates that read the clock: the same request would be another prompt tomorrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detinf.guard import clock
from detinf.guard.errors import RefusedError
from detinf.guard.model_files import argument_unreadable, file_of, unreadable

DEFAULTS = "--default-chat-template-kwargs"
TEMPLATE = "--chat-template"
DATE = "VLLM_SYSTEM_START_DATE"
"""What Harmony's system message takes for today (vLLM 0.23 to 0.33, ``entrypoints/openai/parser/harmony_utils.py``)."""
HARMONY = "gpt_oss"
"""The model_type that vLLM renders with Harmony, whatever templates there are (``use_harmony``)."""
JINJA = "{}\n"
"""A ``--chat-template`` that names no file and has one of these is the template itself (``load_chat_template``)."""
OWN = ("chat_template.json", "tokenizer_config.json", "processor_config.json")
"""Files of a model that may hold templates, beside ``*.jinja``."""


@dataclass(frozen=True)
class Given:
    """What the command line says of templates."""

    template: str | None
    defaults: frozenset[str]
    """Names of the variables that every request has."""


def given(arguments: list[str]) -> Given:
    """Return what the plan's arguments say of templates; a default that is no JSON object stops vLLM itself."""
    template, defaults = None, frozenset[str]()
    words = [*arguments, ""]
    for place, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        value = value if equals else words[place + 1]
        if flag == TEMPLATE:
            template = value
        elif flag == DEFAULTS:
            try:
                parsed = json.loads(value)
            except (ValueError, RecursionError):
                continue
            defaults = frozenset(parsed) if isinstance(parsed, dict) else frozenset()
    return Given(template, defaults)


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, however deep; without recursion, which a file could exhaust."""
    open_ends = [value]
    while open_ends:
        item = open_ends.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            open_ends.extend(item.values())
        elif isinstance(item, list):
            open_ends.extend(item)


def of_model(model: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, text) of the templates that transformers finds in a model's folder.

    Raises:
        RefusedError: where a file cannot be read.
    """
    for path in (model / "chat_template.jinja", *sorted(model.glob("additional_chat_templates/*.jinja"))):
        if path.is_symlink() or path.exists():
            yield str(path), _bytes(path).decode(errors="replace")
    for name in OWN:
        path = model / name
        if path.is_symlink() or path.exists():
            try:
                parsed = json.loads(_bytes(path))
            except (ValueError, RecursionError):
                continue  # the engine cannot read it either
            found = parsed.get("chat_template") if isinstance(parsed, dict) else None
            yield from ((str(path), text) for text in _texts(found))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def of_argument(template: str, root: Path, working: Path) -> Iterator[tuple[str, str]]:
    """Yield (where, text) of the template that the command line gives; none where it names one of vLLM's own.

    Raises:
        RefusedError: where it names a file that is not there or cannot be read.
    """
    path = file_of(template, root, working)
    if path is not None:
        try:
            yield template, path.read_bytes().decode(errors="replace")
        except OSError as error:
            raise argument_unreadable(template, error) from error
    elif any(character in template for character in JINJA):
        yield f"{TEMPLATE}", template
    elif template.startswith("/"):
        raise RefusedError(
            f"command: {TEMPLATE}: there is no file {template}; correct spec.engine.extraArgs, or mount the file"
        )


def check(
    model: Path,
    arguments: list[str],
    environment: Mapping[str, str],
    model_type: object = None,
    *,
    root: Path = Path("/"),
) -> None:
    """Refuse a model whose prompts depend on the clock or on chance, unless what pins them is given and read.

    Args:
        model: its folder.
        arguments: of the plan.
        environment: the engine's.
        model_type: of config.json.
        root: where absolute paths begin.

    Raises:
        RefusedError: naming the template and what pins it.
    """
    if model_type == HARMONY:
        if not environment.get(DATE):
            raise RefusedError(
                f"model: vLLM renders {HARMONY} with Harmony, whose system message holds today's date, so the same "
                f"request is another prompt tomorrow; set {DATE}, such as 2026-01-01, in spec.engine.env"
            )
        return
    said = given(arguments)
    own = said.template is None
    found = of_model(model) if own else of_argument(said.template or "", root, Path.cwd())
    for where, text in found:
        _check(where, text, said)


def _check(where: str, text: str, said: Given) -> None:
    copy = f"give a copy that does not with {TEMPLATE}=FILE in spec.engine.extraArgs"
    try:
        name = clock.reads(text, said.defaults)
        if name is None:
            return
        if name != clock.CLOCK:
            raise RefusedError(
                f"model: the chat template in {where} draws by chance ({name}), so the same request is another prompt "
                f"each time; {copy}"
            )
        pinned = next((item for item in PINS if clock.reads(text, {*said.defaults, item}) is None), None)
    except clock.UnclearError as error:
        raise RefusedError(
            f"model: the chat template in {where} names {clock.CLOCK}, lipsum or random, and whether it reads that "
            f"is unclear: {error}; {copy}"
        ) from None
    remedy = copy
    if pinned is not None:
        remedy = f'add {DEFAULTS} \'{{"{pinned}": "1 Jan 2026"}}\' to spec.engine.extraArgs'
    reads_none = f", and reads none of {', '.join(sorted(said.defaults))} instead" if said.defaults else ""
    raise RefusedError(
        f"model: the chat template in {where} reads the clock ({name}){reads_none}, so the same request is another "
        f"prompt tomorrow; {remedy}"
    )


PINS = ("date_string", "current_date", "today", "date", "today_date", "currentDateTime", "current_datetime")
"""Variables that templates take instead of the clock where they are given; looked for to name the one that helps."""
