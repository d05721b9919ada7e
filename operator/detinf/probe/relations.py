"""The relations, run against an engine: S01 solo repeat, S02 baseline, S03 decode width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detinf.api.types import Promise
from detinf.documents import Reference, Witness
from detinf.probe.client import EngineClient, EngineIdentity
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.verdict import Asked, Round, judge
from detinf.probe.witness import decode_width

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
            repeat = [Asked(reference.name, _NOTHING, first)]
        else:
            repeat = [Asked(reference.name, first, second)]
        rounds.append(judge("S01", SOLO, repeat, promise=self.promise, engine_changed=changed))
        if baseline is not None:
            held = [Asked(reference.name, baseline, first), Asked(reference.name, baseline, second)]
            rounds.append(judge("S02", SOLO, held, promise=self.promise, engine_changed=changed))
        return rounds

    async def width(
        self, references: Sequence[Reference], expected: Mapping[str, Observation], *, plug_tokens: int = PLUG_TOKENS
    ) -> list[Round]:
        """Ask references together: S03 at their number, each against its expected answer, witnessed by W2."""
        wanted = len(references)
        condition = f"width={wanted}"
        before = await self.client.identity()
        first = await self.client.metrics()
        answers = await self.client.cohort(list(references), min(plug_tokens, self.max_model_len - 2))
        last = await self.client.metrics()
        changed = await self.changed(before)
        asked = [
            Asked(reference.name, expected[reference.name], answer)
            for reference, answer in zip(references, answers, strict=True)
        ]
        if first is None or last is None:
            witness = Witness(kind="None", width=1, detail="/metrics does not have vllm:iteration_tokens_total")
            proven, missing = False, Reason.METRICS_MISSING
        else:
            decoded = sum(len(answer.token_ids) - 1 for answer in answers if isinstance(answer, Observation))
            proven, witness = decode_width(first, last, own_decode_tokens=decoded, wanted=wanted)
            missing = Reason.NOT_BATCHED
        outcome = judge(
            "S03",
            condition,
            asked,
            promise=self.promise,
            witness=witness,
            proven=proven,
            missing=missing,
            engine_changed=changed,
        )
        return [outcome]


_NOTHING = Observation((), (), "")
