"""References and baselines: what is frozen, what is delivered, and when answers count as agreed.

The rules, each a test:

- The first proposal that is read is frozen as a record, then delivered, then the waiting pods are told.
- A candidate is stored before anything depends on it. ``REQUIRED_LIFETIMES`` equal candidates of one fingerprint make
  its baseline; unequal ones make none, and stand until the plan changes or somebody deletes them.
- Hardware that differs from what the first baseline pinned makes no baseline, nor do variables, packages or files that
  differ from what the plan's first baseline pinned (``identity.py``).
- A baseline is never replaced. One that status names and nobody has is restored from the delivery by its digest, else
  it is lost, and nothing is agreed anew in silence.
- Baselines that no engine needs are kept for a while, for a plan that comes back, and go when there are too many.
- What could not be stored is not claimed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from detinf.api import names
from detinf.api.conditions import Finding, Reason, Type
from detinf.api.types import Spec
from detinf.cluster.port import CONFIG_MAP
from detinf.controller.actions import Action, Create, Delete, Name, Notice, name_of
from detinf.controller.builders import baseline_record, candidate_record, references_record
from detinf.controller.identity import Pinned, pinned
from detinf.controller.images import Pins, image_id, same_image
from detinf.controller.observed import Observed
from detinf.controller.pods import uid_of
from detinf.documents import Baseline, Candidate, DocumentError, References, seal, unseal
from detinf.guard.canonical import digest, short

Restored = TypeVar("Restored", References, Baseline)

REQUIRED_LIFETIMES = 1
"""Equal candidates that make a baseline. Every later gated boot is held to it."""

BASELINES_KEPT = 12
"""Baselines on record and in the delivery, beyond those that engines need now."""
MOST_DELIVERED_BYTES = 900_000
"""The API server takes an object of 1.5 MiB at most, a ConfigMap's data of 1 MiB."""


@dataclass
class Qualification:
    """What is to be recorded and delivered, and what to say about it."""

    finding: Finding
    pinned: Pinned
    images: Pins
    """Which image each revision is pinned to."""
    actions: list[Action] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict)
    agreed: dict[Name, Notice] = field(default_factory=dict)
    """What was agreed, by the record that is to hold it."""
    baseline: dict[str, Any] | None = None
    """For ``status.baseline``."""
    stored_as: Name | None = None
    """The record of ``baseline``."""

    @property
    def delivery_digest(self) -> str:
        """What pods are annotated with, so that the kubelet brings the delivery at once."""
        return short(digest(self.entries))


def _restored(observed: Observed, key: str, kind: type[Restored]) -> Restored | None:
    """Return a document from the delivery ConfigMap, where its seal holds and it can be read."""
    delivered = observed.children.get(("ConfigMap", names.delivery_name(observed.name)), {})
    try:
        return kind.parse(unseal((delivered.get("data") or {}).get(key, ""))[1])
    except DocumentError:
        return None


def frozen_references(observed: Observed) -> tuple[References | None, list[Action]]:
    """Return the references, and the record to create where there is none yet."""
    if observed.references is not None:
        return observed.references, []
    restored = _restored(observed, names.REFERENCES_KEY, References)
    if restored is not None:
        return restored, [Create(references_record(observed.resource, restored))]
    for replica in observed.replicas:
        if replica.report is not None and replica.report.proposal is not None:
            references = replica.report.proposal
            return references, [Create(references_record(observed.resource, references))]
    return None, []


def qualify(observed: Observed, spec: Spec, plan_digest: str) -> Qualification:
    """Return what to record, deliver and say.

    Args:
        observed: what was gathered.
        spec: the resource's spec.
        plan_digest: of the plan that replicas are to run.
    """
    hardware, images = pinned(observed, spec), Pins(observed.baselines)
    references, actions = frozen_references(observed)
    if references is None:
        words = "the first engine to start proposes the references that all answer"
        return Qualification(Finding(Type.QUALIFIED, "False", Reason.WAITING_FOR_REFERENCES, words), hardware, images)
    references_digest = references.digest()
    baselines = {item.digest(): item for item in observed.baselines}
    result = Qualification(Finding(Type.QUALIFIED, "False", Reason.QUALIFYING, ""), hardware, images, actions)

    lost = _restore_named(observed, baselines, result)
    candidates = _candidates(observed, plan_digest, references_digest, baselines, result)
    if lost is not None and not any(item.fingerprint != lost for item in candidates):
        words = (
            f"status names a baseline for fingerprint {lost[:23]} that nobody has any more; restore its ConfigMap, or "
            "delete the resource to begin anew"
        )
        result.finding = Finding(Type.QUALIFIED, "False", Reason.BASELINE_LOST, words)
    else:
        agreed = _agree([item for item in candidates if item.fingerprint != lost], spec, result)
        for baseline in agreed:
            baselines[baseline.digest()] = baseline
            record = baseline_record(observed.resource, baseline)
            result.actions.append(Create(record))
            words = f"{baseline.lifetimes} lifetime(s) agree on the answers of fingerprint {baseline.fingerprint[:23]}"
            # Not the digest: the number of lifetimes is in it, which grows while a killed controller is away.
            key = names.baseline_key(baseline.fingerprint, baseline.references_digest)
            result.agreed[name_of(record)] = Notice("RevisionQualified", words, key)

    current = _current(observed, plan_digest, references_digest, baselines)
    _deliver(references, _kept(observed, baselines, current, result), result)
    if current is not None:
        result.stored_as = "ConfigMap", names.baseline_name(observed.name, current.digest())
        result.baseline = {
            "fingerprint": current.fingerprint,
            "digest": current.digest(),
            "referencesDigest": current.references_digest,
            "lifetimes": current.lifetimes,
        }
        words = f"baseline {short(current.digest())} holds the answers that replicas are held to"
        result.finding = Finding(Type.QUALIFIED, "True", Reason.BASELINE_AGREED, words)
        result.actions += _prune(observed, baselines)
    elif result.finding.reason is Reason.QUALIFYING and not result.finding.message:
        words = "an engine answers the references; equal answers make the baseline"
        result.finding = Finding(Type.QUALIFIED, "False", Reason.QUALIFYING, words)
    return result


def _restore_named(observed: Observed, baselines: dict[str, Baseline], result: Qualification) -> str | None:
    """Bring back the baseline that status names; return its fingerprint where nobody has it."""
    named = observed.old_status.get("baseline") or {}
    if not named or named.get("digest") in baselines:
        return None
    key = names.baseline_key(str(named.get("fingerprint")), str(named.get("referencesDigest")))
    baseline = _restored(observed, key, Baseline)
    if baseline is not None and baseline.digest() == named.get("digest"):
        baselines[baseline.digest()] = baseline
        result.actions.append(Create(baseline_record(observed.resource, baseline)))
        return None
    return str(named.get("fingerprint"))


def _candidates(
    observed: Observed,
    plan_digest: str,
    references_digest: str,
    baselines: dict[str, Baseline],
    result: Qualification,
) -> list[Candidate]:
    """Return the candidates of the wanted plan without a baseline; new ones are recorded first."""
    known = {(item.fingerprint, item.references_digest) for item in baselines.values()}
    stored = {candidate.boot: candidate for _, candidate in observed.candidates}
    for replica in observed.replicas:
        candidate = replica.report.candidate if replica.report is not None else None
        if candidate is None or candidate.boot in stored or candidate.boot != (replica.report and replica.report.boot):
            continue
        if (candidate.fingerprint, candidate.references_digest) not in known:
            candidate = candidate.model_copy(update={"image_id": image_id(replica.pod)})
            stored[candidate.boot] = candidate
            result.actions.append(Create(candidate_record(observed.resource, candidate)))
    return [
        candidate
        for candidate in stored.values()
        if candidate.plan_digest == plan_digest
        and candidate.references_digest == references_digest
        and (candidate.fingerprint, candidate.references_digest) not in known
    ]


def _agree(candidates: list[Candidate], spec: Spec, result: Qualification) -> list[Baseline]:
    """Return the baselines that candidates make; a fingerprint whose candidates differ makes none."""
    agreed = []
    for fingerprint in sorted({item.fingerprint for item in candidates}):
        group = [item for item in candidates if item.fingerprint == fingerprint]
        if result.pinned.drifted(group[0]) or result.pinned.unlike(group[0]):
            continue  # TopologyPinned says so
        group = _of_one_image(group, spec, result.images)
        if not group:
            continue  # and so it does of this
        if any(item.answers != group[0].answers for item in group):
            first = group[0].answers
            differing = sorted({name for item in group for name in first if item.answers.get(name) != first[name]})
            why = "this engine is not deterministic: change the plan, or delete the candidates to try again"
            if len(told := sorted({item.image_id or "unknown" for item in group})) > 1:
                why = (
                    f"they ran different images ({', '.join(told)}): name the image by its digest in spec.engine.image"
                )
            words = (
                f"{len(group)} lifetimes of fingerprint {fingerprint[:23]} differ at {', '.join(differing[:3])}; {why}"
            )
            result.finding = Finding(Type.QUALIFIED, "False", Reason.CANDIDATES_DIFFER, words)
        elif len(group) >= REQUIRED_LIFETIMES:
            agreed.append(
                baseline := Baseline(
                    fingerprint=fingerprint,
                    references_digest=group[0].references_digest,
                    lifetimes=len(group),
                    answers=group[0].answers,
                    hardware=group[0].hardware,
                    plan_digest=group[0].plan_digest,
                    identity=group[0].identity,
                    image_id=group[0].image_id,
                )
            )
            result.pinned = result.pinned.with_baseline(baseline)
            result.images.add(baseline)
    return agreed


def _of_one_image(group: list[Candidate], spec: Spec, images: Pins) -> list[Candidate]:
    """Return the candidates of the image that their revision is pinned to; before it is, of the first one's image."""
    pin = images.of(short(group[0].plan_digest)) or group[0].image_id
    if pin is None or spec.topology.drift != "Strict":
        return group
    return [item for item in group if item.image_id is not None and same_image(pin, item.image_id)]


def _kept(
    observed: Observed, baselines: dict[str, Baseline], current: Baseline | None, result: Qualification
) -> list[Baseline]:
    """Return the baselines that stay, the needed ones first; records of others are deleted."""
    in_use = {replica.report.fingerprint for replica in observed.replicas if replica.report is not None}
    # The first one pinned the hardware; the newest are those of plans that may come back.
    listed = list(baselines.values())
    needed = [item for item in listed if item.fingerprint in in_use or item is current or item is listed[0]]
    others = [item for item in reversed(listed) if item not in needed]
    kept = [*needed, *others][: max(BASELINES_KEPT, len(needed))]
    gone = {names.baseline_name(observed.name, item.digest()) for item in others if item not in kept}
    result.actions += [
        Delete(CONFIG_MAP, observed.namespace, name, uid_of(child), "newer baselines are kept")
        for (kind, name), child in observed.children.items()
        if kind == "ConfigMap" and name in gone
    ]
    return kept


def _deliver(references: References, kept: list[Baseline], result: Qualification) -> None:
    """Fill the delivery, as far as one ConfigMap holds it; what engines need comes first."""
    result.entries = {names.REFERENCES_KEY: seal(references.canonical())}
    size = len(result.entries[names.REFERENCES_KEY])
    for baseline in kept:
        entry = seal(baseline.canonical())
        size += len(entry)
        if size > MOST_DELIVERED_BYTES:
            return
        result.entries[names.baseline_key(baseline.fingerprint, baseline.references_digest)] = entry


def _current(
    observed: Observed, plan_digest: str, references_digest: str, baselines: dict[str, Baseline]
) -> Baseline | None:
    """Return the baseline of the engines that run the wanted plan; else the one that status names."""
    by_key = {(item.fingerprint, item.references_digest): item for item in baselines.values()}
    running = [
        replica.report.fingerprint
        for replica in observed.replicas
        if replica.report is not None and replica.report.plan_digest == plan_digest and replica.report.fingerprint
    ]
    if running:
        # Replicas of one plan may differ in what their guards read; the first that has a baseline is named.
        return next((found for item in running if (found := by_key.get((item, references_digest)))), None)
    # Until an engine of the wanted plan reports, replicas are held to what they were held to.
    return baselines.get((observed.old_status.get("baseline") or {}).get("digest", ""))


def _prune(observed: Observed, baselines: dict[str, Baseline]) -> list[Action]:
    """Return the deletion of candidates whose baseline is on record: they have served their purpose."""
    known = {(item.fingerprint, item.references_digest) for item in observed.baselines}
    return [
        Delete(CONFIG_MAP, observed.namespace, child["metadata"]["name"], uid_of(child), "its baseline is on record")
        for child, candidate in observed.candidates
        if (candidate.fingerprint, candidate.references_digest) in known and baselines
    ]
