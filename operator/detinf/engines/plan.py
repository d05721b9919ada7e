"""From the resource to the plan: everything that can change outputs, and nothing else.

The served name, the port and the middleware stay out: they go to the pod's command line (``SERVING_FLAGS``).
"""

from __future__ import annotations

from detinf.api.types import ModelSource, Spec
from detinf.documents import (
    NotApplicable,
    Plan,
    PlanAttestation,
    PlanDownload,
    PlanEnvironment,
    PlanFailureLine,
    PlanModel,
    PlanRequests,
    PlanRule,
    PlanSymbol,
    PlanTopology,
)
from detinf.engines.profile import Profile, RequestRule
from detinf.guard.canonical import short
from detinf.guard.hubs import HUBS, snapshot_path
from detinf.guard.layout import MODEL_DIR

MIN_BATCHED_TOKENS = 2048
"""vLLM's own default for a server; fewer only make prompts wait for each other."""
WIDEST = 256
"""The gate wants no more requests in one step, however many the engine runs: decisions/0018."""


def mount_path(source: ModelSource) -> str:
    """Return where the source is mounted in the engine container.

    The claim or the folder is in the path, so that it is in the plan: another source is another revision. A hub's cache
    claim is not: the repository and its commit say what is served, wherever the files lie.
    """
    if source.hub is not None:
        return HUBS[source.hub[0]].folder
    if source.persistent_volume_claim is not None:
        return f"{MODEL_DIR}/{source.persistent_volume_claim.claim_name}"
    if source.host_path is not None:
        return f"{MODEL_DIR}{source.host_path.path.rstrip('/')}"
    raise ValueError("spec.model.source has no member; validate the resource first")


def model_path(source: ModelSource) -> str:
    """Return the model's folder in the engine container."""
    path = mount_path(source)
    if source.hub is not None:
        name, wanted = source.hub
        return f"{path}/{snapshot_path(name, wanted.repository, wanted.revision)}"
    if source.persistent_volume_claim is not None and source.persistent_volume_claim.path:
        return f"{path}/{source.persistent_volume_claim.path.strip('/')}"
    return path


def values(spec: Spec) -> dict[str, str]:
    """Return what the placeholders of a profile's arguments stand for."""
    model, seqs = spec.model, spec.engine.max_num_seqs
    return {
        "dtype": model.dtype,
        "max_model_len": str(model.max_model_len),
        "max_num_seqs": str(seqs),
        "max_num_batched_tokens": str(max(model.max_model_len, seqs, MIN_BATCHED_TOKENS)),
        "tensor": str(spec.parallelism.tensor),
    }


def arguments(spec: Spec, profile: Profile) -> list[str]:
    """Return what follows ``vllm serve MODEL``."""
    known = values(spec)
    words: list[str] = []
    for argument in profile.arguments:
        words.append(argument.flag)
        if argument.value is not None:
            words.append(argument.value.format(**known))
    return [*words, *spec.engine.extra_args]


OFFLINE = {"HF_HUB_OFFLINE": "1"}
"""With a hub's model: the engine itself may load nothing but the snapshot that the guard attested (vLLM, transformers
and modelscope heed it alike)."""


def unrecorded(spec: Spec, profile: Profile) -> list[str]:
    """Return what of an engine's environment stays out of the fingerprint: the profile's, and the hub's cache."""
    source = spec.model.source
    hub = [f"{HUBS[source.hub[0]].cache_variable}={HUBS[source.hub[0]].folder}"] if source.hub else []
    return sorted({*profile.unrecorded, *hub})


def download(source: ModelSource) -> PlanDownload | None:
    """Return what the guard has to download; None for files that are there."""
    if source.hub is None:
        return None
    name, wanted = source.hub
    return PlanDownload(hub=name, repository=wanted.repository, revision=wanted.revision)


def build_plan(spec: Spec, profile: Profile, image: str, topology: PlanTopology) -> Plan:
    """Return the plan.

    Args:
        spec: a valid spec.
        profile: the engine's profile.
        image: the engine's image.
        topology: what the guard must find (``detinf.topology.expected``).
    """
    return Plan(
        profile=profile.name,
        image=image,
        model=PlanModel(
            path=model_path(spec.model.source),
            dtype=spec.model.dtype,
            max_model_len=spec.model.max_model_len,
            max_num_seqs=spec.engine.max_num_seqs,
            download=download(spec.model.source),
            manifest_digest=spec.model.manifest_digest,
        ),
        arguments=arguments(spec, profile),
        environment=PlanEnvironment(
            set_variables={item.name: item.value for item in profile.variables}
            | {item.name: item.value for item in spec.engine.env}
            | (OFFLINE if spec.model.source.hub else {}),
            unset=[variable.name for variable in profile.unset],
            unrecorded=unrecorded(spec, profile) or None,
            scripts=list(profile.scripts) or None,
        ),
        topology=topology,
        attestation=attestation(spec, profile),
        requests=requests(profile),
    )


def requests(profile: Profile) -> PlanRequests | None:
    """Return which requests are served; None for a profile that lists none. Only refusals need their reasons there."""
    if not profile.routes:
        return None
    return PlanRequests(
        middleware=profile.middleware,
        routes=[_rule(item) for item in profile.routes],
        fields=[_rule(item, list(item.routes), list(item.values)) for item in profile.request_fields],
    )


def _rule(item: RequestRule, routes: list[str] | None = None, values: list[str] | None = None) -> PlanRule:
    refused = item.kind == "Refused"
    return PlanRule(
        names=list(item.names),
        kind=item.kind,
        routes=routes,
        reason=item.reason if refused else None,
        remedy=item.remedy if refused else None,
        values=values or None,
    )


def attestation(spec: Spec, profile: Profile) -> PlanAttestation:
    """Return who has to attest, and to what."""
    known = values(spec)
    ranks = range(spec.parallelism.tensor) if profile.worker else ()
    symbols = [
        PlanSymbol(name=item.name, same_as=item.same_as, values=list(item.values) or None) for item in profile.symbols
    ]
    return PlanAttestation(
        processes=[*profile.processes, *(f"worker-{rank}" for rank in ranks)],
        worker=profile.worker,
        initialiser=profile.initialiser,
        symbols=symbols or None,
        configuration={item.path: item.value.format(**known) for item in profile.configuration} or None,
        files={item.name: item.path for item in profile.files} or None,
        packages={name: list(versions) for name, versions in profile.packages.items()} or None,
        fingerprint_in_answers=profile.fingerprint_in_answers or None,
        failure_lines=[PlanFailureLine(file=item.file, text=item.text) for item in profile.failure_lines] or None,
    )


def revision_of(plan: Plan) -> str:
    """Return the revision: the short digest of all of the plan's bytes."""
    return short(plan.digest())


def gate_widths(spec: Spec, profile: Profile) -> list[int]:
    """Return the widths that the gate proves: the profile's, and the full width of a step up to ``WIDEST``."""
    limit = spec.engine.max_num_seqs
    return sorted({min(width, limit) for width in (*profile.gate_widths, WIDEST)} - {1})


def excluded_stimuli(profile: Profile) -> list[NotApplicable]:
    """Return what the probe does not disturb this engine with, and how it sees that it could not."""
    return [
        NotApplicable(relations=list(item.relations), witness=item.witness, reason=item.reason)
        for item in profile.not_applicable
    ]
