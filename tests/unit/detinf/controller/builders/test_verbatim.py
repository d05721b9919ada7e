"""What the plan says is what runs, whatever the kubelet would make of its text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubelet import expand, started

from detinf.api.types import Spec
from detinf.controller.builders import plan_for
from detinf.controller.builders.pod import pod_spec
from detinf.controller.builders.verbatim import passed_on, verbatim
from detinf.controller.explain import explain
from detinf.controller.settings import OperatorSettings
from detinf.engines.profile import PodVariable
from detinf.engines.refusals import problems
from detinf.guard.plan import Plan, check_command

SETTINGS = OperatorSettings(probe_image="probe:1", default_profile="simulated")
RESOURCE = {"metadata": {"name": "a", "namespace": "ns", "uid": "u"}}
TEXTS = ["$(POD_NAME)", "$$(POD_NAME)", "$$", "$", "a$", "$$$", "$(NOTHING)", "$(", "x$(POD_NAME", "$(POD_NAME)$(A)"]
VARIABLES = {"POD_NAME": "a-0-0", "A": "1"}


@given(st.text(alphabet="$()AP_OD NAME\u00e9"))
def test_any_text_is_passed_on_as_it_is(text: str) -> None:
    assert expand(verbatim(text), VARIABLES) == text == passed_on(verbatim(text))


def made(text: str, **parts: Any) -> tuple[Spec, Any, Any]:
    source = {"persistentVolumeClaim": {"claimName": "models", "path": f"m{text}"}}
    template = f"--chat-template={{{{ '{text}' }}}}"
    spec = Spec.model_validate(
        {"model": {"source": source, "name": f"n{text}"}, "engine": {"extraArgs": [template]}} | parts
    )
    plan = plan_for(spec, SETTINGS)
    return spec, plan, pod_spec(RESOURCE, spec, plan, SETTINGS)


@pytest.mark.parametrize("text", TEXTS)
def test_command_that_the_kubelet_starts_is_the_plans_word_for_word(text: str) -> None:
    spec, plan, pod = made(text)
    (engine,) = pod["containers"]
    command, _ = started(engine)
    words = command[command.index("--") + 1 :]
    document = plan.model_dump(mode="json", by_alias=True, exclude_none=True)
    check_command(Plan(plan.digest(), document), words)  # what the guard does
    assert words[words.index("--served-model-name") + 1] == f"n{text}"
    assert f"--chat-template={{{{ '{text}' }}}}" in words
    rows = [row.what for section in explain(RESOURCE, spec, SETTINGS) for row in section.rows]
    assert f"--served-model-name n{text}" in rows
    assert not problems(spec, SETTINGS.profiles["simulated"])


@pytest.mark.parametrize("text", TEXTS)
def test_variable_of_a_profile_has_the_value_that_the_profile_gives(text: str) -> None:
    profile = SETTINGS.profiles["simulated"]
    variable = PodVariable(name="OURS", value=text, reason="a value of the site")
    changed = profile.model_copy(update={"pod_variables": (*profile.pod_variables, variable)})
    settings = OperatorSettings(
        probe_image="probe:1", default_profile="simulated", profiles=dict(SETTINGS.profiles) | {"simulated": changed}
    )
    spec, plan, _ = made("")
    (engine,) = pod_spec(RESOURCE, spec, plan, settings)["containers"]
    assert started(engine)[1]["OURS"] == text


def test_null_character_is_refused_as_what_it_is() -> None:
    spec, _, _ = made("")
    asked = spec.model_copy(
        update={"engine": spec.engine.model_copy(update={"extra_args": ["--chat-template={{ '\0' }}"]})}
    )
    assert "no process can have an argument with a null character" in str(
        problems(asked, SETTINGS.profiles["simulated"])
    )
