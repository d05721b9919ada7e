"""``detinf explain`` and ``detinf profile``: why a pod is as it is, and what is known of an engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detinf.api.unknown import unknown_fields
from detinf.api.validation import validate
from detinf.controller.explain import Row, Section, explain, gap_row, request_rows
from detinf.controller.settings import OperatorSettings, SettingsError, parse
from detinf.engines.admission import Decision, admission, nearest
from detinf.engines.catalogue import PROFILES
from detinf.engines.profile import Profile, Validated

profile = typer.Typer(no_args_is_help=True, help="What is known of engines.")
SOURCES = """\
Sources: "vllm FILE | TEXT" and "vllm-ascend FILE | TEXT" are published packages: TEXT stands in that FILE of theirs.
"document NAME | TEXT" is what no package says; anything else is a field of the resource, the chart or this project."""
COLOURS = {Decision.SUPPORTED: "green", Decision.PRE_RELEASE: "yellow"}


def print_sections(console: Console, sections: Sequence[Section]) -> None:
    """Print each thing with its reason and its source below it: no line is cut, so that all can be searched."""
    for section in sections:
        console.print(f"\n[bold underline]{escape(section.title)}[/]", soft_wrap=True)
        for row in section.rows:
            console.print(f"[bold]{escape(row.what)}[/]", soft_wrap=True, highlight=False)
            console.print(f"    {escape(row.why)}", soft_wrap=True, highlight=False)
            if row.source:
                console.print(f"    [dim]from: {escape(row.source)}[/]", soft_wrap=True, highlight=False)
    console.print(f"\n{SOURCES}", soft_wrap=True, highlight=False)


class _Strict(yaml.SafeLoader):
    """A safe loader that takes no key twice: the second would win in silence, and an API server refuses it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping.

        Raises:
            yaml.constructor.ConstructorError: where a key is there twice.
        """
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_resource(path: Path) -> dict[str, Any]:
    """Return the resource of a file.

    Raises:
        typer.BadParameter: where there is none in it.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict)  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise typer.BadParameter(f"{path}: {error}; give a file with one DeterministicInference") from error
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        raise typer.BadParameter(f"{path} holds no resource; give a file with one DeterministicInference")
    if not isinstance(content["metadata"].get("name"), str):
        raise typer.BadParameter(f"{path}: metadata.name is missing; give the resource a name")
    metadata = {"namespace": "default", "uid": "00000000-0000-0000-0000-000000000000"} | content["metadata"]
    return content | {"metadata": metadata}


def read_settings(config: Path | None, default: str | None, resource: dict[str, Any]) -> OperatorSettings:
    """Return the chart's settings; without them every folder is allowed, since the chart decides that elsewhere.

    Raises:
        typer.BadParameter: where the settings cannot be read.
    """
    try:
        if config is None:
            source = ((resource.get("spec") or {}).get("model") or {}).get("source") or {}
            folder = (source.get("hostPath") or {}).get("path")
            settings = OperatorSettings(
                "(the chart's image of the probe)", host_path_prefixes=(folder,) if folder else ()
            )
        else:
            settings = parse(yaml.safe_load(config.read_text(encoding="utf-8")))
    except (OSError, TypeError, yaml.YAMLError, SettingsError) as error:
        raise typer.BadParameter(f"{config}: {error}", param_hint="--config") from error
    if default is not None and default not in settings.profiles:
        known = ", ".join(sorted(settings.profiles))
        raise typer.BadParameter(f"{default!r} is none of {known}", param_hint="--profile")
    return replace(settings, default_profile=default or settings.default_profile)


def explain_command(
    file: Annotated[Path, typer.Option("-f", "--file", help="A file with one DeterministicInference.")],
    default: Annotated[
        str | None, typer.Option("--profile", help="Where the resource names none: the chart's default.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="The chart's config.yaml (images, site profiles, folders).")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Image where the resource names none.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say why the pod of a resource is as it is. Exit code: 0, or 1 where the resource cannot be carried out."""
    resource = read_resource(file)
    settings = read_settings(config, default, resource)
    if image is not None:
        settings = replace(settings, profile_images=dict.fromkeys(settings.profiles, image))
    strangers = unknown_fields(resource)
    spec, problems = validate(resource, settings.rules())
    # What is misspelled is told alone: that it is missing follows from it.
    problems = strangers or problems
    console = Console(stderr=as_json)
    if spec is None or problems:
        for problem in problems:
            console.print(f"[bold red]refused[/] {escape(str(problem))}", soft_wrap=True, highlight=False)
        if config is None and not strangers:
            words = "What the chart sets is not known here: --profile and --image stand for it, or --config."
            console.print(words, soft_wrap=True)
        raise typer.Exit(1)
    sections = explain(resource, spec, settings)
    if as_json:
        print(json.dumps([asdict(section) for section in sections], indent=1))
    else:
        print_sections(console, sections)


@profile.command("list")
def list_command() -> None:
    """List the profiles of this release."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("profile", "for", "NPU", "what it is"):
        table.add_column(column, overflow="fold")
    for item in PROFILES.values():
        versions = ", ".join(f"{name} {version}" for name, listed in item.packages.items() for version in listed)
        release = " (pre-release)" if item.pre_release else ""
        table.add_row(item.name + release, versions or "-", "yes" if item.is_real else "no", item.description)
    Console().print(table)


def _facts(item: Validated) -> str:
    return ", ".join(f"{key} {value}" for key, value in item.config.items())


def sections_of(item: Profile) -> list[Section]:
    """Return everything that a profile knows."""
    locked = [Row(", ".join(group.flags), group.reason, group.source) for group in item.locked_flags]
    keys = [Row(f"{group.flag}: {', '.join(group.keys)}", group.reason, group.source) for group in item.locked_keys]
    names = [Row(", ".join(group.names), group.reason, group.source) for group in item.locked_variables]
    flags = [
        Row(f"{one.flag}{'' if one.takes == 'Nothing' else '=VALUE'}", one.reason, "") for one in item.allowed_flags
    ]
    sections = [
        Section(
            "Arguments of vllm serve",
            [Row(f"{one.flag} {one.value or ''}".strip(), one.reason, one.source) for one in item.arguments],
        ),
        Section("Variables", [Row(f"{one.name}={one.value}", one.reason, one.source) for one in item.variables]),
        Section("Variables that must not be there", [Row(one.name, one.reason, one.source) for one in item.unset]),
        Section("Locked flags", locked + keys),
        Section("Locked variables", names),
        Section("Flags that engine.extraArgs may hold", flags),
        Section(
            "Variables that engine.env may hold", [Row(one.name, one.reason, "") for one in item.allowed_variables]
        ),
        Section(
            "Values that are refused",
            [
                Row(f"{one.field}: {', '.join(one.values)}", f"{one.reason}; {one.remedy}", one.source)
                for one in item.refused
            ],
        ),
        Section(
            "What its processes must attest",
            [
                *(Row(f"process {name}", "its attestation must be there", "") for name in item.processes),
                *(Row(one.name, one.reason, one.source) for one in item.symbols),
                *(Row(f"{one.path} = {one.value}", one.reason, one.source) for one in item.configuration),
                *(Row(f"no line {one.text!r}", one.reason, one.source) for one in item.failure_lines),
            ],
        ),
        Section("Requests; what is not listed is refused", list(request_rows(item))),
        Section(
            "Known gaps",
            [gap_row(one) for one in item.gaps],
        ),
        Section(
            "Hardware that the vendor's guide names",
            [
                Row(f"{one.name} ({'served' if one.serves else 'refused'})", one.reason, one.source)
                for one in item.hardware
            ],
        ),
        Section("What could not be looked up", [Row(one.name, one.reason, "") for one in item.unresolved]),
        Section(
            "Stimuli that cannot apply",
            [
                Row(
                    f"{one.stimulus} ({', '.join(one.relations)})", f"{one.reason}; proven by {one.witness}", one.source
                )
                for one in item.not_applicable
            ],
        ),
        Section(
            "Validated",
            [
                Row(f"{one.name} on {', '.join(one.chips)}: {_facts(one)}", one.reason, one.source)
                for one in item.validated
            ],
        ),
    ]
    return [section for section in sections if section.rows]


@profile.command("show")
def show_command(name: Annotated[str, typer.Argument(help="Name of a profile.")]) -> None:
    """Show everything that a profile knows, with reasons and sources."""
    item = PROFILES.get(name)
    if item is None:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(PROFILES)}", param_hint="NAME")
    console = Console()
    console.print(f"[bold]{item.name}[/]: {escape(item.description)}", highlight=False)
    print_sections(console, sections_of(item))


@profile.command("check")
def check_command(
    version: Annotated[str, typer.Argument(help="Version of vLLM-Ascend, such as 0.23.0.post1.")],
) -> None:
    """Say whether a release of vLLM-Ascend can be served. Exit code: 0 where a profile is for it, else 1."""
    entry = admission(version)
    colour = COLOURS.get(entry.decision, "red")
    served = f" with profile {entry.profile}" if entry.profile else ""
    after = f"; the nearest profile is {nearest(version)}" if entry.decision is Decision.NO_PROFILE else ""
    Console().print(
        f"vllm-ascend {escape(version)}: [bold {colour}]{entry.decision}[/]{served}: {entry.reason}"
        + (after if nearest(version) else ""),
        highlight=False,
    )
    raise typer.Exit(0 if entry.profile else 1)
