"""What a resource may not ask of an engine; ``docs/reference/refusals.md`` is the reviewed table of spellings.

A change on purpose: run with ``DETINF_WRITE_GOLDEN=1``, read the difference, and commit it with the code.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.api.types import Spec
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import arguments
from detinf.engines.profile import Profile, base
from detinf.engines.refusals import problems, spelling

ROOT = Path(__file__).resolve().parents[4]
TABLE = ROOT / "docs" / "reference" / "refusals.md"
ROW = re.compile(r"^\| `(?P<kind>extraArgs|env)` \| `(?P<asked>.+)` \| (?P<answer>.+) \|$")
ASCEND = PROFILES["vllm-ascend-0.23"]


def spec_of(words: list[str] | None = None, env: dict[str, str] | None = None, **parts: Any) -> Spec:
    variables = [{"name": name, "value": value} for name, value in (env or {}).items()]
    engine = {"extraArgs": words or [], "env": variables} | parts.pop("engine", {})
    model = {"source": {"persistentVolumeClaim": {"claimName": "models"}}} | parts.pop("model", {})
    return Spec.model_validate({"model": model, "engine": engine} | parts)


def answers(kind: str, asked: str, profile: Profile = ASCEND) -> str:
    words = json.loads(asked) if kind == "extraArgs" else None
    name, _, value = asked.partition("=")
    spec = spec_of(words, None if words else {name: value})
    return " ".join(re.sub(r"^spec\.engine\.", "", str(problem)) + "." for problem in problems(spec, profile))


def rows() -> list[re.Match[str]]:
    matches = (ROW.match(line) for line in TABLE.read_text(encoding="utf-8").splitlines())
    return [match for match in matches if match]


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_table_has_the_spellings_that_were_asked_for() -> None:
    if os.environ.get("DETINF_WRITE_GOLDEN"):
        lines = TABLE.read_text(encoding="utf-8").splitlines()
        for place, line in enumerate(lines):
            if match := ROW.match(line):
                kind, asked = match["kind"], match["asked"]
                lines[place] = f"| `{kind}` | `{asked}` | {cell(answers(kind, asked))} |"
        TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
        pytest.fail(f"wrote {TABLE}: read the difference, and run again without DETINF_WRITE_GOLDEN")
    assert len({match["asked"] for match in rows()}) == len(rows()) >= 80


@pytest.mark.parametrize("row", rows(), ids=[match["asked"] for match in rows()])
def test_every_spelling_is_refused_in_the_reviewed_words(row: re.Match[str]) -> None:
    assert cell(answers(row["kind"], row["asked"])) == row["answer"]
    assert row["answer"]


ALLOWED = [
    [],
    ["--uvicorn-log-level=warning"],
    ["--uvicorn-log-level", "warning", "--disable-uvicorn-access-log"],
    ["--chat-template=/models/models/template.jinja", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"],
    ['--default-chat-template-kwargs={"enable_thinking": false}'],
]


@pytest.mark.parametrize("words", ALLOWED)
@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.name))
def test_what_is_allowed_is_taken_as_it_stands(profile: Profile, words: list[str]) -> None:
    spec = spec_of(words, {"VLLM_LOGGING_LEVEL": "DEBUG"})
    assert problems(spec, profile) == []
    assert arguments(spec, profile) == [*arguments(spec_of(), profile), *words]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": {"dtype": "float32"}}, ["spec.model.dtype is 'float32'", "use bfloat16 or float16"]),
        ({"topology": {"chip": "310P3"}}, ["spec.topology.chip is '310P3'", "910B3"]),
        ({"topology": {"serverClass": "module-a3-16"}}, ["spec.topology.serverClass", "module-910b-8"]),
    ],
)
def test_a_field_that_this_engine_cannot_take_is_refused(parts: dict[str, Any], words: list[str]) -> None:
    (problem,) = problems(spec_of(**parts), ASCEND)
    assert all(word in str(problem) for word in words), str(problem)
    assert problems(spec_of(**parts), PROFILES["simulated"]) == []


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: str(profile.name))
def test_every_derived_locked_and_unset_name_is_refused_by_its_own_name(profile: Profile) -> None:
    flags = {base(item.flag) for item in profile.arguments}
    flags |= {flag for group in profile.locked_flags for flag in group.flags}
    for flag in flags:
        (problem,) = problems(spec_of([flag, "1"]), profile)
        assert "does not know" not in problem.remedy, flag
    for name in profile.pinned_variables:
        (problem,) = problems(spec_of(env={name: "1"}), profile)
        assert "does not know" not in problem.remedy, name


def test_a_variable_that_stands_twice_is_refused() -> None:
    twice = [{"name": "VLLM_LOGGING_LEVEL", "value": value} for value in ("DEBUG", "INFO")]
    (problem,) = problems(spec_of(engine={"env": twice}), ASCEND)
    assert str(problem) == "spec.engine.env[1].name is 'VLLM_LOGGING_LEVEL': it stands there twice; keep one"


FLAGS = sorted(
    {base(item.flag) for item in ASCEND.arguments} | {flag for group in ASCEND.locked_flags for flag in group.flags}
)


@st.composite
def spellings(draw: st.DrawFn) -> str:
    """A locked flag as vLLM's parser would take it: its model, where the real parser cannot be imported."""
    flag = draw(st.sampled_from(FLAGS))
    if not flag.startswith("--"):
        return flag + draw(st.sampled_from(["", "=1", "1", ".mode", ".mode=0"]))
    body = draw(st.sampled_from(["", "no-"])) + flag.removeprefix("--")
    body = "".join(draw(st.sampled_from("-_")) if letter == "-" else letter for letter in body)
    if draw(st.booleans()):
        body = body[: draw(st.integers(min_value=4, max_value=max(4, len(body))))]
    return f"--{body}{draw(st.sampled_from(['', '=1', '=false', '.a', '.a=1', '.a+=1']))}"


WORDS = st.one_of(
    spellings(),
    st.sampled_from(["1", "false", "{}", "x.yaml", "--", "-", "", "-O", "-O3", "--config", "--config=x"]),
    st.sampled_from([word for words in ALLOWED for word in words]),
    st.text(max_size=12),
)


@given(st.lists(WORDS, max_size=6))
def test_nothing_but_allowed_flags_by_their_own_names_is_ever_taken(words: list[str]) -> None:
    if problems(spec_of([word for word in words if word]), ASCEND):
        return
    names = [word.partition("=")[0] for word in words if word and spelling(word)]
    assert set(names) <= {item.flag for item in ASCEND.allowed_flags}
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("chip", "meant"),
    [
        ("910b3", "910B3"),
        ("Ascend910B3", "910B3"),
        ("910-B3", "910B3"),
        ("901B3", "910B3"),
        ("910B4.1", "910B4-1"),
        ("310p3", "310P3"),
    ],
)
def test_chip_in_another_spelling_is_refused_with_the_one_that_labels_have(chip: str, meant: str) -> None:
    (problem,) = problems(spec_of(topology={"chip": chip}), ASCEND)
    assert str(problem).startswith(f"spec.topology.chip is '{chip}': no chip is called so")
    assert str(problem).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("chip", ["910B3", "910B4-1", "910C1", "950PR", None])
def test_chip_that_is_known_or_like_none_is_left_to_the_nodes(chip: str | None) -> None:
    assert problems(spec_of(topology={"chip": chip} if chip else {}), ASCEND) == []
