"""Why a pod is as it is: every argument, variable, volume and label of a resource's pod, with reason and source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from detinf.api.types import Spec
from detinf.controller.builders import plan_for
from detinf.controller.builders import pod as pods
from detinf.controller.builders.parts import Resource
from detinf.controller.builders.verbatim import passed_on
from detinf.controller.settings import OperatorSettings
from detinf.documents import Plan
from detinf.engines.plan import revision_of
from detinf.engines.profile import Fact, Gap, Profile
from detinf.engines.validated import decided_before
from detinf.guard.hubs import HUBS
from detinf.topology.expected import LabelNames

DESIGN = "docs/design.md"
LAYOUT = "operator/detinf/guard/layout.py"

VOLUMES = {
    pods.GUARD: "the guard, copied here by guard-install, so that any image with Python 3.10 can run it",
    pods.USERS: "the image's users and the pod's own: CANN asks who it runs as, and HCCL fails where nobody knows",
    pods.WORK: "the working folder: CANN compiles kernels there, and the image's root file system is read-only",
    pods.SHARED: "attestations and step trace: the engine writes, the probe reads",
    pods.STATE: "which boot passed the gate; the probe's alone",
    pods.TMP: "HOME and TMPDIR of the engine: its root file system is read-only",
    pods.PROBE_TMP: "TMPDIR of the probe: its root file system is read-only",
    pods.PLAN: "the plan that the guard holds everything against; immutable, named by its digest",
    pods.SETTINGS: "what the probe is to do; mutable, since it changes no output",
    pods.DELIVERY: "references and baselines, each with the digest of its bytes",
    pods.PODINFO: "labels and annotations of the pod: whether it is isolated, and what was delivered",
    pods.MODEL: "the model, read-only; the source is in its path, so that another source is another revision",
    pods.SHM: "what workers exchange tensors through",
}
SERVING = {
    "--host": "the pod's own address, where Service and probe find it",
    "--port": "the port of the Service",
    "--served-model-name": "the model's name in the API: spec.model.name, or the resource's",
    "--middleware": "puts the boot into every answer, so that the probe knows which engine it asked",
}
IDENTITY = {
    "POD_NAMESPACE": "names the pod in evidence",
    "POD_NAME": "names the pod in evidence",
    "POD_UID": "names the pod in evidence and reports",
    "NODE_NAME": "recorded in the attestation; never part of the fingerprint",
}
OFFLINE = {"HF_HUB_OFFLINE": "the engine loads nothing but the snapshot that the guard attested"}
LABELS = {
    "chip": "another chip has other kernels: spec.topology.chip",
    "server_class": "how NPUs are joined decides how they add: spec.topology.serverClass",
    "driver": "another driver may compute otherwise: spec.topology.driverVersion",
}


@dataclass(frozen=True)
class Row:
    """One thing, why it is there, and where that is written."""

    what: str
    why: str
    source: str


@dataclass(frozen=True)
class Section:
    """Rows of one kind."""

    title: str
    rows: list[Row]


def explain(resource: Resource, spec: Spec, settings: OperatorSettings) -> list[Section]:
    """Return everything that is derived from a valid resource, in the order in which it takes effect."""
    plan = plan_for(spec, settings)
    profile = settings.profiles[plan.profile]
    pod = pods.pod_spec(resource, spec, plan, settings)
    (engine,) = pod["containers"]
    sections = [
        Section("Engine", list(_engine(spec, plan, profile))),
        Section("Placement", list(_placement(spec, pod, engine, profile, settings.node_labels))),
        Section("Scripts, sourced by the guard before it sets variables", [*_scripts(profile)]),
        Section("Variables of the engine", list(_variables(spec, plan, profile))),
        Section("Variables that must not be there", [_row(item.name, item) for item in profile.unset]),
        Section("Variables of the pod", list(_pod_variables(spec, engine, profile))),
        Section("Arguments of vllm serve", list(_arguments(spec, plan, profile))),
        Section("Arguments beside the plan", list(_serving(engine, plan))),
        Section("What its processes must attest", list(_attested(plan, profile))),
        Section("Requests", list(request_rows(profile))),
        Section("Volumes", list(_volumes(pod, engine, profile))),
        Section("Known gaps of this release", [gap_row(item) for item in profile.gaps]),
    ]
    return [section for section in sections if section.rows]


def _row(what: str, fact: Fact) -> Row:
    return Row(what, fact.reason, fact.source)


def gap_row(gap: Gap) -> Row:
    """Return where a release breaks its own promise, and what closes that."""
    state = f"closed by {gap.closure}" if gap.closure else "open: the gate and the probe measure it"
    return Row(f"{gap.name} ({state})", gap.reason, gap.source)


def _engine(spec: Spec, plan: Plan, profile: Profile) -> Iterator[Row]:
    chosen = "spec.engine.profile" if spec.engine.profile else "the chart's engine.defaultProfile"
    yield Row(f"profile {profile.name}", profile.description, chosen)
    image = "spec.engine.image" if spec.engine.image else "the chart's engine.images, else the profile's"
    yield Row(f"image {plan.image}", "part of the plan: another image is another revision", image)
    decided = decided_before(spec, profile)
    where = "spec.probe.mode, else the profile's validated models and chips"
    if decided is not None:
        yield Row(f"probe mode {decided.mode}", decided.because, where)
    else:
        known = ", ".join(item.name for item in profile.validated) or "nothing"
        words = f"Enforce where an engine attests a validated model, by its config.json, and chip ({known}), else "
        words += "Observe; until one has attested divergences are acted on"
        yield Row("probe mode by what is attested", words, where)
    for name, versions in profile.packages.items():
        words = "the profile is held against the source of these versions alone"
        yield Row(f"{name} {' or '.join(versions)}", words, f"profile {profile.name}")
    yield Row(f"revision {revision_of(plan)}", "short digest of the whole plan; the pods' label", f"{DESIGN}, Words")


def _placement(
    spec: Spec, pod: dict[str, Any], engine: dict[str, Any], profile: Profile, labels: LabelNames
) -> Iterator[Row]:
    known = {getattr(labels, item): why for item, why in LABELS.items()}
    for label, value in pod.get("nodeSelector", {}).items():
        asked = label in spec.scheduling.node_selector
        why = "asked for" if asked else known[label]
        source = "spec.scheduling.nodeSelector" if asked else "the chart's topology.nodeLabels"
        yield Row(f"node label {label}={value}", why, source)
    for kind, amounts in engine["resources"].items():
        for name, amount in amounts.items():
            devices = profile.uses_devices and name == spec.scheduling.resource_name
            asked = name in getattr(spec.engine.resources, kind)
            why = "whole NPUs of one node, as many as ranks" if devices else "what the container gets"
            source = "spec.parallelism.tensor" if devices else "spec.engine.resources" if asked else "the profile"
            if not devices and not asked and name in {**spec.engine.resources.requests, **spec.engine.resources.limits}:
                source = "spec.engine.resources, whose other half it follows"
            yield Row(f"{kind} {name}={amount}", why, source)
    for toleration in pod.get("tolerations", []):
        words = ", ".join(f"{key} {value}" for key, value in toleration.items())
        yield Row(f"toleration {words}", "asked for", "spec.scheduling.tolerations")
    for field in ("schedulerName", "runtimeClassName", "priorityClassName"):
        if field in pod:
            yield Row(f"{field} {pod[field]}", "asked for", f"spec.scheduling.{field}")
    for group in profile.supplemental_groups:
        yield Row(f"group {group}", "the group that owns the device nodes (HwHiAiUser)", f"profile {profile.name}")


def _scripts(profile: Profile) -> Iterator[Row]:
    for script in profile.scripts:
        words = "the toolkit's own environment; what it exports otherwise than the plan is set again after it"
        yield Row(script, words, f"profile {profile.name}")


def _variables(spec: Spec, plan: Plan, profile: Profile) -> Iterator[Row]:
    facts = {item.name: item for item in profile.variables}
    allowed = {item.name: item.reason for item in profile.allowed_variables}
    asked = {item.name for item in spec.engine.env}
    for name, value in plan.environment.set_variables.items():
        if name in facts:
            yield _row(f"{name}={value}", facts[name])
        elif name in asked:
            yield Row(f"{name}={value}", allowed[name], "spec.engine.env")
        else:
            yield Row(f"{name}={value}", OFFLINE[name], "spec.model.source")


def _pod_variables(spec: Spec, engine: dict[str, Any], profile: Profile) -> Iterator[Row]:
    own = {item.name: item.reason for item in profile.pod_variables}
    hubs = {}
    if spec.model.source.hub is not None:
        hub = HUBS[spec.model.source.hub[0]]
        hubs = {hub.cache_variable: "where the hub's library keeps the model", hub.token_variable: "the hub's token"}
    for variable in engine["env"]:
        name = variable["name"]
        value = passed_on(variable["value"]) if "value" in variable else None
        for kind, key in (("fieldRef", "fieldPath"), ("secretKeyRef", "name")):
            value = variable.get("valueFrom", {}).get(kind, {}).get(key, value)
        source = f"profile {profile.name}" if name in own else "spec.model.source" if name in hubs else LAYOUT
        yield Row(f"{name}={value}", own.get(name) or hubs.get(name) or IDENTITY[name], source)


def _arguments(spec: Spec, plan: Plan, profile: Profile) -> Iterator[Row]:
    words = iter(plan.arguments)
    for argument in profile.arguments:
        flag = next(words)
        yield _row(flag if argument.value is None else f"{flag} {next(words)}", argument)
    allowed = {item.flag: item.reason for item in profile.allowed_flags}
    for word in spec.engine.extra_args:
        name = word.partition("=")[0]
        yield Row(word, allowed.get(name, "value of the flag before it"), "spec.engine.extraArgs")


def _serving(engine: dict[str, Any], plan: Plan) -> Iterator[Row]:
    command = engine["command"]
    rest = command[command.index("serve") + 2 + len(plan.arguments) :]
    for flag, value in zip(rest[::2], rest[1::2], strict=True):
        yield Row(f"{flag} {passed_on(value)}", SERVING[flag], LAYOUT)


def _attested(plan: Plan, profile: Profile) -> Iterator[Row]:
    words = "its attestation of the present boot must be there, complete and equal to the plan, before users are sent"
    for process in plan.attestation.processes:
        yield Row(f"process {process}", words, f"{DESIGN}, The pods")
    for symbol in profile.symbols:
        yield _row(f"{symbol.name} is {symbol.same_as or ' or '.join(symbol.values)}", symbol)
    for setting in profile.configuration:
        wanted = (plan.attestation.configuration or {}).get(setting.path, setting.value)
        yield _row(f"{setting.path} = {wanted}", setting)
    for file in profile.files:
        yield _row(f"digest of {file.path}", file)
    for line in profile.failure_lines:
        yield _row(f"no line {line.text!r} of {line.file}", line)


def request_rows(profile: Profile) -> Iterator[Row]:
    """Yield what is known of routes and fields of requests; what is not there is refused."""
    words = {"Promised": "promised", "Unpromised": "served without a promise", "Refused": "refused"}
    for rule in profile.routes:
        yield _row(f"{words[rule.kind]}: {', '.join(rule.names)}", rule)
    for item in profile.request_fields:
        where = "" if len(item.routes) > 1 else f" of {item.routes[0]}"
        yield _row(f"{words[item.kind]}: {', '.join(item.names)}{where}", item)


def _volumes(pod: dict[str, Any], engine: dict[str, Any], profile: Profile) -> Iterator[Row]:
    facts = {item.name: item for item in profile.host_paths}
    places = {mount["name"]: mount["mountPath"] for mount in engine["volumeMounts"]}
    for volume in pod["volumes"]:
        name = volume["name"]
        kind = next(key for key in volume if key != "name")
        what = f"{name} ({kind})" + (f" at {places[name]}" if name in places else "")
        yield _row(what, facts[name]) if name in facts else Row(what, VOLUMES[name], LAYOUT)
