"""The documents that cross process boundaries: read them, and you know the system.

Each is versioned, canonical JSON without floats; see ``docs/design.md``, *Documents*.
"""

from detinf.documents.answers import Answer, AnswerDigests, Baseline, Candidate, Reference, References
from detinf.documents.attestation import Attestation, Vocabulary
from detinf.documents.base import Document, DocumentError
from detinf.documents.plan import (
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
from detinf.documents.report import (
    Again,
    AskedAgain,
    Cell,
    Evidence,
    Phase,
    PodIdentity,
    Reply,
    Report,
    Verdict,
    Witness,
)
from detinf.documents.sealed import seal, unseal
from detinf.documents.settings import GateSettings, NotApplicable, ProbeSettings, ScheduleSettings, StimulusWitness

ALL: tuple[type[Document], ...] = (
    Plan,
    ProbeSettings,
    References,
    Attestation,
    Candidate,
    Baseline,
    Report,
    Evidence,
    AskedAgain,
)

__all__ = [
    "ALL",
    "Again",
    "Answer",
    "AnswerDigests",
    "AskedAgain",
    "Attestation",
    "Baseline",
    "Candidate",
    "Cell",
    "Document",
    "DocumentError",
    "Evidence",
    "GateSettings",
    "NotApplicable",
    "Phase",
    "Plan",
    "PlanAttestation",
    "PlanDownload",
    "PlanEnvironment",
    "PlanFailureLine",
    "PlanModel",
    "PlanRequests",
    "PlanRule",
    "PlanSymbol",
    "PlanTopology",
    "PodIdentity",
    "ProbeSettings",
    "Reference",
    "References",
    "Reply",
    "Report",
    "ScheduleSettings",
    "StimulusWitness",
    "Verdict",
    "Vocabulary",
    "Witness",
    "seal",
    "unseal",
]
