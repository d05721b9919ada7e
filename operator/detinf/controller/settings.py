"""What the chart's owner decides for all resources: read once, from the file that the chart mounts."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from detinf.api.reading import Problem
from detinf.api.types import Spec
from detinf.api.validation import KnownProfile, Rules
from detinf.engines import catalogue, refusals
from detinf.engines.profile import Profile
from detinf.topology.expected import MIND_CLUSTER, LabelNames
from detinf.topology.shapes import problems as impossible_shapes

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class SettingsError(ValueError):
    """Settings that cannot be read; the message names the field, the value and the remedy."""


@dataclass(frozen=True)
class OperatorSettings:
    """The controller's settings; the defaults are the chart's."""

    probe_image: str
    """Image of the probe, with the guard inside."""
    image_pull_policy: PullPolicy = "IfNotPresent"
    """Pull policy of every container."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the resource's namespace."""
    default_profile: str | None = None
    """Engine profile of a resource that names none."""
    profile_images: Mapping[str, str] = field(default_factory=dict)
    """Image by profile, before the profile's own."""
    profiles: Mapping[str, Profile] = field(default_factory=lambda: catalogue.PROFILES)
    """Engine profiles by name: this release's, and the site's."""
    node_labels: LabelNames = MIND_CLUSTER
    """Labels that say what a node's NPUs are."""
    read_nodes: bool = True
    """Whether a pod that serves waits until what replaces it has a place; the controller may then list nodes."""
    host_path_prefixes: tuple[str, ...] = ()
    """Folders of the nodes that resources may mount models from."""
    lease: str = ""
    """Namespace and name of the Lease, for the status; no setting of the chart, but of the process."""
    solo_interval_seconds: int = 15
    width_interval_seconds: int = 60
    stale_after_seconds: int = 300
    gate_timeout_seconds: int = 900

    def refused(self, spec: Spec, profile: Profile) -> list[Problem]:
        """Return what an engine is refused with: its profile's refusals, and shapes that no node has."""
        shapes = impossible_shapes(spec, self.node_labels) if profile.uses_devices else []
        return [*refusals.problems(spec, profile), *shapes]

    def rules(self) -> Rules:
        """Return what resources are validated against."""
        return Rules(
            profiles={
                name: KnownProfile(p.image, p.uses_devices, functools.partial(self.refused, profile=p))
                for name, p in self.profiles.items()
            },
            default_profile=self.default_profile,
            profile_images=self.profile_images,
            host_path_prefixes=self.host_path_prefixes,
        )


FOLDER = "[^/.][^/]*|[.][^/.][^/]*|[.][.][^/]+"
PREFIX = f"^(/({FOLDER}))+/?$"
"""An absolute folder below the root, without `.`, `..` and `//`: those would allow nothing, or more than they say."""


def _prefix(value: str) -> str:
    if not re.fullmatch(PREFIX.strip("^$"), value):
        raise ValueError(
            "must be an absolute folder without '.', '..' and '//', and not the whole node; "
            "correct the chart's models.hostPathPrefixes"
        )
    return value


class _Secret(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=253)


class _NodeLabels(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    chip: str = MIND_CLUSTER.chip
    server_class: str = MIND_CLUSTER.server_class
    driver: str = MIND_CLUSTER.driver


class _File(BaseModel):
    """The file, key by key; an unknown key is a typing error of the chart's owner, and refused."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    probe_image: str = Field(min_length=1)
    image_pull_policy: PullPolicy = "IfNotPresent"
    image_pull_secrets: list[_Secret] = Field(default_factory=list)
    default_profile: str = ""
    profile_images: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    profiles: list[dict[str, Any]] = Field(default_factory=list)
    node_labels: _NodeLabels = _NodeLabels()
    read_nodes: bool = True
    host_path_prefixes: list[Annotated[str, AfterValidator(_prefix), Field(json_schema_extra={"pattern": PREFIX})]] = (
        Field(default_factory=list)
    )
    solo_interval_seconds: int = Field(default=15, ge=1, le=86_400)
    width_interval_seconds: int = Field(default=60, ge=1, le=86_400)
    stale_after_seconds: int = Field(default=300, ge=1, le=86_400)
    gate_timeout_seconds: int = Field(default=900, ge=1, le=86_400)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file; the chart's values are held against it before they reach a cluster."""
    return _File.model_json_schema()


def parse(mapping: Mapping[str, Any]) -> OperatorSettings:
    """Return the settings of a parsed file.

    Args:
        mapping: the file's content, in camelCase as the chart writes it.

    Raises:
        SettingsError: for a missing, unknown or impossible value.
    """
    try:
        file = _File.model_validate(dict(mapping))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        words = first["msg"].removeprefix("Value error, ")
        known = ", ".join(item.alias or name for name, item in _File.model_fields.items())
        raise SettingsError(
            f"{where}: {words} (got {first.get('input')!r:.120}); correct it in the chart's values; "
            f"the settings are {known}"
        ) from error
    try:
        profiles = catalogue.with_site(file.profiles)
    except catalogue.ProfileError as error:
        raise SettingsError(f"profiles: {error} in the chart's engine.profiles") from error
    for name in (file.default_profile, *file.profile_images):
        if name and name not in profiles:
            raise SettingsError(
                f"engine profile {name!r} is unknown; there are {', '.join(sorted(profiles))}: "
                "correct the chart's engine.defaultProfile and engine.images"
            )
    return OperatorSettings(
        probe_image=file.probe_image,
        image_pull_policy=file.image_pull_policy,
        image_pull_secrets=tuple(secret.name for secret in file.image_pull_secrets),
        default_profile=file.default_profile or None,
        profile_images=dict(file.profile_images),
        profiles=profiles,
        node_labels=LabelNames(**file.node_labels.model_dump()),
        read_nodes=file.read_nodes,
        host_path_prefixes=tuple(file.host_path_prefixes),
        solo_interval_seconds=file.solo_interval_seconds,
        width_interval_seconds=file.width_interval_seconds,
        stale_after_seconds=file.stale_after_seconds,
        gate_timeout_seconds=file.gate_timeout_seconds,
    )
