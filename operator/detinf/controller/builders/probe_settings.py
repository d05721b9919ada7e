"""The probe-settings ConfigMap: mutable, since nothing in it changes outputs."""

from __future__ import annotations

from detinf.api import names
from detinf.api.types import ProbeMode, Spec
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, config_map, name_of
from detinf.controller.settings import OperatorSettings
from detinf.documents import GateSettings, Plan, ProbeSettings, ScheduleSettings
from detinf.engines.plan import excluded_stimuli, gate_widths
from detinf.guard import layout


def served_name(resource: Resource, spec: Spec) -> str:
    """Return the model's name in the API."""
    return spec.model.name or name_of(resource)


def settings_document(
    resource: Resource, spec: Spec, plan: Plan, settings: OperatorSettings, *, observing: bool = False
) -> ProbeSettings:
    """Return what the probes of this resource are to do; ``observing``: divergences are only reported."""
    profile = settings.profiles[plan.profile]
    return ProbeSettings(
        mode=ProbeMode.OBSERVE if observing else None,
        promise=spec.promise,
        served_model_name=served_name(resource, spec),
        gate=GateSettings(widths=gate_widths(spec, profile), timeout_seconds=settings.gate_timeout_seconds),
        schedule=ScheduleSettings(
            solo_interval_seconds=settings.solo_interval_seconds,
            width_interval_seconds=settings.width_interval_seconds,
            stale_after_seconds=settings.stale_after_seconds,
        ),
        not_applicable=excluded_stimuli(profile) or None,
        metrics={str(key): name for key, name in profile.metrics.items()} or None,
    )


def probe_settings(
    resource: Resource, spec: Spec, plan: Plan, settings: OperatorSettings, *, observing: bool = False
) -> Manifest:
    """Return the ConfigMap that the probes of all replicas read their settings from."""
    document = settings_document(resource, spec, plan, settings, observing=observing)
    return config_map(
        resource,
        names.settings_name(name_of(resource)),
        {layout.SETTINGS_PATH.rpartition("/")[2]: document.canonical().decode()},
        labels={names.LABEL_DOCUMENT: ProbeSettings.KIND},
        immutable=False,
    )
