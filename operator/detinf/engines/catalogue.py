"""The profiles: those of this release, those that the chart's owner adds, and which one a resource runs with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from pydantic import ValidationError

from detinf.api.types import Spec
from detinf.engines.inheritance import merge
from detinf.engines.profile import Profile


class ProfileError(ValueError):
    """A profile that cannot be used; the message names it, the field, the value and the remedy."""


class Loader(yaml.CSafeLoader):
    """YAML that refuses a key that stands twice, where the second would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping.

        Raises:
            ProfileError: for a key that stands twice.
        """
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise ProfileError(f"profile: line {node.start_mark.line + 1}: {', '.join(twice)} stands twice; keep one")
        return super().construct_mapping(node, deep)


def shipped() -> dict[str, dict[str, Any]]:
    """Return the content of ``profiles/*.yaml`` by name, as it is written."""
    folder = resources.files("detinf.engines") / "profiles"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    contents = [yaml.load(file.read_text(encoding="utf-8"), Loader) for file in files]  # noqa: S506 - a safe loader
    return {content["name"]: content for content in contents}


def resolve(written: Mapping[str, Mapping[str, Any]], name: str, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a profile's content with everything that it inherits.

    Raises:
        ProfileError: where it inherits from one that is not there, or from itself.
    """
    if name not in written:
        heir = path[-1] if path else name
        raise ProfileError(f"profile {heir}: inherits {name!r}, which is none of {', '.join(sorted(written))}")
    if name in path:
        raise ProfileError(f"profile {name}: inherits from itself by way of {', '.join(path)}; remove one `inherits`")
    content = dict(written[name])
    parent = content.get("inherits")
    return merge(resolve(written, str(parent), (*path, name)) if parent else {}, content)


def read(written: Mapping[str, Mapping[str, Any]]) -> dict[str, Profile]:
    """Return the profiles by name; abstract ones are only inherited from.

    Raises:
        ProfileError: for what is no profile.
    """
    profiles = {}
    for name, content in written.items():
        if content.get("abstract"):
            continue
        try:
            profiles[name] = Profile.model_validate(resolve(written, name))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "profile"
            raise ProfileError(
                f"profile {name}: {where}: {first['msg']} (got {first.get('input')!r:.120}); correct it"
            ) from error
    return profiles


SHIPPED = shipped()
PROFILES: Mapping[str, Profile] = read(SHIPPED)
"""The profiles of this release."""


def with_site(site: Iterable[Mapping[str, Any]]) -> Mapping[str, Profile]:
    """Return this release's profiles and the site's; one of the same name replaces ours and may inherit from it.

    Raises:
        ProfileError: for what is no profile.
    """
    written: dict[str, Mapping[str, Any]] = dict(SHIPPED)
    for content in site:
        name = content.get("name")
        if not isinstance(name, str):
            raise ProfileError(f"profile without a name: {dict(content)!r:.120}; give it one")
        over_ours = content.get("inherits") == name
        written[name] = merge(resolve(SHIPPED, name), dict(content)) if over_ours else content
    return read(written)


@dataclass(frozen=True)
class Choice:
    """The engine that a resource runs with."""

    profile: Profile
    image: str


def choose(
    spec: Spec,
    *,
    default_profile: str | None,
    images: Mapping[str, str],
    profiles: Mapping[str, Profile] = PROFILES,
) -> Choice:
    """Return the profile and the image of a valid resource.

    Args:
        spec: a spec that ``detinf.api.validation`` has no problem with.
        default_profile: where the resource names none.
        images: the chart's images by profile.
        profiles: the profiles by name.

    Raises:
        LookupError: where profile or image are missing, which validation would have said.
    """
    name = spec.engine.profile or default_profile
    profile = profiles.get(name or "")
    if profile is None:
        raise LookupError(f"engine profile {name!r}; validate the resource first")
    image = spec.engine.image or images.get(profile.name) or profile.image
    if not image:
        raise LookupError(f"no image for engine profile {name!r}; validate the resource first")
    return Choice(profile, image)
