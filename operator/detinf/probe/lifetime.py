"""One lifetime of an engine, from its attestation to its end: references, candidate, gate, and the watch after it.

The order is the promise: nothing is compared before references are frozen, no user is served before the gate, and
nothing that was INCONCLUSIVE counts as passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from detinf.api.types import ProbeMode
from detinf.documents import (
    Baseline,
    Candidate,
    Phase,
    PodIdentity,
    ProbeSettings,
    Reference,
    References,
    Verdict,
)
from detinf.probe.asking import NARROW, Asking
from detinf.probe.attested import Attested
from detinf.probe.books import Books
from detinf.probe.client import EngineClient
from detinf.probe.delivery import Delivery
from detinf.probe.disturbances import Disturbance
from detinf.probe.exported import Exported
from detinf.probe.kept import read_kept
from detinf.probe.observation import Observation, from_answer
from detinf.probe.readiness import GatePass, forget_pass, read_pass, write_pass
from detinf.probe.reasons import BACK_OFF_SECONDS, Reason
from detinf.probe.references import comparable, propose_from
from detinf.probe.relations import IDLE_PLUG_TOKENS
from detinf.probe.trace import Trace
from detinf.probe.verdict import NO_WITNESS, Round, untraced
from detinf.probe.watching import Watch

POLL_SECONDS = 1.0
"""How often mounted files and a starting engine are looked at again."""
REPEATED_AT_GATE = 4
"""References that are also asked twice at the gate; a candidate's answers are all asked twice."""

ATTEMPTS = 5
"""How often a cell is formed at the gate before the gate begins anew; a difference ends it at once."""
OUTSIDE = "outside the limits"
"""Condition of the cell that says which frozen references this engine cannot be asked."""

log = structlog.get_logger()


@dataclass
class Lifetime:
    """What is known about one boot."""

    attested: Attested
    pod: PodIdentity
    client: EngineClient
    delivery: Delivery
    state: Path
    podinfo: Path
    trace: Trace
    read_settings: Callable[[], ProbeSettings]
    exported: Exported
    node: str | None = None
    """The node that the pod runs on."""
    phase: Phase = Phase.WAITING_FOR_ENGINE
    problems: list[str] = field(default_factory=list)
    proposal: References | None = None
    candidate: Candidate | None = None
    books: Books = field(init=False)
    asking: Asking = field(init=False)

    def __post_init__(self) -> None:
        """Open the books, where there are any at the page where a probe before this one left them."""
        self.books = Books(
            self.attested, self.pod, self.exported, lambda: self.read_settings().promise, self.node, self.state
        )
        kept = read_kept(self.state, self.attested)
        if kept is not None:
            log.info("books read", boot=kept.boot, cells=len(kept.cells))
            self.books.restore(kept)
        self.asking = Asking(self.attested, self.client, self.trace, self.read_settings, self.exported, self.books)

    def enter(self, phase: Phase) -> None:
        """Move to a phase."""
        if phase is not self.phase:
            log.info("phase", boot=self.attested.boot, phase=str(phase))
        self.phase = phase

    async def run(self) -> None:
        """Live through the lifetime; ends only by cancellation, or at a failed gate by waiting for its pod's end."""
        self.exported.gate.set(0)
        if self.books.gate_failed is not None and not self.asking.observing():
            # It failed before this probe started: asked once more it might be right.
            await self.failed(self.books.gate_failed)
        await self.until_engine_answers()
        digest, references = await self.until_references()
        self.books.bind(digest)
        baseline_digest, baseline = await self.until_baseline(digest, references)
        self.candidate = None
        self.books.bind(digest, baseline_digest)
        self.exported.forget_answers()
        self.exported.info.clear()
        self.exported.info.labels(self.attested.fingerprint, digest, baseline_digest).set(1)
        expected = {name: from_answer(answer) for name, answer in baseline.answers.items()}
        items = await self.until_comparable(references, expected)
        passed = GatePass(self.attested.boot, self.attested.plan_digest, self.attested.fingerprint, baseline_digest)
        while True:
            if read_pass(self.state) not in self.enough(passed):
                # A pass that was only observed is taken back before anything else: this may take long.
                forget_pass(self.state)
                write_pass(self.state, replace(passed, mode=await self.gate(items, expected)))
            self.enter(Phase.PASSED)
            self.exported.gate.set(read_pass(self.state) == passed)
            await self.watch(items, expected)

    def enough(self, passed: GatePass) -> list[GatePass]:
        """Return the passes that let this boot serve: an enforced one, and an observed one where that is the mode."""
        return [passed, replace(passed, mode=ProbeMode.OBSERVE)] if self.asking.observing() else [passed]

    # Before the gate -----------------------------------------------------------------------------------------------

    async def until_engine_answers(self) -> None:
        """Wait for a healthy engine of this boot."""
        self.enter(Phase.WAITING_FOR_ENGINE)
        while True:
            look = await self.client.look()
            identity = look.identity
            if identity is not None and identity.boot == self.attested.boot:
                self.problems = []
                self.books.served.begin(look.others)
                return
            if identity is not None:
                self.problems = [f"the engine answers as boot {identity.boot!r}, attested is {self.attested.boot!r}"]
            await asyncio.sleep(POLL_SECONDS)

    async def until_references(self) -> tuple[str, References]:
        """Return the frozen references; offer a proposal while there are none."""
        while True:
            problems: list[str] = []
            delivered = self.delivery.references(problems)
            self.problems = problems
            if delivered is not None:
                self.proposal = None
                return delivered
            self.enter(Phase.WAITING_FOR_REFERENCES)
            if self.proposal is None and not problems:
                proposed = await propose_from(
                    self.client.ask,
                    self.attested.vocabulary_size,
                    self.attested.special_ids,
                    self.attested.plan.model.max_model_len,
                )
                if isinstance(proposed, References):
                    self.proposal = proposed
                else:
                    self.problems = [f"references: INCONCLUSIVE({proposed.reason}): {proposed.detail}"]
            await asyncio.sleep(POLL_SECONDS)

    async def until_comparable(
        self, references: References, expected: dict[str, Observation] | None = None
    ) -> list[Reference]:
        """Return the frozen references that this engine can be asked, and whose answer is expected where any is.

        Where there are none it waits for ever: a gate without a comparison would prove nothing.
        """
        limit, size = self.attested.plan.model.max_model_len, self.attested.vocabulary_size
        items = comparable(references, vocabulary_size=size, max_model_len=limit)
        if expected is not None:
            items = [item for item in items if item.name in expected]
        kept = {item.name for item in items}
        if outside := [item.name for item in references.items if item.name not in kept]:
            detail = f"{len(outside)} of {len(references.items)} references do not fit maxModelLen {limit} and {size} "
            detail += f"token ids, or have no agreed answer: {', '.join(outside)}"
            self.books.book(Round("S02", OUTSIDE, Verdict.INCONCLUSIVE, Reason.NOT_COMPARABLE, detail, 0, NO_WITNESS))
            if not items:
                self.problems = [f"references: INCONCLUSIVE({Reason.NOT_COMPARABLE}): {detail}"]
                await asyncio.Event().wait()
        return items

    async def until_baseline(self, digest: str, references: References) -> tuple[str, Baseline]:
        """Return the baseline of this fingerprint; answer the references and offer a candidate while there is none."""
        attested = self.attested
        while True:
            problems: list[str] = []
            delivered = self.delivery.baseline(attested.fingerprint, digest, problems)
            self.problems = problems
            if delivered is not None:
                return delivered
            if self.candidate is None and not problems:
                self.enter(Phase.ANSWERING)
                answers = await self.answer_all(references)
                self.candidate = Candidate(
                    boot=attested.boot,
                    plan_digest=attested.plan_digest,
                    fingerprint=attested.fingerprint,
                    references_digest=digest,
                    answers={name: observation.answer() for name, observation in answers.items()},
                    hardware=attested.hardware,
                    identity=attested.identity,
                )
            self.enter(Phase.WAITING_FOR_BASELINE)
            await asyncio.sleep(POLL_SECONDS)

    async def answer_all(self, references: References) -> dict[str, Observation]:
        """Return this lifetime's answers; each reference is asked twice and must agree with itself (S01)."""
        answers: dict[str, Observation] = {}
        for reference in await self.until_comparable(references):
            attempt = 0
            while reference.name not in answers:
                if attempt:
                    await asyncio.sleep(BACK_OFF_SECONDS[min(attempt, len(BACK_OFF_SECONDS)) - 1])
                attempt += 1
                start = time.monotonic()
                outcome, answer = await self.asking.prober().repeat(reference)
                self.asking.counted([outcome], start)
                self.keep([outcome])
                if answer is not None:
                    answers[reference.name] = answer
                elif outcome.verdict is Verdict.FAIL:
                    await self.fail(outcome)
                    # Observed alone: the next answer is as good as this one, and S02 will go on saying so.
                    asked = await self.client.ask(reference)
                    if isinstance(asked, Observation):
                        answers[reference.name] = asked
        return answers

    # The gate ------------------------------------------------------------------------------------------------------

    async def gate(self, items: list[Reference], expected: dict[str, Observation]) -> ProbeMode:
        """Return when every check of the gate has passed; INCONCLUSIVE is repeated, FAIL is the end.

        In Observe one attempt is enough, whatever it finds: that is reported, and the mode of the pass says so.
        """
        attempt = 0
        while True:
            self.enter(Phase.GATING)
            limit = self.read_settings().gate.timeout_seconds
            try:
                async with asyncio.timeout(limit):
                    outcome = await self.gate_once(items, expected)
            except TimeoutError:
                self.problems = [f"gate: INCONCLUSIVE({Reason.TIMEOUT}): not done within {limit} s"]
            else:
                if outcome is None:
                    self.problems = []
                    return ProbeMode.ENFORCE
                if outcome.verdict is Verdict.FAIL:
                    await self.fail(outcome)
                where = f"{outcome.relation} {outcome.condition}"
                self.problems = [f"gate: {where}: {outcome.verdict}({outcome.reason}): {outcome.detail}"]
            if self.asking.observing():
                log.warning("gate observed alone", problems=self.problems)
                return ProbeMode.OBSERVE
            log.warning("gate repeated", problems=self.problems)
            await asyncio.sleep(BACK_OFF_SECONDS[min(attempt, len(BACK_OFF_SECONDS) - 1)])
            attempt += 1

    async def gate_once(self, items: list[Reference], expected: dict[str, Observation]) -> Round | None:
        """Run S01 and S02 on the references, and what runs together; return the first round that stands in the way."""
        for index, reference in enumerate(items):
            rounds = await self.asking.alone(reference, expected[reference.name], twice=index < REPEATED_AT_GATE)
            self.keep(rounds)
            for outcome in rounds:
                if outcome.verdict is not Verdict.PASS:
                    return outcome
        for cell in self.asking.cells(items, expected, self.asking.widths(wide=self.asking.traced())):
            outcome = await self.formed(cell)
            # NotMixed has its witness: this scheduler gives a prefill steps of its own, so the cell does not apply.
            if outcome.verdict is not Verdict.PASS and outcome.reason is not Reason.NOT_MIXED:
                return outcome
        if not self.asking.traced():
            wide = [("S03", f"width={width}") for width in self.read_settings().gate.widths if width > NARROW]
            for relation, condition in (*wide, ("S04", "gate"), ("S05", "gate")):
                self.books.book(untraced(relation, condition))
        return await self.asking.exclude()

    async def formed(self, cell: Disturbance) -> Round:
        """Run a cell at the gate; what did not come together as wanted is formed again, a few times."""
        attempt = 0
        while True:
            attempt += 1
            (outcome,) = await self.asking.timed(cell.run(self.asking.prober(), IDLE_PLUG_TOKENS))
            self.keep([outcome])
            if outcome.verdict is Verdict.PASS and not outcome.as_wanted:
                outcome = replace(
                    outcome,
                    condition=cell.condition,
                    verdict=Verdict.INCONCLUSIVE,
                    reason=Reason.NOT_BATCHED,
                    detail=f"it ran as {outcome.condition}: {outcome.detail}",
                )
            if outcome.reason not in {Reason.NOT_BATCHED, Reason.NOT_MIXED} or attempt == ATTEMPTS:
                return outcome

    def keep(self, rounds: list[Round]) -> None:
        """Keep rounds before and at the gate, where a difference is the end of the boot, but in Observe."""
        self.books.keep(rounds, at_gate=not self.asking.observing())

    async def fail(self, outcome: Round) -> None:
        """Wait, with the evidence on the books: this boot never serves, and the controller replaces its pod.

        In Observe nobody waits for it: the evidence is reported, and the engine serves.
        """
        if self.asking.observing():
            log.error("observed alone", detail=outcome.detail)
            return
        await self.failed(f"gate: {outcome.relation} {outcome.condition}: FAIL: {outcome.detail}")

    async def failed(self, words: str) -> None:
        """Say that the gate failed, until the boot ends, or divergences are only to be reported.

        That is known late: the controller decides it by what the engine attested, and its word takes a while.
        """
        self.enter(Phase.GATE_FAILED)
        self.problems = [words]
        log.error("gate failed", detail=words)
        while not self.asking.observing():  # noqa: ASYNC110 - a mounted file tells no event
            await asyncio.sleep(POLL_SECONDS)
        log.warning("the gate failed, and is observed alone from now on", detail=words)

    # After the gate ------------------------------------------------------------------------------------------------

    async def watch(self, items: list[Reference], expected: dict[str, Observation]) -> None:
        """Check for as long as the pass is enough, users first."""
        await Watch(self.asking, items, expected, self.state, self.podinfo).run()
