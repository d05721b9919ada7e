"""What the schema cannot know: profiles, images, allowed folders. And the schema again, for what got past it.

The second is ``detinf.api.reading``.

A resource that cannot be read is a problem to report, never an exception: the API server may hold objects that an
older schema let in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detinf.api import amounts
from detinf.api.reading import Problem, broken_rules, read_name, read_spec
from detinf.api.types import Spec
from detinf.guard import hubs


@dataclass(frozen=True)
class KnownProfile:
    """What validation has to know of an engine profile."""

    image: str | None
    uses_devices: bool
    refuse: Callable[[Spec], list[Problem]] = lambda _: []
    """What this engine is refused with, beside what all engines are."""


@dataclass(frozen=True)
class Rules:
    """What this release and the chart's owner allow."""

    profiles: Mapping[str, KnownProfile]
    default_profile: str | None = None
    profile_images: Mapping[str, str] = field(default_factory=dict)
    host_path_prefixes: tuple[str, ...] = ()


def check(spec: Spec, rules: Rules) -> list[Problem]:
    """Return everything that keeps a readable spec from being carried out."""
    return [*_engine(spec, rules), *_source(spec, rules), *amounts.problems(spec.engine.resources)]


def validate(resource: Mapping[str, Any], rules: Rules) -> tuple[Spec | None, list[Problem]]:
    """Return the spec where it can be read, and every problem; without problems it can be carried out."""
    spec, problems = read_spec(resource)
    problems = [*read_name(resource), *problems]
    if spec is not None:
        problems += check(spec, rules)
        told = {problem.field for problem in problems}
        problems += [problem for problem in broken_rules(resource) if problem.field not in told]
    return spec, problems


def _engine(spec: Spec, rules: Rules) -> list[Problem]:
    known = ", ".join(sorted(rules.profiles))
    name = spec.engine.profile or rules.default_profile
    if not name:
        remedy = f"name one of {known}, or set the chart's engine.defaultProfile"
        return [Problem("spec.engine.profile", "not set", remedy)]
    profile = rules.profiles.get(name)
    if profile is None:
        remedy = f"this release cannot attest that engine; use one of {known}"
        return [Problem("spec.engine.profile", repr(name), remedy)]
    problems = []
    if not (spec.engine.image or rules.profile_images.get(name) or profile.image):
        remedy = f"profile {name} has no published image; name one here or in the chart's engine.images"
        problems.append(Problem("spec.engine.image", "not set", remedy))
    problems += profile.refuse(spec)
    if profile.uses_devices:
        return problems
    if spec.parallelism.tensor > 1:
        remedy = f"profile {name} uses no NPUs; use 1"
        problems.append(Problem("spec.parallelism.tensor", str(spec.parallelism.tensor), remedy))
    for item, value in spec.topology.model_dump(by_alias=True, exclude_none=True, exclude={"drift"}).items():
        remedy = f"profile {name} uses no NPUs, so nothing could verify it; remove it"
        problems.append(Problem(f"spec.topology.{item}", repr(value), remedy))
    return problems


def _source(spec: Spec, rules: Rules) -> list[Problem]:
    source = spec.model.source
    members = source.model_dump(by_alias=True, exclude_none=True)
    if len(members) != 1:
        remedy = "set exactly one of persistentVolumeClaim, hostPath, huggingFace and modelScope"
        return [Problem("spec.model.source", " and ".join(members) or "empty", remedy)]
    if source.hub is not None:
        # The repository becomes a path: what got past an older schema must not climb out of the claim.
        name, wanted = source.hub
        found = hubs.problem(name, wanted.repository, wanted.revision)
        return [Problem(f"spec.model.source.{name}.{found[0]}", repr(found[1]), found[2])] if found else []
    if source.host_path is None:
        return []
    path = source.host_path.path
    # A CR author must not read a node through us: a folder counts as under a prefix by whole components alone.
    parts = path.split("/")
    if not path.startswith("/") or ".." in parts or "." in parts:
        return [Problem("spec.model.source.hostPath.path", repr(path), "use an absolute path without '.' and '..'")]
    cleaned = "/".join(part for part in parts if part) + "/"
    if any(cleaned.startswith(prefix.strip("/") + "/") for prefix in rules.host_path_prefixes if prefix.strip("/")):
        return []
    allowed = ", ".join(rules.host_path_prefixes) or "none"
    remedy = f"use a folder under an allowed prefix ({allowed}), or have the chart's models.hostPathPrefixes extended"
    return [Problem("spec.model.source.hostPath.path", repr(path), remedy)]
