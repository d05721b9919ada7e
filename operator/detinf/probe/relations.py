"""The relations, run against an engine.

S01 solo repeat, S02 baseline, S03 decode width, S04 tokens in one launch, S05 a prefill among decodes.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from detinf.api.types import Promise
from detinf.documents import Reference, Verdict, Witness
from detinf.probe.arithmetic import Sent
from detinf.probe.cohort import plugs_for
from detinf.probe.engine import Engine, Look, Outcome, StepTrace
from detinf.probe.excluded import Prefills
from detinf.probe.metrics import Snapshot
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.trace import Window
from detinf.probe.traced import Proof, decoding, launched, mixed
from detinf.probe.verdict import Asked, Round, judge
from detinf.probe.witness import company, counted_width, traced_width

SOLO = "solo"
PLUG_TOKENS = 2048
"""Long enough for a cohort to arrive while it is computed, bounded by the model's context."""
IDLE_PLUG_TOKENS = 8192
"""At the gate nobody is kept waiting: a longer plug lets a cohort arrive on a busy machine, too."""


@dataclass(frozen=True)
class Run:
    """Answers to a cohort, and what was seen from before it was sent to after its last answer."""

    answers: Sequence[Outcome]
    window: Window | None
    """The step trace, where there is one."""
    metrics: tuple[Snapshot | None, Snapshot | None]
    changed: str | None
    """How the engine's identity changed; None where it did not."""
    served: tuple[int | None, int | None]
    """Requests of others that the engine had answered, before and after."""

    @property
    def tokens(self) -> list[int]:
        """The answers' lengths; 1 where there is none."""
        return [len(answer.token_ids) if isinstance(answer, Observation) else 1 for answer in self.answers]


@dataclass(frozen=True)
class Prober:
    """An engine and what it promises."""

    client: Engine
    promise: Promise
    max_model_len: int
    trace: StepTrace | None = None
    """The engine's step trace, where the operator runs the engine."""
    prefills: Prefills = field(default_factory=Prefills)
    """How the engine reads prompts, from all windows of the trace."""

    async def repeat(self, reference: Reference) -> tuple[Round, Observation | None]:
        """Ask one reference twice, alone: S01, and the answer where both are equal."""
        before = await self.client.look()
        first = await self.client.ask(reference)
        second = await self.client.ask(reference)
        outcome = self._solo("S01", [_held(reference, first, second)], before, await self.client.look())
        return outcome, first if isinstance(first, Observation) and outcome.verdict is Verdict.PASS else None

    async def baseline(self, reference: Reference, expected: Observation) -> Round:
        """Ask one reference once, alone: S02 against the baseline."""
        before = await self.client.look()
        asked = [Asked(reference, expected, await self.client.ask(reference))]
        return self._solo("S02", asked, before, await self.client.look(), times=1)

    async def solo(self, reference: Reference, baseline: Observation | None) -> list[Round]:
        """Ask one reference twice, alone: S01 against itself, and S02 against the baseline where there is one."""
        before = await self.client.look()
        first = await self.client.ask(reference)
        second = await self.client.ask(reference)
        after = await self.client.look()
        rounds = [self._solo("S01", [_held(reference, first, second)], before, after)]
        if baseline is not None:
            held = [Asked(reference, baseline, first), Asked(reference, baseline, second)]
            rounds.append(self._solo("S02", held, before, after))
        return rounds

    def _solo(self, relation: str, asked: list[Asked], before: Look, after: Look, *, times: int = 2) -> Round:
        # Equality of an answer alone needs no proof; the witness says whether it was alone.
        reference = asked[0].reference
        sent = Sent((len(reference.prompt_ids),) * times, (reference.max_tokens,) * times)
        witness = company(before.metrics, after.metrics, sent)
        changed = before.changed(after)
        outcome = judge(relation, SOLO, asked, promise=self.promise, witness=witness, engine_changed=changed)
        return replace(outcome, served=(before.others, after.others))

    async def width(
        self, references: Sequence[Reference], expected: Mapping[str, Observation], *, plug_tokens: int = PLUG_TOKENS
    ) -> list[Round]:
        """Ask references together: S03, each against its expected answer, booked at the width that really ran.

        With the step trace that may be another width than wanted; who needs that one looks at ``as_wanted``.
        """
        wanted, cohort = len(references), secrets.token_bytes(8)
        run = await self._together(references, plug_tokens, cohort)
        first, last = run.metrics
        missing, ran, as_wanted = Reason.NOT_BATCHED, None, True
        if run.window is not None:
            as_wanted, witness = traced_width(run.window, cohort, tokens=run.tokens, wanted=wanted)
            # Where it was narrower than wanted it was compared all the same: it counts as what it was.
            proven = witness.width > 1
            ran = f"width={witness.width}" if proven else None
        elif first is not None and last is not None:
            prompts = tuple(len(reference.prompt_ids) for reference in references)
            plugs = (self._plug(plug_tokens),) * plugs_for(wanted)
            sent = Sent(prompts, tuple(run.tokens), plugs=plugs)
            proven, witness, ran = counted_width(first, last, sent)
        else:
            witness = Witness(kind="None", width=1, detail="/metrics does not have vllm:iteration_tokens_total")
            proven, missing = False, Reason.METRICS_MISSING
        proof = Proof(proven, ran, witness, missing, as_wanted=as_wanted)
        return [self._disturbed("S03", f"width={wanted}", references, expected, run, proof)]

    async def launch(
        self, references: Sequence[Reference], expected: Mapping[str, Observation], *, plug_tokens: int = PLUG_TOKENS
    ) -> Round:
        """Ask references so that one step reads all their prompts: S04, booked at the tokens that step really held."""
        cohort = secrets.token_bytes(8)
        prompts = [len(reference.prompt_ids) for reference in references]
        run = await self._together(references, plug_tokens, cohort)
        proof = _NO_TRACE if run.window is None else launched(run.window, cohort, prompts=prompts)
        return self._disturbed("S04", f"tokens={sum(prompts)}", references, expected, run, proof)

    async def join(
        self, decoding_references: Sequence[Reference], joins: Reference, expected: Mapping[str, Observation]
    ) -> Round:
        """Ask references, and one more once they decode: S05, booked at the tokens of the prefill among decodes."""
        cohort = secrets.token_bytes(8)

        async def send(position: int | None) -> list[Outcome]:
            if self.trace is None or position is None:
                return [_UNTRACED for _ in references]
            may_join = decoding(self.trace, position, cohort)
            return await self.client.join(decoding_references, [joins], cohort, may_join)

        references = [*decoding_references, joins]
        run = await self._run(send)
        proof = _NO_TRACE if run.window is None else mixed(run.window, cohort, joining=len(decoding_references))
        return self._disturbed("S05", f"prefill={len(joins.prompt_ids)}", references, expected, run, proof)

    async def _together(self, references: Sequence[Reference], plug_tokens: int, cohort: bytes) -> Run:
        plug = self._plug(plug_tokens)
        return await self._run(lambda _position: self.client.cohort(references, plug, cohort))

    def _plug(self, plug_tokens: int) -> int:
        return min(plug_tokens, self.max_model_len - 2)

    async def _run(self, send: Callable[[int | None], Awaitable[Sequence[Outcome]]]) -> Run:
        before, position = await self.client.look(), self.trace.position() if self.trace else None
        answers = await send(position)
        window = self.trace.since(position) if self.trace and position is not None else None
        if window is not None:
            self.prefills.add(window)
        after = await self.client.look()
        looks = (before.metrics, after.metrics)
        return Run(answers, window, looks, before.changed(after), (before.others, after.others))

    def _disturbed(
        self,
        relation: str,
        condition: str,
        references: Sequence[Reference],
        expected: Mapping[str, Observation],
        run: Run,
        proof: Proof,
    ) -> Round:
        outcome = judge(
            relation,
            condition,
            [
                Asked(reference, expected[reference.name], answer)
                for reference, answer in zip(references, run.answers, strict=True)
            ],
            promise=self.promise,
            witness=proof.witness,
            proven=proof.proven,
            missing=proof.missing,
            engine_changed=run.changed,
        )
        # A difference needs no witness: where only a part of what was wanted took place, or was proven, it is booked
        # under what was asked for. There peers have a verdict, too; under what ran by accident they have none.
        traced = proof.witness.kind == "W0" and proof.as_wanted
        known = outcome.verdict is Verdict.PASS or (outcome.verdict is Verdict.FAIL and traced)
        if proof.condition is not None and known:
            outcome = replace(outcome, condition=proof.condition)
        return replace(outcome, as_wanted=proof.as_wanted, served=run.served)


def _held(reference: Reference, first: Outcome, second: Outcome) -> Asked:
    if isinstance(first, InconclusiveError):
        return Asked(reference, _NOTHING, first)
    return Asked(reference, first, second)


_NOTHING = Observation((), (), "")
_UNTRACED = InconclusiveError(Reason.TRACE_MISSING, "there is no step trace to see when the others decode")
_NO_TRACE = Proof(
    False, None, Witness(kind="None", width=1, detail="there is no step trace of this boot"), Reason.TRACE_MISSING
)
