"""Stimuli that cannot disturb this engine: told with the witness that they could not, and never counted as PASS.

What applies is the profile's (``notApplicable``), and the profile may be wrong: an engine that was seen to do what it
cannot do is not gated.
"""

from __future__ import annotations

from dataclasses import dataclass

from detinf.documents import NotApplicable, StimulusWitness, Verdict, Witness
from detinf.probe.metrics import Snapshot
from detinf.probe.reasons import Reason
from detinf.probe.trace import Window
from detinf.probe.verdict import Round

CONDITION = "not applicable"


@dataclass
class Prefills:
    """How the engine has read our prompts in this lifetime, by its step trace."""

    whole: int = 0
    longest: int = 0
    """Tokens of the longest prompt that one step read whole."""
    partial: str | None = None
    """The first step that read a part of one."""

    def add(self, window: Window) -> None:
        """Take note of the steps of a window."""
        for step in window.steps:
            for own in step.own:
                if own.prefill and own.computed:
                    self.partial = self.partial or (
                        f"step {step.step} read {own.tokens} tokens of a prompt of which {own.computed} were there"
                    )
                elif own.prefill:
                    self.whole += 1
                    self.longest = max(self.longest, own.tokens)


def excluded(item: NotApplicable, prefills: Prefills, metrics: Snapshot | None) -> list[Round]:
    """Return a round for each relation of a stimulus: NotApplicable, Applies, or what the witness lacks."""
    if item.witness is StimulusWitness.NO_PARTIAL_PREFILL:
        kind, (reason, detail) = "W0", _read_whole(prefills)
    else:
        kind, (reason, detail) = "W6", _never_looked_up(metrics)
    if reason is Reason.NOT_APPLICABLE:
        detail = f"{item.reason}: {detail}"
    witness = Witness(kind=kind, width=1, detail=detail)
    return [Round(name, CONDITION, Verdict.INCONCLUSIVE, reason, detail, 0, witness) for name in item.relations]


def _read_whole(prefills: Prefills) -> tuple[Reason, str]:
    if prefills.partial is not None:
        return Reason.APPLIES, prefills.partial
    if not prefills.whole:
        return Reason.TRACE_MISSING, "no step trace shows how a prompt was read"
    return (
        Reason.NOT_APPLICABLE,
        f"the step trace holds {prefills.whole} prompts of up to {prefills.longest} tokens, each read whole",
    )


def _never_looked_up(metrics: Snapshot | None) -> tuple[Reason, str]:
    if metrics is None or metrics.cache_queries is None:
        return Reason.METRICS_MISSING, "/metrics does not tell how many tokens were looked up in the prefix cache"
    if metrics.cache_queries:
        return Reason.APPLIES, f"{metrics.cache_queries:.0f} tokens were looked up in the prefix cache"
    return Reason.NOT_APPLICABLE, f"of {metrics.prompts or 0:.0f} prompt tokens none was looked up in the prefix cache"
