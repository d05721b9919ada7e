"""What a replica's peers say of its divergence, asked after it: is it alone in that, or are all alike?

A PASS from before the divergence says nothing about it, and neither does one of another request. So the peers are asked
the same again (``documents.AskedAgain``), under the digest of the evidence: a reply that names it was given after it,
whatever the clocks of two nodes say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from detinf.controller.observed import Replica
from detinf.documents import Again, AskedAgain, Evidence, Verdict
from detinf.guard.canonical import short


@dataclass(frozen=True)
class Rounds:
    """How long is waited for peers, in seconds."""

    replies: float
    """For the replies of all of them, once one has passed; a busy engine does not answer its probe."""
    old: float
    """Until a probe that does not know the question must have come round to the cell by itself."""


@dataclass
class Heard:
    """What the peers of a diverged replica say."""

    passing: list[int] = field(default_factory=list)
    """Peers that passed the same since."""
    failing: list[int] = field(default_factory=list)
    """Peers that diverged, on whatever."""
    silent: list[int] = field(default_factory=list)
    """Peers of which neither is known."""

    def alone(self, *, waited: float, rounds: Rounds) -> bool:
        """Return whether the replica is alone in its divergence: a peer passes, and the others were waited for."""
        return bool(self.passing) and (not self.silent or waited >= rounds.replies)


def question(evidence: Evidence) -> Again:
    """Return what the peers are asked about a divergence."""
    return Again(
        evidence=short(evidence.digest()),
        relation=evidence.relation,
        condition=evidence.condition,
        reference=evidence.reference,
    )


def peers_of(replica: Replica, replicas: Sequence[Replica]) -> list[Replica]:
    """Return the replicas that serve with the same fingerprint; isolated ones are out of the Service."""
    evidence = replica.evidence
    return [
        other
        for other in replicas
        if other.index != replica.index
        and other.ready
        and not other.leaves
        and evidence is not None
        and other.report is not None
        and other.report.fingerprint == evidence.fingerprint
    ]


def heard(replica: Replica, replicas: Sequence[Replica], *, waited: float, rounds: Rounds) -> Heard:
    """Return what the peers say; any piece of evidence that a peer passes convicts."""
    found = Heard()
    for peer in peers_of(replica, replicas):
        if peer.evidence is not None:
            found.failing.append(peer.index)
        elif any(_passed_since(peer, item, waited=waited, rounds=rounds) for item in replica.pieces):
            found.passing.append(peer.index)
        else:
            found.silent.append(peer.index)
    return found


def _passed_since(peer: Replica, evidence: Evidence, *, waited: float, rounds: Rounds) -> bool:
    report = peer.report
    if report is None:
        return False
    if report.replies is not None:
        asked = question(evidence).evidence
        return any(reply.evidence == asked and reply.verdict is Verdict.PASS for reply in report.replies)
    # A probe of an earlier release: its cell's PASS, later than the divergence, and a whole round after it.
    return waited >= rounds.old and any(
        (cell.relation, cell.condition) == (evidence.relation, evidence.condition)
        and cell.verdict is Verdict.PASS
        and cell.last_pass_unix is not None
        and cell.last_pass_unix > evidence.detected_unix
        for cell in report.cells
    )


def asked_of(replica: Replica, replicas: Sequence[Replica]) -> str | None:
    """Return what a replica's probe is asked again, as its pod's annotation; None where it is asked nothing."""
    if replica.evidence is not None or replica.leaves or not replica.ready or replica.report is None:
        return None
    items = [
        question(item)
        for other in replicas
        if other.index != replica.index
        for item in other.pieces
        if item.fingerprint == replica.report.fingerprint
    ]
    return AskedAgain(items=items).canonical().decode() if items else None
