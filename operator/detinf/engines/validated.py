"""Whether a divergence is acted on: what nobody validated is observed first, unless its owner says otherwise."""

from __future__ import annotations

from detinf.api.types import ModelSource, ProbeMode, Spec
from detinf.engines.profile import Profile


def model_name(source: ModelSource) -> str:
    """Return what the model is called where its files are: the last part of the folder or the repository."""
    if source.hub is not None:
        name = source.hub[1].repository
    elif source.host_path is not None:
        name = source.host_path.path
    else:
        name = source.persistent_volume_claim.path if source.persistent_volume_claim else ""
    return name.rstrip("/").rpartition("/")[2]


def observed_because(spec: Spec, profile: Profile) -> str | None:
    """Return why divergences are only reported; None where they are acted on.

    An engine without NPUs counts as validated: its tests run on the machine that everything is developed on.
    """
    if spec.probe.mode is ProbeMode.OBSERVE:
        return "spec.probe.mode is Observe"
    if spec.probe.mode is ProbeMode.ENFORCE or not profile.is_real:
        return None
    model, chip = model_name(spec.model.source), spec.topology.chip
    if any(model in item.models and chip in item.chips for item in profile.validated):
        return None
    where = f"on {chip}" if chip else "on a chip that spec.topology.chip does not name"
    return (
        f"nobody validated {model or 'this model'} {where} with {profile.name}; spec.probe.mode: Enforce says otherwise"
    )
