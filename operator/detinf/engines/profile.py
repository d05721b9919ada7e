"""What a profile is: what is known of one engine release, as data.

The files are ``profiles/*.yaml``; the chart's owner may add others (``engine.profiles``), held to the same schema.
Every fact has its reason and its source: ``PACKAGE FILE | TEXT``, where the text stands in that file of the published
package, or ``document NAME | TEXT`` for what no package says. ``tests/sources`` resolves them.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from detinf.documents import StimulusWitness
from detinf.guard.model_shape import KEYS

Text = Annotated[str, Field(min_length=8)]
Flag = Annotated[str, Field(pattern=r"^--[a-z0-9][a-z0-9-]*$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
UnrecordedName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\*?$")]
Metric = Literal[
    "steps",
    "generated",
    "running",
    "waiting",
    "prompts",
    "preemptions",
    "prefixCacheQueries",
    "prefixCacheHits",
    "corrupted",
    "drafts",
]
Source = Annotated[str, Field(pattern=r"^(vllm|vllm-ascend|detinf|document) [^|]+ \| .+$")]


class Part(BaseModel):
    """A part of a profile; an unknown key is a typing error, and refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )


class Fact(Part):
    """Something that is known of an engine, why it matters, and where it is written."""

    reason: Text
    source: Source


class Argument(Fact):
    """One argument after ``vllm serve MODEL``; whoever runs the engine cannot change it."""

    flag: Flag
    value: str | None = None
    """Text with the placeholders of ``detinf.engines.plan.values``; absent for a flag that stands alone."""
    aliases: tuple[str, ...] = ()
    """Short spellings of the flag, such as ``-tp``."""


class Variable(Fact):
    """One environment variable of the plan."""

    name: VariableName
    value: str


class PodVariable(Part):
    """One variable of the container that is no part of the plan: it differs by pod, or cannot change outputs."""

    name: VariableName
    value: str | None = None
    field: str | None = None
    """Field of the pod whose value it has, such as ``status.podIP``."""
    reason: Text

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.value is None) == (self.field is None):
            raise ValueError("podVariables: give exactly one of value and field")
        return self


class UnrecordedVariables(Fact):
    """Variables that others than the operator give each container, and that stay out of the fingerprint."""

    names: Annotated[tuple[UnrecordedName, ...], Field(min_length=1)]
    """Names, or prefixes that end with ``*`` where who sets them defines a family."""


class Unset(Fact):
    """One environment variable that must not be there."""

    name: VariableName


class LockedFlags(Fact):
    """Flags that nobody may set, beside those of ``arguments``."""

    flags: Annotated[tuple[str, ...], Field(min_length=1)]
    """Long flags without ``--no-``, and their short spellings."""
    remedy: Text


class LockedVariables(Fact):
    """Variables that nobody may set, beside those of ``variables`` and ``unset``."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names, or prefixes that end with ``*``."""
    remedy: Text


class LockedKeys(Fact):
    """Keys of a flag that takes JSON, to say by name what is wrong with one; the flag as a whole is locked anyway."""

    flag: Flag
    keys: Annotated[tuple[str, ...], Field(min_length=1)]


class AllowedFlag(Part):
    """A flag that a resource may add (``engine.extraArgs``)."""

    flag: Flag
    takes: Literal["Nothing", "Value"] = "Value"
    values: tuple[str, ...] | None = None
    """Allowed values, where not all are."""
    reason: Text
    """Why it cannot break the promise."""


class AllowedVariable(Part):
    """A variable that a resource may set (``engine.env``)."""

    name: VariableName
    reason: Text
    recorded: bool = False
    """Whether it can change outputs: it is recorded in the fingerprint where something else than the plan sets it."""


class Refused(Fact):
    """Values of a field that this engine is refused with."""

    field: str
    """Such as ``spec.model.dtype``."""
    values: tuple[str, ...]
    remedy: Text


class Symbol(Fact):
    """What a name must be in every worker once it has warmed up (``detinf.documents.PlanSymbol``)."""

    name: str
    same_as: str | None = None
    values: tuple[str, ...] = ()


class Setting(Fact):
    """What the engine's effective configuration must hold at a path of ``VllmConfig``."""

    path: str
    value: str
    """JSON text with the placeholders of ``detinf.engines.plan.values``."""


class FailureLine(Fact):
    """A record of the engine's log that means that it must not go on, and what it tells.

    It counts where the file of its source logs it (``detinf.guard.said``): users' words stand in logs, too.
    """

    text: str
    """A part of its text as the file has it."""

    @property
    def file(self) -> str:
        """The file that logs it, from the package's folder on."""
        return self.source.partition(" | ")[0].partition(" ")[2]

    @model_validator(mode="after")
    def _logged_by_a_package(self) -> Self:
        if not re.fullmatch(r"vllm(_ascend)?/[a-z0-9_/]+\.py", self.file):
            raise ValueError(
                f"failureLines: {self.text!r}: source names {self.file!r}, which is no module of vLLM's packages; "
                "name the file that logs it"
            )
        return self


class RequestRule(Fact):
    """What is known of routes or fields of requests, and what follows from it."""

    kind: Literal["Promised", "Unpromised", "Refused"]
    """``Unpromised`` is served; the promise says nothing about its answer."""
    names: Annotated[tuple[str, ...], Field(min_length=1)]
    remedy: Text | None = None
    """What to do instead; of what is refused."""

    @model_validator(mode="after")
    def _with_remedy(self) -> Self:
        if (self.kind == "Refused") != (self.remedy is not None):
            raise ValueError(f"{', '.join(self.names[:3])}: a remedy belongs to what is refused, and to nothing else")
        return self


class RouteRule(RequestRule):
    """Routes of the engine, as ``POST /v1/completions``; ``WEBSOCKET`` stands for a method, too."""

    names: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(GET|POST|PUT|PATCH|DELETE|WEBSOCKET) /[^ ]*$")], ...],
        Field(min_length=1),
    ]


class FieldRule(RequestRule):
    """Fields of a request's JSON body."""

    routes: Annotated[tuple[str, ...], Field(min_length=1)]
    values: tuple[str, ...] = ()
    """JSON texts of values with which the field is as if it were not there; null always is."""

    @model_validator(mode="after")
    def _json(self) -> Self:
        for text in self.values:
            json.loads(text)  # a ValueError, which pydantic tells
        return self


class IdentityFile(Fact):
    """A file of the engine's image whose bytes can change a number; its digest is in the fingerprint."""

    name: str
    path: str
    """With ``${VARIABLE}`` of the engine's environment, and ``${package:MODULE}`` for the folder of a module."""


class HostPath(Fact):
    """A path of the node that the engine sees read-only."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
    path: str
    type: Literal["Directory", "File"]


class Gap(Fact):
    """Where this release breaks its own promise, and what closes that."""

    name: str
    closure: str | None = None
    """What closes it; absent where nothing does yet."""


class Hardware(Fact):
    """A family of servers that the vendor's guide names, and whether this profile serves on it."""

    name: str
    serves: bool


class Unresolved(Part):
    """What nobody could look up: no package and no document says it."""

    name: str
    reason: Text


class NotApplicable(Fact):
    """A stimulus that cannot disturb this engine, and what proves that it could not."""

    stimulus: str
    relations: Annotated[tuple[str, ...], Field(min_length=1)]
    """The probe's names for it, such as S06."""
    witness: StimulusWitness


class Validated(Fact):
    """A model that somebody validated on these chips, known by its own configuration and not by its folder's name."""

    name: str
    """What it is called, as in ``Qwen3-8B``: for people, and nothing is decided by it."""
    config: Annotated[dict[str, str | int | bool], Field(min_length=1)]
    """Members of config.json, just as the guard tells them (``detinf.guard.model_shape``): all that it would tell of
    this model, and no other."""
    chips: Annotated[tuple[str, ...], Field(min_length=1)]
    """SoC names, as the guard attests them."""

    @model_validator(mode="after")
    def _told(self) -> Self:
        if unknown := sorted(set(self.config) - set(KEYS)):
            raise ValueError(f"config: {', '.join(unknown)} is told by no guard; use members of {', '.join(KEYS)}")
        if nothing := sorted(key for key, value in self.config.items() if value is False):
            raise ValueError(f"config: {', '.join(nothing)} is false, which the guard leaves out; remove it")
        return self


class Profile(Part):
    """One engine release family."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
    description: Text
    packages: dict[str, tuple[str, ...]] = {}
    """Versions that the profile is for, or patterns with ``*``, by distribution: the guard refuses an image with
    another one. A version with a local part (``+``) must be that very one, another is any build of it."""
    pre_release: bool = False
    image: str | None = None
    """Image where neither the resource nor the chart names one; absent where none is published."""
    uses_devices: bool
    """Whether a replica takes ``parallelism.tensor`` NPUs; without them the plan expects none."""
    is_real: bool = True
    """Whether a PASS says something about NPU kernels."""
    arguments: tuple[Argument, ...]
    """Of the plan: everything that can change outputs."""
    variables: tuple[Variable, ...] = ()
    """Of the plan: set by the guard after ``scripts``, verified on the running engine."""
    unset: tuple[Unset, ...] = ()
    """Of the plan: removed by the guard after ``scripts``, and verified on the running engine."""
    pod_variables: tuple[PodVariable, ...] = ()
    """Set on the container and outside the plan."""
    unrecorded_variables: tuple[UnrecordedVariables, ...] = ()
    """Not set by the operator, different in each pod, and outside the fingerprint; a resource may not set them."""
    locked_flags: tuple[LockedFlags, ...] = ()
    locked_keys: tuple[LockedKeys, ...] = ()
    locked_variables: tuple[LockedVariables, ...] = ()
    allowed_flags: tuple[AllowedFlag, ...] = ()
    allowed_variables: tuple[AllowedVariable, ...] = ()
    refused: tuple[Refused, ...] = ()
    middleware: str | None = None
    """``--middleware`` that puts the boot into every answer and refuses what the lists of ``routes`` and
    ``requestFields`` do not serve; absent where the engine does that by itself."""
    processes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Who has to attest before the replica may serve; every rank of ``worker`` comes to it."""
    gate_widths: tuple[int, ...] = (2, 8, 16)
    """Widths that the gate proves, where ``maxNumSeqs`` allows them."""
    default_requests: dict[str, str] = {}
    """Resource requests of the engine container where the resource names none."""
    shared_memory: str = "1Gi"
    """Size limit of /dev/shm, which workers exchange tensors through."""
    host_paths: tuple[HostPath, ...] = ()
    supplemental_groups: tuple[int, ...] = ()
    """Groups of the engine's processes, such as the one that owns the device nodes."""
    worker: str | None = None
    """``module:Class`` of the engine's workers, where the plug-in attests in them."""
    initialiser: str | None = None
    """``module:function`` that switches batch invariance on in a worker."""
    symbols: tuple[Symbol, ...] = ()
    configuration: tuple[Setting, ...] = ()
    files: tuple[IdentityFile, ...] = ()
    failure_lines: tuple[FailureLine, ...] = ()
    routes: tuple[RouteRule, ...] = ()
    """Which routes are served; of two rules for one the later counts, and what has none is refused."""
    request_fields: tuple[FieldRule, ...] = ()
    """The same for fields of the bodies of promised routes, and of whatever else is looked into."""
    fingerprint_in_answers: bool = False
    """Whether the engine takes ``--fingerprint-mode custom`` and so returns our fingerprint in its answers."""
    scripts: tuple[str, ...] = ()
    """Shell scripts that the guard sources before it sets ``variables``; a path may begin with ``${VARIABLE}`` of the
    environment as the scripts before it left it."""
    gaps: tuple[Gap, ...] = ()
    hardware: tuple[Hardware, ...] = ()
    unresolved: tuple[Unresolved, ...] = ()
    not_applicable: tuple[NotApplicable, ...] = ()
    validated: tuple[Validated, ...] = ()
    metrics: dict[Metric, str] = {}
    """Names of the engine's series by what the probe needs them for; counters without ``_total``."""

    @property
    def unrecorded(self) -> list[str]:
        """What the plan leaves out of the fingerprint, as ``detinf.guard.variables.unrecorded`` reads it.

        What a resource may set and is not ``recorded`` cannot change outputs, wherever it comes from. What the pod is
        given with a value of ours may have that value alone.
        """
        pod = [item.name if item.value is None else f"{item.name}={item.value}" for item in self.pod_variables]
        others = [name for group in self.unrecorded_variables for name in group.names]
        return sorted({*(item.name for item in self.allowed_variables if not item.recorded), *pod, *others})

    @property
    def pinned_variables(self) -> list[str]:
        """Names that are set, or must not be there."""
        listed = ([item.name for item in self.variables], [item.name for item in self.unset])
        return [*listed[0], *listed[1], *(item.name for item in self.pod_variables)]

    @model_validator(mode="after")
    def _without_contradiction(self) -> Self:
        for what, listed in (
            ("arguments", [item.flag for item in self.arguments]),
            ("allowedFlags", [item.flag for item in self.allowed_flags]),
            ("variables, unset and podVariables", self.pinned_variables),
        ):
            if twice := sorted({item for item in listed if listed.count(item) > 1}):
                raise ValueError(f"{what}: {', '.join(twice)} stands there twice; keep one")
        locked = {base(item.flag) for item in self.arguments}
        locked |= {flag for group in self.locked_flags for flag in group.flags}
        if both := sorted(locked & {item.flag for item in self.allowed_flags}):
            raise ValueError(f"allowedFlags: {', '.join(both)} is locked too; remove it from one of the lists")
        pinned = {*self.pinned_variables, *(name for group in self.locked_variables for name in group.names)}
        if both := sorted(pinned & {item.name for item in self.allowed_variables}):
            raise ValueError(f"allowedVariables: {', '.join(both)} is locked too; remove it from one of the lists")
        return self

    def locked_variable(self, name: str) -> LockedVariables | None:
        """Return the entry that locks a variable by name; exact names go before prefixes."""
        for exact in (True, False):
            for group in self.locked_variables:
                for item in group.names:
                    matches = name == item if exact else item.endswith("*") and name.startswith(item[:-1])
                    if matches:
                        return group
        return None


def base(flag: str) -> str:
    """Return the flag that ``--no-x`` is a spelling of."""
    return "--" + flag.removeprefix("--").removeprefix("no-")
