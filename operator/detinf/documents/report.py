"""The probe's report, the evidence of a divergence in it, and what other probes are asked about that."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar

from detinf.documents.answers import Answer, AnswerDigests, Candidate, References
from detinf.documents.base import Document, Part


class Verdict(StrEnum):
    """The outcome of one comparison."""

    PASS = "PASS"  # noqa: S105 - a verdict, no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Phase(StrEnum):
    """Where the lifetime stands."""

    WAITING_FOR_ATTESTATION = "WaitingForAttestation"
    WAITING_FOR_ENGINE = "WaitingForEngine"
    WAITING_FOR_REFERENCES = "WaitingForReferences"
    ANSWERING = "Answering"
    WAITING_FOR_BASELINE = "WaitingForBaseline"
    GATING = "Gating"
    GATE_FAILED = "GateFailed"
    PASSED = "Passed"


class PodIdentity(Part):
    """Which pod speaks; a report counts only where the uid is the listed pod's."""

    namespace: str
    name: str
    uid: str


class Witness(Part):
    """Proof that a disturbance took place."""

    kind: str
    """W0 (step trace), W2 (decode arithmetic, where there is no trace) or None."""
    width: int
    """Requests proven to decode together; 1 where nothing was proven."""
    detail: str


class Cell(Part):
    """One relation under one condition, booked at the width that really ran."""

    relation: str
    """S01 (solo repeat), S02 (baseline), S03 (width), S04 (tokens in one launch) or S05 (a prefill among decodes)."""
    condition: str
    """Such as ``solo``, ``width=8``, ``tokens=257``, ``tokens>256`` or ``prefill=9``."""
    verdict: Verdict
    """Of the last comparison."""
    reason: str
    """Why; for INCONCLUSIVE one of the reasons in docs/reference/verdicts.md."""
    passes: int
    fails: int
    inconclusive: int
    last_pass_unix: int | None = None
    last_conclusive_unix: int | None = None


class Evidence(Document):
    """A confirmed divergence: enough to see it again and to argue about it."""

    KIND: ClassVar[str] = "evidence"

    pod: PodIdentity
    boot: str
    plan_digest: str
    fingerprint: str
    references_digest: str
    relation: str
    condition: str
    reference: str
    """Name of the reference that was answered differently."""
    observable: str
    """token, logprob, top (the most probable tokens) or finish."""
    phase: str
    """prefill (position 0) or decode."""
    position: int
    """First position that differs."""
    differing_positions: int
    max_ulps: int
    expected: Answer
    observed: Answer
    witness: Witness
    hint: str
    detected_unix: int
    token_position: int | None = None
    """First position with another token."""
    logprob_position: int | None = None
    """First position with another logprob of the chosen token."""
    sequence_position: int | None = None
    """The first position that differs, counted from the prompt's first token."""
    expected_digests: AnswerDigests | None = None
    observed_digests: AnswerDigests | None = None
    counters: dict[str, dict[str, str]] | None = None
    """Error counters by NPU as npu-smi printed them when the engine started: a bad chip or a bad set-up?"""
    node: str | None = None
    """The node that the pod ran on."""
    devices: dict[str, dict[str, str]] | None = None
    """By NPU what tells it from others, such as its serial number and bus id, as npu-smi printed them."""
    clean_unix: int | None = None
    """The last PASS of this relation and condition in this boot; absent where there was none."""
    answered: int | None = None
    """Requests that this boot finished since ``clean_unix``, else since it was healthy; the probe's own are not in it.
    They may be wrong."""


class Again(Part):
    """What a replica diverged on, asked of its peers: they confirm that it is alone in that, or are alike."""

    evidence: str
    """Short digest of the evidence: a reply that names it was given after the divergence, whatever clocks say."""
    relation: str
    condition: str
    reference: str


class AskedAgain(Document):
    """What the controller wants to know of a probe; an annotation of its pod, which the downward API shows it."""

    KIND: ClassVar[str] = "asked-again"

    items: list[Again]


class Reply(Part):
    """What came of one ``Again``, asked by this boot."""

    evidence: str
    verdict: Verdict
    """INCONCLUSIVE is asked once more, for as long as it stands in the annotation."""
    reason: str


class Report(Document):
    """What the probe knows; ``GET /v1/report`` with an ETag."""

    KIND: ClassVar[str] = "report"

    pod: PodIdentity
    boot: str | None = None
    boot_started_unix_ms: int | None = None
    guard_runs: bool | None = None
    """True where the guard of this boot is known to run, by a lock that it holds; absent where times have to tell."""
    plan_digest: str | None = None
    fingerprint: str | None = None
    references_digest: str | None = None
    baseline_digest: str | None = None
    phase: Phase
    ready: bool
    """What ``/readyz`` answers."""
    reasons: list[str]
    """Why not ready, in words for people; empty when ready."""
    proposal: References | None = None
    """References, offered where the delivery has none."""
    candidate: Candidate | None = None
    """Answers, offered where the delivery has no baseline for the fingerprint."""
    cells: list[Cell]
    evidence: Evidence | None = None
    """The first confirmed divergence of this boot; it stays until the boot ends."""
    further: list[Evidence] | None = None
    """The first divergences of other cells of this boot, the oldest first; a few at most."""
    hint: str | None = None
    """Where to look first, by all that was looked at since the divergence; newer than the hint in the evidence."""
    hardware: dict[str, Any] | None = None
    """What the engine's guard read of the hardware: chip, hbmGiB, driver, firmware, link, devices."""
    identity: dict[str, str] | None = None
    """What the engine is beside plan and hardware, as text by part and key (``detinf.documents.identity``): variables,
    packages, files, model."""
    model: dict[str, str | int | bool] | None = None
    """What kind of model it is, by members of its config.json, as the engine's guard attested it."""
    replies: list[Reply] | None = None
    """What came of what the controller asked again (``AskedAgain``), by this boot; absent where nothing was asked."""
    overridden: dict[str, dict[str, str]] | None = None
    """Variables that the plan was put over, as the engine's guard attested them: who had set them, name and value."""
