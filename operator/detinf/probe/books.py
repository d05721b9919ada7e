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
from detinf.probe.hints import ALONE, Looked, hint
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.relations import SOLO
from detinf.probe.served import Served
from detinf.probe.verdict import Round

MOST_FURTHER = 3
"""Divergences that are kept beside the first."""

log = structlog.get_logger()


@dataclass
class Books:
    """The books of one boot."""

    attested: Attested
    pod: PodIdentity
    exported: Exported
    promise: Callable[[], Promise]
    """What is promised as of now."""
    node: str | None = None
    """The node that the pod runs on."""
    references_digest: str | None = None
    ledger: Ledger = field(default_factory=Ledger)
    evidence: Evidence | None = None
    """The boot's first confirmed divergence; it stays until the boot ends."""
    further: list[Evidence] = field(default_factory=list)
    """The first divergence of each other cell, the oldest first, as far as there is room."""
    looked: Looked = field(default_factory=Looked)
    """What was looked at since the first divergence."""
    served: Served = field(default_factory=Served)
    """What the engine answered to others."""

    def book(self, outcome: Round) -> None:
        """Book one round."""
        self.ledger.book(outcome, int(time.time()))
        self.served.note(outcome)
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
        """Book rounds that came of the same answers, or one, and keep the evidence among them."""
        for outcome in rounds:
            self.book(outcome)
        if self.evidence is not None:
            for outcome in rounds:
                self.looked = self.looked.after(outcome, self.evidence.reference)
        for outcome in rounds:
            if outcome.verdict is Verdict.FAIL:
                self._diverged(outcome, [other for other in rounds if other is not outcome])

    def _diverged(self, outcome: Round, beside: list[Round]) -> None:
        """Keep the evidence of a failed round where it is the first of its cell; ``beside`` is what came with it."""
        kept = {(item.relation, item.condition) for item in filter(None, (self.evidence, *self.further))}
        own = (outcome.relation, outcome.condition)
        if own in kept or len(self.further) == MOST_FURTHER or outcome.finding is None:
            return
        reference = outcome.finding.asked.reference.name
        looked = Looked().with_witness(outcome)
        for other in beside:
            looked = looked.after(other, reference)
        found = confirm(
            outcome,
            promise=self.promise(),
            attested=self.attested,
            pod=self.pod,
            references_digest=self.references_digest or "",
            hint=hint(own, looked),
            now=int(time.time()),
            node=self.node,
            clean=self.ledger.cells[own].last_pass_unix,
            answered=self.served.since_clean(outcome),
        )
        if found is None:
            return
        if self.evidence is None:
            self.evidence, self.looked = found, looked
        else:
            self.further.append(found)

    def hint(self) -> str | None:
        """Return where to look first by all that is known now, where that is more than the evidence itself says."""
        if self.evidence is None:
            return None
        told = hint((self.evidence.relation, self.evidence.condition), self.looked)
        return told if told != self.evidence.hint else None

    def in_doubt(self) -> str | None:
        """Return the reference that differed while it was not asked alone since: drift, or what ran beside it?"""
        if self.evidence is None:
            return None
        relation = self.evidence.relation if self.evidence.relation in ALONE else "S02"
        return None if self.looked.knows((relation, SOLO)) else self.evidence.reference

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
