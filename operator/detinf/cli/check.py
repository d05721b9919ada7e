"""A stand-alone check of any server with vLLM's API: S01 and S03 against its own solo answers, witnessed by arithmetic.

There is no guard and no baseline here, so it says whether answers depend on the batch, and nothing about what the
engine is or was yesterday.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from detinf.api.types import Promise
from detinf.documents import Reference, References, Verdict
from detinf.probe.client import EngineClient
from detinf.probe.observation import Observation
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.references import propose
from detinf.probe.relations import Prober
from detinf.probe.verdict import Round

LARGEST_VOCABULARY = 4_194_304
ATTEMPTS = 5
"""How often a cohort is formed that did not come together; a difference ends it at once, whatever came together."""

CONTEXT = 1024
"""Tokens of context that the references may use; every served model has that many."""


class CannotCheckError(Exception):
    """The server cannot be checked at all; the message says why and what to do."""


@dataclass
class Outcome:
    """All rounds, and what they add up to."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """FAIL where any round failed; PASS only where all passed."""
        verdicts = {outcome.verdict for outcome in self.rounds}
        if Verdict.FAIL in verdicts:
            return Verdict.FAIL
        return Verdict.PASS if verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


async def find_vocabulary(client: EngineClient) -> int:
    """Return the number of token ids, by bisection on the server's own refusals.

    Raises:
        CannotCheckError: where it refuses every id, or does not refuse at all.
    """

    async def accepts(token: int) -> bool:
        reference = Reference(name="vocabulary", prompt_ids=[token], max_tokens=1, temperature_milli=0, seed=0)
        try:
            await client.post(client.body([token], reference, max_tokens=1))
        except InconclusiveError as error:
            if "out of vocabulary" in error.detail or "vocab" in error.detail.lower():
                return False
            raise CannotCheckError(f"the server did not answer a one-token prompt: {error}") from error
        return True

    low, high = 0, LARGEST_VOCABULARY
    if not await accepts(low) or await accepts(high):
        raise CannotCheckError("the size of the vocabulary cannot be found; give it with --vocabulary-size")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await accepts(middle) else (low, middle)
    return high


async def find_model(client: EngineClient) -> str:
    """Return the name of the first model that the server lists.

    Raises:
        CannotCheckError: where it lists none.
    """
    try:
        async with client.session.get(f"{client.base_url}/v1/models") as response:
            listed = await response.json()
            return str(listed["data"][0]["id"])
    except Exception as error:
        raise CannotCheckError(
            f"{client.base_url}/v1/models does not list a model ({type(error).__name__}: {error}); "
            "is a server with vLLM's API running there?"
        ) from error


async def check(
    client: EngineClient,
    references: References,
    widths: list[int],
    promise: Promise,
    progress: Callable[[str], None],
) -> AsyncIterator[Round]:
    """Yield the rounds, as they come: S01 on each reference, then S03 at each width."""
    prober = Prober(client, promise, CONTEXT)
    expected: dict[str, Observation] = {}
    for index, reference in enumerate(references.items):
        progress(f"asking reference {index + 1} of {len(references.items)} alone, twice")
        answer = await client.ask(reference)
        rounds = await prober.solo(reference, answer if isinstance(answer, Observation) else None)
        worst = next((item for item in rounds if item.verdict is not Verdict.PASS), rounds[0])
        yield worst
        if not isinstance(answer, Observation) or worst.verdict is not Verdict.PASS:
            return
        expected[reference.name] = answer
    for width in widths:
        yield await together(prober, references.items[:width], expected, progress)


async def together(
    prober: Prober,
    cohort: list[Reference],
    expected: dict[str, Observation],
    progress: Callable[[str], None],
) -> Round:
    """Return S03's round on a cohort; one that did not come together is formed again."""
    attempt = 1
    while True:
        progress(f"asking {len(cohort)} references together" + (f", attempt {attempt}" if attempt > 1 else ""))
        (outcome,) = await prober.width(cohort, expected)
        if outcome.reason is not Reason.NOT_BATCHED or attempt == ATTEMPTS:
            return outcome
        attempt += 1


def propose_for_check(vocabulary_size: int, widths: list[int]) -> References:
    """Return references for a server whose special ids nobody knows: low ids are left out, where they usually are."""
    special = list(range(min(16, vocabulary_size // 4)))
    return propose(vocabulary_size, special, CONTEXT, max(widths, default=1))
