"""Records: references, baselines, candidates and evidence, as immutable ConfigMaps.

Each holds the document's canonical bytes under ``<kind>.json``, and is named by its digest (a candidate by revision
and boot), so that a second write of the same record is no write at all.
"""

from __future__ import annotations

from collections.abc import Mapping

from detinf.api import names
from detinf.cluster.port import Manifest
from detinf.controller.builders.parts import Resource, config_map, name_of
from detinf.documents import Baseline, Candidate, Document, Evidence, References
from detinf.guard.canonical import short

IMAGE_KEY = "imageID"
"""The key of the engine's image in a record of evidence."""


def data_key(kind: type[Document]) -> str:
    """Return the key of the document in its record."""
    return f"{kind.KIND}.json"


def _record(
    resource: Resource,
    name: str,
    document: Document,
    labels: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
) -> Manifest:
    return config_map(
        resource,
        name,
        {data_key(type(document)): document.canonical().decode()} | dict(beside or {}),
        labels={names.LABEL_DOCUMENT: document.KIND} | dict(labels or {}),
        immutable=True,
    )


def references_record(resource: Resource, references: References) -> Manifest:
    """Return the record of the references, frozen for good."""
    return _record(resource, names.references_name(name_of(resource), references.digest()), references)


def baseline_record(resource: Resource, baseline: Baseline) -> Manifest:
    """Return the record of the agreed answers for one fingerprint."""
    return _record(resource, names.baseline_name(name_of(resource), baseline.digest()), baseline)


def candidate_record(resource: Resource, candidate: Candidate) -> Manifest:
    """Return the record of one lifetime's answers, found again by revision and boot."""
    revision = short(candidate.plan_digest)
    return _record(
        resource,
        names.candidate_name(name_of(resource), revision, candidate.boot),
        candidate,
        {names.LABEL_REVISION: revision, names.LABEL_BOOT: candidate.boot},
    )


def evidence_record(resource: Resource, evidence: Evidence, image_id: str | None = None) -> Manifest:
    """Return the record of one divergence, found again by revision and boot.

    Args:
        resource: whose it is.
        evidence: as the probe reports it; its digest names the record.
        image_id: of the engine's container, as its kubelet tells it: beside the evidence, since no probe knows it.
    """
    return _record(
        resource,
        names.evidence_name(name_of(resource), evidence.digest()),
        evidence,
        {names.LABEL_REVISION: short(evidence.plan_digest), names.LABEL_BOOT: evidence.boot},
        {IMAGE_KEY: image_id} if image_id else None,
    )
