"""What the rounds of a boot come to: the ledger, metrics, the log, the evidence, and what is kept of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from detinf.api.types import Promise
from detinf.documents import Again, Evidence, PodIdentity, Reference, Reply, Verdict
from detinf.probe.attested import Attested
from detinf.probe.coverage import Ledger
from detinf.probe.digests import digests
from detinf.probe.evidence import confirm
from detinf.probe.excluded import Prefills
from detinf.probe.exported import Exported
from detinf.probe.hints import ALONE, Looked, hint
from detinf.probe.kept import Kept, write_kept
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.relations import SOLO
from detinf.probe.served import Served
from detinf.probe.verdict import Round

MOST_FURTHER = 3
"""Divergences that are kept beside the first."""
MOST_REPLIES = 100
"""Replies that are kept: more than ever stand in an annotation."""

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
    state: Path | None = None
    """The folder that the books are kept in; None: they are kept nowhere."""
    references_digest: str | None = None
    baseline_digest: str | None = None
    """What answers are held against."""
    ledger: Ledger = field(default_factory=Ledger)
    evidence: Evidence | None = None
    """The boot's first confirmed divergence; it stays until the boot ends."""
    further: list[Evidence] = field(default_factory=list)
    """The first divergence of each other cell, the oldest first, as far as there is room."""
    looked: Looked = field(default_factory=Looked)
    """What was looked at since the first divergence."""
    served: Served = field(default_factory=Served)
    """What the engine answered to others."""
    gate_failed: str | None = None
    """Why this boot never serves: a gate that failed is not run again."""
    replies: dict[str, Reply] = field(default_factory=dict)
    """By the evidence that they name."""
    prefills: Prefills = field(default_factory=Prefills)
    """How the engine has read our prompts."""
    solo_turn: int = 0
    turn: int = 0
    """Whose turn it is in the watch: alone, and together."""
    _unwritten: str | None = None

    def bind(self, references_digest: str, baseline_digest: str | None = None) -> None:
        """Say what answers are held against from now on; what was booked against anything else does not count."""
        other = self.references_digest not in {None, references_digest}
        other |= baseline_digest is not None and self.baseline_digest not in {None, baseline_digest}
        if other:
            self.ledger, self.replies, self.served.at_pass = Ledger(), {}, {}
            self.baseline_digest = None
        self.references_digest = references_digest
        self.baseline_digest = baseline_digest or self.baseline_digest

    def save(self) -> None:
        """Keep the books for a probe that starts again; where that fails it says so once, and goes on."""
        if self.state is None:
            return
        attested, looked, prefills = self.attested, self.looked, self.prefills
        kept = Kept(
            boot=attested.boot,
            plan_digest=attested.plan_digest,
            fingerprint=attested.fingerprint,
            references_digest=self.references_digest,
            baseline_digest=self.baseline_digest,
            cells=self.ledger.listed(),
            evidence=self.evidence,
            further=self.further,
            failing=sorted(looked.failing),
            passed=sorted(looked.passed),
            alone=sorted(looked.alone),
            gate_failed=self.gate_failed,
            replies=list(self.replies.values()),
            whole=prefills.whole,
            longest=prefills.longest,
            partial=prefills.partial,
            solo_turn=self.solo_turn,
            turn=self.turn,
        )
        try:
            write_kept(self.state, kept)
        except (OSError, ValueError) as error:
            if self._unwritten != str(error):
                log.warning("books not kept", error=str(error))
            self._unwritten = str(error)
        else:
            self._unwritten = None

    def restore(self, kept: Kept) -> None:
        """Go on with the books that a probe before this one kept.

        How many answers users got since a PASS is not in them: what was under way when it ended may be anybody's.
        """
        self.references_digest, self.baseline_digest = kept.references_digest, kept.baseline_digest
        self.ledger = Ledger({(cell.relation, cell.condition): cell for cell in kept.cells})
        self.evidence, self.further = kept.evidence, kept.further[:MOST_FURTHER]
        self.looked = Looked(frozenset(kept.failing), frozenset(kept.passed), frozenset(kept.alone))
        self.gate_failed = kept.gate_failed
        self.replies = {reply.evidence: reply for reply in kept.replies}
        self.prefills = Prefills(kept.whole, kept.longest, kept.partial)
        self.solo_turn, self.turn = kept.solo_turn, kept.turn
        self.exported.restore(self.ledger)

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

    def keep(self, rounds: list[Round], *, at_gate: bool = False) -> None:
        """Book rounds that came of the same answers, or one, and keep the evidence among them.

        Args:
            rounds: what came of them.
            at_gate: whether a difference is the end of this boot.
        """
        for outcome in rounds:
            self.book(outcome)
        if self.evidence is not None:
            for outcome in rounds:
                self.looked = self.looked.after(outcome, self.evidence.reference)
        for outcome in rounds:
            if outcome.verdict is Verdict.FAIL:
                self._diverged(outcome, [other for other in rounds if other is not outcome])
                if at_gate and self.gate_failed is None:
                    self.gate_failed = f"gate: {outcome.relation} {outcome.condition}: FAIL: {outcome.detail}"
        self.save()

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

    def reply(self, reply: Reply) -> None:
        """Keep what came of something that was asked again; the oldest are forgotten."""
        self.replies.pop(reply.evidence, None)
        self.replies[reply.evidence] = reply
        while len(self.replies) > MOST_REPLIES:
            del self.replies[next(iter(self.replies))]
        self.save()

    def replies_to(self, items: list[Again]) -> list[Reply]:
        """Return what came of items so far."""
        return [self.replies[item.evidence] for item in items if item.evidence in self.replies]

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
