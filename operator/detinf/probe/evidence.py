"""Evidence of a divergence: enough to see it again, and to argue about it without the engine."""

from __future__ import annotations

from detinf.api.types import Promise
from detinf.documents import Evidence, PodIdentity
from detinf.probe.attested import Attested
from detinf.probe.comparison import compare
from detinf.probe.digests import digests
from detinf.probe.observation import from_answer
from detinf.probe.verdict import Round


def confirm(
    outcome: Round,
    *,
    promise: Promise,
    attested: Attested,
    pod: PodIdentity,
    references_digest: str,
    hint: str,
    now: int,
    node: str | None = None,
    clean: int | None = None,
    answered: int | None = None,
) -> Evidence | None:
    """Return the evidence of a failed round, or None where the stored answers do not differ after all.

    Confirmed means: compared once more from what is stored, with the engine's identity unchanged. It does not mean
    reproduced: an intermittent fault would never be confirmed then.

    Args:
        outcome: the round.
        promise: what had to be equal.
        attested: the engine.
        pod: its pod.
        references_digest: of the frozen references.
        hint: where to look first.
        now: Unix seconds.
        node: that the pod runs on.
        clean: when the same cell of this boot passed last, in Unix seconds.
        answered: requests that others got an answer to since then.
    """
    if outcome.finding is None:
        return None
    asked = outcome.finding.asked
    prompt = asked.reference.prompt_ids
    expected, observed = asked.expected.answer(with_top=True), outcome.finding.observed.answer(with_top=True)
    difference = compare(from_answer(expected), from_answer(observed), promise)
    if difference is None:
        return None
    return Evidence(
        pod=pod,
        boot=attested.boot,
        plan_digest=attested.plan_digest,
        fingerprint=attested.fingerprint,
        references_digest=references_digest,
        relation=outcome.relation,
        condition=outcome.condition,
        reference=asked.reference.name,
        observable=str(difference.observable),
        phase=difference.phase,
        position=difference.position,
        differing_positions=difference.differing_positions,
        max_ulps=difference.max_ulps,
        expected=expected,
        observed=observed,
        witness=outcome.witness,
        hint=hint,
        detected_unix=now,
        token_position=difference.token_position,
        logprob_position=difference.logprob_position,
        sequence_position=len(prompt) + difference.position,
        expected_digests=digests(prompt, asked.expected),
        observed_digests=digests(prompt, outcome.finding.observed),
        counters=attested.counters,
        node=node,
        devices=attested.boards,
        clean_unix=clean,
        answered=answered,
    )
