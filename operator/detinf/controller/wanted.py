"""What is carried out: the spec, or while that cannot be, the last one that could.

A typing error in a spec must not switch detection off: what runs goes on being watched, isolated and replaced as the
last valid spec has it, and only what the edit asks for waits. The same holds where the spec has not changed and what it
stands on went away, such as a profile of the chart; then even the last valid spec has no plan, and children that are
made from a plan stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detinf.api import names
from detinf.api.types import ProbeMode, Quarantine, QuarantinePolicy, Spec
from detinf.api.validation import validate
from detinf.controller import pods
from detinf.controller.builders import plan_for
from detinf.controller.observed import Observed
from detinf.controller.settings import OperatorSettings
from detinf.documents import DocumentError, Plan, ProbeSettings
from detinf.engines.plan import revision_of
from detinf.engines.profile import Profile
from detinf.engines.validated import Acting, Attested, acting
from detinf.guard import layout
from detinf.guard.canonical import digest_bytes

ANY_SPEC = Spec.model_validate({"model": {"source": {"persistentVolumeClaim": {"claimName": "unknown"}}}})
"""What holds where no spec of a running resource can be read: the defaults of everything that is not its model."""


@dataclass(frozen=True)
class Wanted:
    """What is carried out."""

    spec: Spec
    plan: Plan | None
    """None: there is no plan that could be made now, and what is made from one stays as it is."""
    revision: str
    plan_digest: str
    last_valid: Mapping[str, Any] | None
    """For ``status.lastValid``: generation and spec."""
    acting: Acting
    """Whether divergences are acted on, and why."""
    problems: list[str] = field(default_factory=list)
    """Why the spec itself cannot be carried out; empty where it is."""
    restart: str | None = None
    """The restart that was asked for last."""

    @property
    def observing(self) -> str | None:
        """Why divergences are only reported; None where they are acted on."""
        return self.acting.observing


def wanted(observed: Observed, settings: OperatorSettings) -> Wanted | tuple[Spec | None, list[str]]:
    """Return what is carried out; where nothing ever was and nothing runs, the problems alone."""
    resource = observed.resource
    spec, problems = validate(resource, settings.rules())
    told = [str(problem) for problem in problems]
    if spec is not None and not problems:
        valid = {"generation": observed.generation, "spec": resource["spec"]}
        return _planned(observed, spec, settings, valid, told)
    last = observed.old_status.get("lastValid")
    if last is not None:
        earlier, found = validate({**resource, "spec": last.get("spec")}, settings.rules())
        if earlier is not None:
            # What is wrong with the name is wrong with all of its specs, and stops nothing that runs.
            if not [item for item in found if item.field.startswith("spec")]:
                return _planned(observed, earlier, settings, last, told)
            return _held(observed, earlier, settings, last, told)
    if observed.replicas:
        return _held(observed, spec or _unreadable(observed), settings, last, told)
    return spec, told


def _unreadable(observed: Observed) -> Spec:
    """Return what holds where no spec can be read: what can be read of it, and nothing that its owner did not say."""
    said = observed.resource.get("spec") or {}
    asked = said.get("quarantine") if isinstance(said, Mapping) else None
    policy = asked.get("policy", QuarantinePolicy.ISOLATE) if isinstance(asked, Mapping) else QuarantinePolicy.ISOLATE
    known = policy in set(QuarantinePolicy)
    quarantine = Quarantine(policy=QuarantinePolicy(policy) if known else QuarantinePolicy.REPORT)
    replicas = sum(1 for item in observed.replicas if item.stateful_set is not None)
    return ANY_SPEC.model_copy(update={"quarantine": quarantine, "replicas": replicas})


def _planned(
    observed: Observed, spec: Spec, settings: OperatorSettings, last_valid: Mapping[str, Any], problems: list[str]
) -> Wanted:
    plan = plan_for(spec, settings)
    return Wanted(
        spec,
        plan,
        revision_of(plan),
        plan.digest(),
        last_valid,
        _acting(observed, spec, settings.profiles[plan.profile], plan),
        problems,
        pods.annotation(observed.resource, names.ANNOTATION_RESTART),
    )


def _held(
    observed: Observed,
    spec: Spec,
    settings: OperatorSettings,
    last_valid: Mapping[str, Any] | None,
    problems: list[str],
) -> Wanted:
    """Return what holds where no plan can be made: the revision that the resource was brought to."""
    revisions = [pods.label(item, names.LABEL_REVISION) for item in observed.stateful_sets]
    revision = str(observed.old_status.get("revision") or next(iter(revisions), None) or "")
    stored = observed.children.get(("ConfigMap", names.plan_name(observed.name, revision)), {}).get("data", {})
    text = stored.get(layout.PLAN_PATH.rpartition("/")[2], "")
    digest = digest_bytes(text.encode()) if text else ""
    profile = settings.profiles.get(spec.engine.profile or settings.default_profile or "")
    known = acting(spec, profile, _attested(observed, digest)) if profile is not None else _delivered(observed)
    # Without a plan nothing can be restarted with it, either.
    return Wanted(spec, None, revision, digest, last_valid, known, problems)


def _attested(observed: Observed, plan_digest: str) -> list[Attested]:
    """Return what engines attest of their model and chip: those of a plan where there are any, else all."""
    reports = [item.report for item in observed.replicas if item.report is not None and item.report.model]
    own = [report for report in reports if report.plan_digest == plan_digest]
    return [Attested(report.model or {}, (report.hardware or {}).get("chip")) for report in own or reports]


def _acting(observed: Observed, spec: Spec, profile: Profile, plan: Plan) -> Acting:
    """Return whether divergences are acted on; what was known of this very revision holds while nobody reports."""
    found = acting(spec, profile, _attested(observed, plan.digest()))
    status = observed.old_status
    same = status.get("observedGeneration") == observed.generation and status.get("revision") == revision_of(plan)
    if found.mode is None and same and status.get("mode") in set(ProbeMode):
        # A pass that was only observed is taken back where it is not known any more: all would stop serving at once.
        return Acting(ProbeMode(status["mode"]), "so it was when its engines attested last")
    return found


def _delivered(observed: Observed) -> Acting:
    """Return whether divergences are acted on, by what the probes were told while the profile was known."""
    found = observed.children.get(("ConfigMap", names.settings_name(observed.name)), {}).get("data", {})
    try:
        mode = ProbeSettings.parse(found.get(layout.SETTINGS_PATH.rpartition("/")[2], "")).mode
    except DocumentError:
        mode = None
    return Acting(mode or ProbeMode.ENFORCE, "so it was while the engine's profile was known")
