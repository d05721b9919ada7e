"""Chat templates that read the clock: held against what jinja2 renders at two times of day."""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.sandbox
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detinf.engines.catalogue import PROFILES
from detinf.guard import clock, templates
from detinf.guard.errors import RefusedError

# The parts of published templates that deal with the date: vLLM's examples/tool_chat_template_llama3.1_json.jinja (and
# Meta's own), Mistral Small 3, SmolLM3, gpt-oss, Granite 3.
LLAMA = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- for message in messages %}{{ message.content }}{% endfor %}
"""
MISTRAL = """\
{%- set today = strftime_now("%Y-%m-%d") %}
{%- set default_system_message = "The current date is " + today + "." %}
{{- bos_token }}{%- for message in messages %}{{ default_system_message }}{{ message.content }}{% endfor %}
"""
SMOL = """{%- set today = strftime_now("%d %B %Y") -%}Today Date: {{ today }} {{ messages[0].content }}"""
GPT_OSS = """\
{%- macro build_system_message() -%}
    {%- if model_identity is not defined %}{%- set model_identity = "You are ChatGPT" %}{%- endif %}
    {{- model_identity + "\\n" }}{{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n\\n" }}
{%- endmacro -%}
{{- build_system_message() }}{% for message in messages %}{{ message.content }}{% endfor %}
"""
GRANITE = """\
{%- if messages[0]['role'] == 'system' %}{{ messages[0].content }}
{%- else %}Today's Date: {{ strftime_now('%B %d, %Y') }}.{%- endif %}
"""
DATELESS = "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}{% endfor %}"
PIN = ["--default-chat-template-kwargs", '{"date_string": "1 Jan 2026"}']
USER = [{"role": "user", "content": "a"}]


class Generation(jinja2.ext.Extension):
    """As transformers has it, for a render that asks for no indices."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> Any:
        return caller()


def rendered(template: str, now: str, **kwargs: Any) -> str:
    """Return what vLLM makes of a template: transformers' environment, and of kwargs what the template looks up."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.globals |= {"strftime_now": lambda _format: now}
    accepted = jinja2.meta.find_undeclared_variables(environment.parse(template))
    known = {name: value for name, value in kwargs.items() if name in accepted | {"messages"}}
    try:
        return environment.from_string(template).render(**known)
    except (jinja2.TemplateError, TypeError) as error:
        return f"{type(error).__name__}"


def differs(template: str, **kwargs: Any) -> bool:
    """Return whether the same request renders to another text on another day."""
    return rendered(template, "MONDAY", **kwargs) != rendered(template, "TUESDAY", **kwargs)


@pytest.mark.parametrize("template", [LLAMA, MISTRAL, SMOL, GPT_OSS, GRANITE])
def test_published_template_that_reads_the_clock_is_found(template: str) -> None:
    assert differs(template, messages=USER)
    assert clock.reads(template, ()) == "strftime_now"


def test_only_a_template_that_reads_what_is_given_is_pinned_by_it() -> None:
    for template, pinned in ((LLAMA, True), (MISTRAL, False), (SMOL, False), (GPT_OSS, False), (GRANITE, False)):
        assert differs(template, messages=USER, date_string="1 Jan 2026") is not pinned
        assert (clock.reads(template, {"date_string"}) is None) is pinned


@pytest.mark.parametrize(
    "template",
    [
        "{% if date_string is defined %}{{ date_string }}{% else %}{{ strftime_now('%d') }}{% endif %}",
        "{% if date_string is undefined %}{{ strftime_now('%d') }}{% else %}{{ date_string }}{% endif %}",
        "{{ date_string if date_string is defined else strftime_now('%d') }}",
        "{{ date_string | default(strftime_now('%d')) }}",
        "{{ date_string | d(strftime_now('%d')) }}",
        "{% if false %}{{ strftime_now('%d') }}{% endif %}",
        "{% if strftime_now is defined and date_string is not defined %}{{ strftime_now('%d') }}{% endif %}",
        "{% if strftime_now is not defined %}{{ strftime_now('%d') }}{% endif %}",
        "{% generation %}{{ date_string }}{% endgeneration %}{# strftime_now('%d') #}",
        "{% raw %}{{ strftime_now('%d') }}{% endraw %}",
        "{{ 'strftime_now' }}{% for m in messages %}{% continue %}{% endfor %}",
    ],
)
def test_clock_that_nobody_reads_where_the_date_is_given_is_pinned(template: str) -> None:
    assert clock.reads(template, {"date_string"}) is None
    for value in ("1 Jan 2026", "", None):
        assert not differs(template, messages=USER, date_string=value)


@pytest.mark.parametrize(
    "template",
    [
        "{% if not date_string %}{{ strftime_now('%d') }}{% endif %}",
        "{{ date_string or strftime_now('%d') }}",
        "{{ date_string | default(strftime_now('%d'), true) }}",
    ],
)
def test_request_with_an_empty_date_would_read_the_clock_so_the_date_is_not_pinned(template: str) -> None:
    assert not differs(template, messages=USER, date_string="1 Jan 2026")
    assert differs(template, messages=USER, date_string="")
    assert clock.reads(template, {"date_string"}) == "strftime_now"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% set date_string = other %}{{ date_string | default(strftime_now('%d')) }}", "strftime_now"),
        ("{% set now = strftime_now %}{{ now('%d') }}", "strftime_now"),
        ("{% for date_string in [1] %}{% endfor %}{{ date_string or strftime_now('%d') }}", "strftime_now"),
        ("{% macro f(x=strftime_now('%d')) %}{{ x }}{% endmacro %}{{ f() }}", "strftime_now"),
        ("{% generation %}{{ strftime_now('%d') }}{% endgeneration %}", "strftime_now"),
        ("{{ messages | random }}", "random"),
        ("{{ [messages] | map('random') | list }}", "random"),
        ("{{ lipsum(1) }}", "lipsum"),
    ],
)
def test_other_ways_to_the_clock_or_to_chance_are_found(template: str, name: str) -> None:
    assert clock.reads(template, {"date_string"}) == name


CONDITIONS = st.recursive(
    st.sampled_from(
        [
            *("date_string is defined", "date_string is not defined", "not date_string is defined"),
            *("date_string is undefined", "strftime_now is defined", "date_string", "not date_string", "other"),
            *("other is defined", "true", "false", "messages", "date_string is none", "date_string == 'x'"),
        ]
    ),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | st.builds("(not {})".format, inner)
    ),
    max_leaves=3,
)
EXPRESSIONS = st.sampled_from(
    [
        *("strftime_now('%d')", "date_string", "other", "'text'", "date_string | default(strftime_now('%d'))"),
        *("other | default(date_string | default(strftime_now('%d')))", "date_string or strftime_now('%d')"),
        *("date_string | default(strftime_now('%d'), true)", "x"),
    ]
)
TEXTS = st.recursive(
    st.builds("{{{{ {} }}}}".format, EXPRESSIONS)
    | st.builds("{{{{ {} if {} else {} }}}}".format, EXPRESSIONS, CONDITIONS, EXPRESSIONS)
    | st.builds("{{% set {} = {} %}}".format, st.sampled_from(["date_string", "other", "x"]), EXPRESSIONS),
    lambda inner: (
        st.builds("{}{}".format, inner, inner)
        | st.builds("{{% if {} %}}{}{{% endif %}}".format, CONDITIONS, inner)
        | st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, CONDITIONS, inner, inner)
        | st.builds(
            "{{% if {} %}}{}{{% elif {} %}}{}{{% else %}}{}{{% endif %}}".format,
            CONDITIONS,
            inner,
            CONDITIONS,
            inner,
            inner,
        )
        | st.builds("{{% for {} in messages %}}{}{{% endfor %}}".format, st.sampled_from(["date_string", "m"]), inner)
        | st.builds("{{% macro f(x) %}}{}{{% endmacro %}}{{{{ f(date_string) }}}}".format, inner)
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=400)
@given(TEXTS, st.sampled_from(["1 Jan 2026", "", None, 0]), st.booleans())
def test_no_template_that_is_taken_for_pinned_renders_differently_on_another_day(
    template: str, date: object, other: bool
) -> None:
    if clock.reads(template, {"date_string"}) is None:
        more = {"other": "o"} if other else {}
        assert not differs(template, messages=USER, date_string=date, **more), template


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


FILES = [
    ("chat_template.jinja", lambda text: text),
    ("additional_chat_templates/tool_use.jinja", lambda text: text),
    ("chat_template.json", lambda text: json.dumps({"chat_template": text})),
    ("tokenizer_config.json", lambda text: json.dumps({"chat_template": text})),
    ("tokenizer_config.json", lambda text: json.dumps({"chat_template": [{"name": "tool_use", "template": text}]})),
    ("processor_config.json", lambda text: json.dumps({"chat_template": {"default": text}})),
]


@pytest.mark.parametrize(("name", "made"), FILES)
def test_template_of_a_model_is_refused_until_what_it_reads_is_given(tmp_path: Path, name: str, made: Any) -> None:
    write(tmp_path, name, made(LLAMA))
    for arguments in ([], ["--default-chat-template-kwargs", '{"enable_thinking": false}']):
        with pytest.raises(RefusedError, match=r"reads the clock.*--default-chat-template-kwargs.*date_string"):
            templates.check(tmp_path, arguments, {})
    templates.check(tmp_path, PIN, {})
    templates.check(tmp_path, ["=".join(PIN)], {})
    write(tmp_path, name, made(MISTRAL))
    with pytest.raises(RefusedError, match=r"reads none of date_string instead.*--chat-template=FILE"):
        templates.check(tmp_path, PIN, {})
    write(tmp_path, name, made(DATELESS))
    templates.check(tmp_path, [], {})


@pytest.mark.parametrize("flag", [["--chat-template", "{}"], ["--chat-template={}"]])
def test_template_of_the_command_line_is_looked_at_and_those_of_the_model_are_not(
    tmp_path: Path, flag: list[str]
) -> None:
    def with_template(text: str) -> list[str]:
        return [word.replace("{}", text, 1) for word in flag]

    write(tmp_path, "chat_template.jinja", MISTRAL)
    templates.check(tmp_path, with_template(DATELESS), {})  # inline: the documented remedy
    with pytest.raises(RefusedError, match="template in --chat-template reads the clock"):
        templates.check(tmp_path, with_template(LLAMA), {})
    templates.check(tmp_path, [*with_template(LLAMA), *PIN], {})
    write(tmp_path, "root/template.jinja", MISTRAL)
    with pytest.raises(RefusedError, match=r"template in /template\.jinja reads the clock"):
        templates.check(tmp_path, with_template("/template.jinja"), {}, root=tmp_path / "root")
    with pytest.raises(RefusedError, match=r"there is no file /other\.jinja; correct spec\.engine\.extraArgs"):
        templates.check(tmp_path, with_template("/other.jinja"), {}, root=tmp_path / "root")
    templates.check(tmp_path, with_template("template_chatml.jinja"), {})  # one of vLLM's own


def test_remedy_names_a_variable_that_really_pins_the_date(tmp_path: Path) -> None:
    write(tmp_path, "chat_template.jinja", LLAMA.replace("date_string", "today"))
    with pytest.raises(RefusedError) as error:
        templates.check(tmp_path, PIN, {})
    assert """add --default-chat-template-kwargs '{"today": "1 Jan 2026"}'""" in str(error.value)
    templates.check(tmp_path, ["--default-chat-template-kwargs", '{"today": "1 Jan 2026"}'], {})


def test_template_that_draws_by_chance_is_refused_as_that(tmp_path: Path) -> None:
    write(tmp_path, "chat_template.jinja", "{{ messages | random }}")
    with pytest.raises(RefusedError, match=r"draws by chance \(random\)"):
        templates.check(tmp_path, PIN, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% if strftime_now %}", "jinja2 does not read it"),
        ("{{ strftime_now" + "(" * 3000 + ")" * 3000 + "}}", "it is nested too deeply"),
    ],
)
def test_template_that_cannot_be_looked_through_is_refused_as_unclear(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, "chat_template.jinja", text)
    with pytest.raises(RefusedError, match=f"whether it reads that is unclear: ({words})"):
        templates.check(tmp_path, [], {})


def test_without_jinja2_a_template_that_names_the_clock_is_unclear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", nothing)
    write(tmp_path, "chat_template.jinja", DATELESS)
    templates.check(tmp_path, [], {})  # nearly all are known without it
    write(tmp_path, "chat_template.jinja", LLAMA)
    with pytest.raises(RefusedError, match="has no jinja2 to look through it with"):
        templates.check(tmp_path, PIN, {})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1' + "0" * 5000 + "}", "\udcff", "5", '{"chat_template": 5}'])
def test_templates_file_that_nobody_can_read_stands_in_nobodys_way(tmp_path: Path, text: str) -> None:
    (tmp_path / "chat_template.json").write_bytes(text.encode(errors="surrogateescape"))
    templates.check(tmp_path, ["--default-chat-template-kwargs", text], {})


def test_gpt_oss_needs_the_date_that_harmony_reads_and_no_other_pin_helps(tmp_path: Path) -> None:
    write(tmp_path, "chat_template.jinja", GPT_OSS)
    for environment in ({}, {"VLLM_SYSTEM_START_DATE": ""}):
        for arguments in ([], PIN, ["--chat-template", DATELESS]):
            with pytest.raises(RefusedError, match=r"set VLLM_SYSTEM_START_DATE, such as 2026-01-01, in spec\.engine"):
                templates.check(tmp_path, arguments, environment, "gpt_oss")
    templates.check(tmp_path, [], {"VLLM_SYSTEM_START_DATE": "2026-01-01"}, "gpt_oss")


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_the_date_of_harmony_may_be_set_in_every_profile(profile: Any) -> None:
    assert "VLLM_SYSTEM_START_DATE" in {item.name for item in profile.allowed_variables}
    assert "VLLM_SYSTEM_START_DATE" not in profile.unrecorded  # an image may set it, too, and then it is told apart


def given_names(arguments: list[str]) -> Collection[str]:
    return templates.given(arguments).defaults


def test_what_the_command_line_gives_is_read_in_both_spellings() -> None:
    assert given_names(PIN) == given_names(["=".join(PIN)]) == {"date_string"}
    for arguments in ([], PIN[:1], ["--default-chat-template-kwargs=5"], ["--default-chat-template-kwargs", "{"]):
        assert given_names(arguments) == set()
