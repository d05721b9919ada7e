"""The profiles of this release, and which one a resource runs with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detinf.api.types import Spec
from detinf.engines import simulated, vllm_cpu
from detinf.engines.profile import Profile

PROFILES: dict[str, Profile] = {profile.name: profile for profile in (simulated.PROFILE, vllm_cpu.PROFILE)}


@dataclass(frozen=True)
class Choice:
    """The engine that a resource runs with."""

    profile: Profile
    image: str


def choose(spec: Spec, *, default_profile: str | None, images: Mapping[str, str]) -> Choice:
    """Return the profile and the image of a valid resource.

    Args:
        spec: a spec that ``detinf.api.validation`` has no problem with.
        default_profile: where the resource names none.
        images: the chart's images by profile.

    Raises:
        LookupError: where profile or image are missing, which validation would have said.
    """
    name = spec.engine.profile or default_profile
    profile = PROFILES.get(name or "")
    if profile is None:
        raise LookupError(f"engine profile {name!r}; validate the resource first")
    image = spec.engine.image or images.get(profile.name) or profile.image
    if not image:
        raise LookupError(f"no image for engine profile {name!r}; validate the resource first")
    return Choice(profile, image)
