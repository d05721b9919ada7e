"""Whether a divergence is acted on: what nobody validated is observed first, unless its owner says otherwise.

What an engine serves and runs on is known when its guard has attested it: the model by its own configuration, the chip
by its own name. No folder's name and nothing that the resource declares counts. Until then divergences are acted on:
what is not known yet is held as what is promised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from detinf.api.types import ProbeMode, Spec
from detinf.engines.profile import Profile, Validated

NOT_KNOWN = "an engine has to attest its model and its chip before it is known whether somebody validated them"


@dataclass(frozen=True)
class Attested:
    """What an engine's guard attested of the two."""

    model: Mapping[str, str | int | bool]
    """What it told of config.json (``detinf.guard.model_shape``)."""
    chip: str | None
    """SoC name."""


@dataclass(frozen=True)
class Acting:
    """What follows from a divergence, and why."""

    mode: ProbeMode | None
    """None: not known yet, and acted on meanwhile."""
    because: str

    @property
    def observing(self) -> str | None:
        """Why divergences are only reported; None where they are acted on."""
        return self.because if self.mode is ProbeMode.OBSERVE else None


def decided_before(spec: Spec, profile: Profile) -> Acting | None:
    """Return what is known without any engine; None where engines decide.

    An engine without NPUs counts as validated: its tests run on the machine that everything is developed on.
    """
    if spec.probe.mode is not None:
        return Acting(spec.probe.mode, f"spec.probe.mode is {spec.probe.mode}")
    if not profile.is_real:
        return Acting(ProbeMode.ENFORCE, "the engine runs no NPU's kernels, and is validated where it was developed")
    return None


def acting(spec: Spec, profile: Profile, attested: Iterable[Attested]) -> Acting:
    """Return what follows from a divergence.

    Args:
        spec: the resource's spec.
        profile: of its engines.
        attested: what its engines attested; one of them that is validated is enough for all to be held to the promise.
    """
    decided = decided_before(spec, profile)
    if decided is not None:
        return decided
    unlike = []
    for item in attested:
        if (found := validated_as(profile, item)) is not None:
            words = f"{found.name} on {item.chip} was validated with {profile.name}"
            return Acting(ProbeMode.ENFORCE, words)
        unlike.append(_unlike(profile, item))
    if not unlike:
        return Acting(None, NOT_KNOWN)
    return Acting(ProbeMode.OBSERVE, f"{unlike[0]}; spec.probe.mode: Enforce says otherwise")


def validated_as(profile: Profile, attested: Attested) -> Validated | None:
    """Return what a profile knows of a model and a chip; None where nobody validated the two together."""
    return next(
        (
            item
            for item in profile.validated
            if item.config == dict(attested.model) and attested.chip is not None and attested.chip in item.chips
        ),
        None,
    )


def _unlike(profile: Profile, attested: Attested) -> str:
    """Return in what an engine differs from what was validated: its chip, or the model that is nearest to its own."""
    kind = attested.model.get("model_type", "without a model_type")
    where = f"on {attested.chip}" if attested.chip else "on a chip that its guard could not read"
    known = next((item for item in profile.validated if item.config == dict(attested.model)), None)
    if known is not None:
        return f"nobody validated {known.name} {where} with {profile.name}"
    said = f"nobody validated this model ({kind}) {where} with {profile.name}"
    if not profile.validated:
        return said
    nearest = min(profile.validated, key=lambda item: len(_differing(item.config, attested.model)))
    differing = _differing(nearest.config, attested.model)
    shown = ", ".join(
        f"{key} is {attested.model.get(key, 'not there')}, not {nearest.config.get(key, 'there')}"
        for key in differing[:2]
    )
    more = f" and {len(differing) - 2} more" if len(differing) > 2 else ""
    return f"{said}: by its config.json it is not {nearest.name} ({shown}{more})"


def _differing(wanted: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    return [key for key in {**wanted, **seen} if wanted.get(key) != seen.get(key)]
