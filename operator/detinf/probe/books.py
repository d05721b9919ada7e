"""What the rounds of a boot come to: the ledger, metrics, the log, and the first evidence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from detinf.api.types import Promise
from detinf.documents import Evidence, PodIdentity, Reference, Verdict
from detinf.probe.attested import Attested
from detinf.probe.coverage import Ledger
from detinf.probe.digests import digests
from detinf.probe.evidence import confirm
from detinf.probe.exported import Exported
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.verdict import Round

log = structlog.get_logger()


@dataclass
class Books:
    """The books of one boot."""

    attested: Attested
    pod: PodIdentity
    exported: Exported
    promise: Callable[[], Promise]
    """What is promised as of now."""
    references_digest: str | None = None
    ledger: Ledger = field(default_factory=Ledger)
    evidence: Evidence | None = None
    """The boot's first confirmed divergence; it stays until the boot ends."""

    def book(self, outcome: Round) -> None:
        """Book one round."""
        self.ledger.book(outcome, int(time.time()))
        if outcome.verdict is not Verdict.PASS and outcome.reason is not Reason.NOT_APPLICABLE:
            log.warning(
                "round",
                relation=outcome.relation,
                condition=outcome.condition,
                verdict=str(outcome.verdict),
                reason=str(outcome.reason),
                detail=outcome.detail,
            )

    def keep(self, rounds: list[Round]) -> None:
        """Book rounds, and keep the first evidence among them."""
        for outcome in rounds:
            self.book(outcome)
            if outcome.verdict is Verdict.FAIL:
                self.keep_evidence(outcome)

    def count(self, rounds: list[Round], seconds: float) -> None:
        """Count rounds that took so long together."""
        for outcome in rounds:
            self.exported.book(outcome, now=time.time(), seconds=seconds)

    def show_answer(self, reference: Reference, expected: Observation, outcome: Round) -> None:
        """Show what the engine answered when it was alone, by a digest of what is promised of it."""
        if outcome.verdict is Verdict.INCONCLUSIVE:
            return
        # A PASS says that it was what was expected, in all that is promised.
        observed = outcome.finding.observed if outcome.finding else expected
        found = digests(reference.prompt_ids, observed)
        promised = found.ids if self.promise() is Promise.TOKENS else found.logprobs
        self.exported.show_answer(reference.name, self.attested.fingerprint, promised)

    def keep_evidence(self, outcome: Round) -> None:
        """Keep the evidence of a failed round where it is the boot's first."""
        if self.evidence is None:
            self.evidence = confirm(
                outcome,
                promise=self.promise(),
                attested=self.attested,
                pod=self.pod,
                references_digest=self.references_digest or "",
                ledger=self.ledger,
                now=int(time.time()),
            )
