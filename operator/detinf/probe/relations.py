"""The relations, run against an engine: S01 solo repeat, S02 baseline, S03 decode width."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from detinf.api.types import Promise
from detinf.documents import Reference, Verdict, Witness
from detinf.probe.client import EngineClient, EngineIdentity
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.trace import Trace
from detinf.probe.verdict import Asked, Round, judge
from detinf.probe.witness import decode_width, traced_width

SOLO = "solo"
PLUG_TOKENS = 2048
"""Long enough for a cohort to arrive while it is computed, bounded by the model's context."""
IDLE_PLUG_TOKENS = 8192
"""At the gate nobody is kept waiting: a longer plug lets a cohort arrive on a busy machine, too."""


@dataclass(frozen=True)
class Prober:
    """An engine and what it promises."""

    client: EngineClient
    promise: Promise
    max_model_len: int
    trace: Trace | None = None
    """The engine's step trace, where the operator runs the engine."""

    async def changed(self, before: EngineIdentity | None) -> str | None:
        """Return how the engine's identity differs from before, or None."""
        after = await self.client.identity()
        if before is None or after is None:
            return "the engine does not answer /health"
        if before != after:
            return f"the engine was {before}, and is {after}"
        return None

    async def solo(self, reference: Reference, baseline: Observation | None) -> list[Round]:
        """Ask one reference twice, alone: S01 against itself, and S02 against the baseline where there is one."""
        before = await self.client.identity()
        first = await self.client.ask(reference)
        second = await self.client.ask(reference)
        changed = await self.changed(before)
        rounds = []
        if isinstance(first, InconclusiveError):
            repeat = [Asked(reference, _NOTHING, first)]
        else:
            repeat = [Asked(reference, first, second)]
        rounds.append(judge("S01", SOLO, repeat, promise=self.promise, engine_changed=changed))
        if baseline is not None:
            held = [Asked(reference, baseline, first), Asked(reference, baseline, second)]
            rounds.append(judge("S02", SOLO, held, promise=self.promise, engine_changed=changed))
        return rounds

    async def width(
        self, references: Sequence[Reference], expected: Mapping[str, Observation], *, plug_tokens: int = PLUG_TOKENS
    ) -> list[Round]:
        """Ask references together: S03, each against its expected answer, booked at the width that really ran."""
        wanted, cohort = len(references), secrets.token_bytes(8)
        before = await self.client.identity()
        first, position = await self.client.metrics(), self.trace.position() if self.trace else None
        answers = await self.client.cohort(list(references), min(plug_tokens, self.max_model_len - 2), cohort)
        window = self.trace.since(position) if self.trace and position is not None else None
        last = await self.client.metrics()
        changed = await self.changed(before)
        asked = [
            Asked(reference, expected[reference.name], answer)
            for reference, answer in zip(references, answers, strict=True)
        ]
        tokens = [len(answer.token_ids) if isinstance(answer, Observation) else 1 for answer in answers]
        missing = Reason.NOT_BATCHED
        if window is not None:
            proven, witness = traced_width(window, cohort, tokens=tokens, wanted=wanted)
        elif first is not None and last is not None:
            proven, witness = decode_width(first, last, own_decode_tokens=sum(tokens) - wanted, wanted=wanted)
        else:
            witness = Witness(kind="None", width=1, detail="/metrics does not have vllm:iteration_tokens_total")
            proven, missing = False, Reason.METRICS_MISSING
        outcome = judge(
            "S03",
            f"width={wanted}",
            asked,
            promise=self.promise,
            witness=witness,
            proven=proven,
            missing=missing,
            engine_changed=changed,
        )
        if witness.kind == "W0" and witness.width > 1 and outcome.verdict is not Verdict.INCONCLUSIVE:
            outcome = replace(outcome, condition=f"width={witness.width}")
        return [outcome]


_NOTHING = Observation((), (), "")
