"""What of vLLM's own makes a prompt, held against its source: who reads the clock, and which template wins."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from detinf.guard import templates

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import published  # noqa: E402 - found through the line above

RELEASES = sorted(
    (item for item in vars(published).values() if isinstance(item, published.Package) and item.name == "vllm"),
    key=lambda item: item.version,
)
each_release = pytest.mark.parametrize("package", RELEASES, ids=lambda item: item.version)

MAKES_PROMPTS = ("entrypoints", "renderers", "tokenizers", "reasoning", "tool_parsers", "parser", "transformers_utils")
"""Packages of vllm in which messages become token ids."""
READS_CLOCK = re.compile(r"strftime|\.(utc)?now\(|\.today\(|time\.(localtime|gmtime)|fromtimestamp|lipsum")
HARMONY = "entrypoints/openai/parser/harmony_utils.py"


def sources(package: published.Package) -> dict[str, str]:
    root = published.source(package) / "vllm"
    paths = (path for name in MAKES_PROMPTS for path in (root / name).rglob("*.py"))
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths}


@each_release
def test_harmony_alone_reads_the_clock_where_prompts_are_made_and_the_variable_comes_first(
    package: published.Package,
) -> None:
    found = {
        (name, line.strip())
        for name, text in sources(package).items()
        for line in text.splitlines()
        if READS_CLOCK.search(line)
    }
    assert found == {(HARMONY, f"start_date = envs.{templates.DATE} or datetime.datetime.now().strftime(")}


@each_release
def test_harmony_is_what_its_model_type_alone_decides(package: published.Package) -> None:
    deciding = [
        line.strip()
        for text in sources(package).values()
        for line in text.splitlines()
        if re.search(r"(use|is)_harmony\s*=\s*\S*model_config", line)
    ]
    assert deciding
    assert {re.sub(r"^.*model_config\.", "", line).rstrip(",") for line in deciding} == {
        f'hf_config.model_type == "{templates.HARMONY}"'
    }


@each_release
def test_given_template_wins_over_the_models_and_a_text_is_one_by_these_characters(package: published.Package) -> None:
    texts = sources(package)
    resolve = texts["renderers/hf.py"].partition("def resolve_chat_template(")[2]
    assert resolve.index("chat_template is not None") < resolve.index("_try_get_processor_chat_template(")
    load = texts["entrypoints/chat_utils.py"].partition("def _load_chat_template(")[2]
    assert load.index("open(chat_template)") < load.index(f"JINJA_CHARS = {templates.JINJA!r}".replace("'", '"'))


@each_release
def test_every_chat_gets_the_defaults_of_the_command_line_under_its_own(package: published.Package) -> None:
    texts = "\n".join(sources(package).values())
    assert "default_chat_template_kwargs | request_chat_template_kwargs" in texts or ".with_defaults(" in texts
