"""The core of the probe for a long time against engines that are right, and unhelpful in every way we know.

Shared by ``benchmarks/soak.py`` and, for seconds, by the tests.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from virtual_engine import EVERYTHING, Chaos, VirtualEngine, drive

from detinf.api.types import Promise
from detinf.documents import Reference, References, Verdict
from detinf.probe.disturbances import LAUNCHES, TOGETHER_TOKENS
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.references import propose_from
from detinf.probe.relations import Prober
from detinf.probe.verdict import Round
from detinf_sim.faults import Active
from detinf_sim.limits import Lifetime, Limits
from detinf_sim.model import HashModel
from detinf_sim.scheduler import SimEngine

MODEL = HashModel(1000, b"soak")
CONTEXT = 4096
WIDTHS = (2, 8, 16, 32)
DISTURBANCES = ("shuffle", "preempt:1", "evict:5", "slow:4", "clock", "metrics-reset", "tie")
COMPARISONS_OF_A_LIFETIME = 400


@dataclass(frozen=True)
class Setting:
    """What the engines of a soak are like."""

    name: str
    loads: tuple[float, ...] = (0.0,)
    """Shares of the engine's places that tenants hold, one of them in each lifetime."""
    chaos: float = 0.0
    """How often something goes wrong on the way, in multiples of ``EVERYTHING``."""
    traced: tuple[bool, ...] = (True,)
    names: tuple[str, ...] = ()
    """Faults and behaviours of the simulator that are always on."""
    widths: tuple[int, ...] = WIDTHS


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("idle"),
        Setting("loaded", loads=(0.7,)),
        Setting("chaos", loads=(0.0, 0.0, 0.0, 0.3, 0.7, 0.95), chaos=1.0, traced=(True, True, False)),
        Setting(
            "serialising", loads=(0.0, 0.0, 0.2), traced=(True, False), names=("serialise",), widths=(2, 2, 2, 4, 8)
        ),
    )
}


@dataclass
class Tally:
    """What came out."""

    rounds: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By relation, verdict and reason."""
    compared: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """Answers compared, by relation and whether their round was conclusive."""
    failures: list[str] = field(default_factory=list)
    booked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Passes by relation and condition."""

    def book(self, outcome: Round) -> None:
        """Count a round."""
        self.rounds[outcome.relation, str(outcome.verdict), str(outcome.reason)] += 1
        self.compared[outcome.relation, outcome.verdict is not Verdict.INCONCLUSIVE] += outcome.comparisons
        if outcome.verdict is Verdict.FAIL:
            self.failures.append(f"{outcome.relation} {outcome.condition}: {outcome.detail} {outcome.finding}")
        elif outcome.verdict is Verdict.PASS:
            self.booked[outcome.relation, outcome.condition] += 1

    def add(self, other: Tally) -> None:
        """Add another's counts."""
        self.rounds += other.rounds
        self.compared += other.compared
        self.failures += other.failures
        self.booked += other.booked

    @property
    def runs(self) -> int:
        """Rounds, without those that had no witness to begin with."""
        return sum(count for (_, _, reason), count in self.rounds.items() if reason != Reason.TRACE_MISSING)

    @property
    def comparisons(self) -> int:
        """Answers compared."""
        return sum(self.compared.values())

    @property
    def conclusive(self) -> float:
        """Share of the comparisons in rounds that were PASS or FAIL."""
        return sum(count for (_, conclusive), count in self.compared.items() if conclusive) / max(self.comparisons, 1)

    def verdicts(self, verdict: Verdict, relations: Iterable[str]) -> int:
        """Return how many rounds of some relations had a verdict."""
        return sum(count for (name, seen, _), count in self.rounds.items() if seen == verdict and name in relations)


@dataclass(frozen=True)
class Known:
    """References and their right answers."""

    references: References
    expected: dict[str, Observation]

    def of_length(self, *lengths: int) -> list[Reference]:
        """Return one reference for each prompt length."""
        return [next(item for item in self.references.items if len(item.prompt_ids) == length) for length in lengths]


@functools.cache
def know() -> Known:
    """Return the references, and what a healthy engine answers alone."""
    engine = VirtualEngine(SimEngine(MODEL, Limits(max_model_len=CONTEXT)), 0)
    references = drive(propose_from(engine.ask, MODEL.vocabulary_size, [], CONTEXT))
    assert isinstance(references, References), references
    expected: dict[str, Observation] = {}
    for item in references.items:
        answer = drive(engine.ask(item))
        assert isinstance(answer, Observation), answer
        expected[item.name] = answer
    return Known(references, expected)


def lifetime(setting: Setting, chance: random.Random) -> VirtualEngine:
    """Return an engine: what its arguments are, and what disturbs it, is a matter of chance."""
    chunked = chance.random() < 0.5
    limits = Limits(
        max_num_seqs=32,
        max_num_batched_tokens=chance.choice([2048, 4096, 8192]) if chunked else chance.choice([4096, 8192]),
        max_model_len=CONTEXT,
        chunked_prefill=chunked,
        prefix_caching=chance.random() < 0.5,
        kv_blocks=chance.choice([0, 0, 96]) if setting.chaos else 0,
    )
    names = list(setting.names)
    chaos = Chaos()
    if setting.chaos:
        names += [name for name in DISTURBANCES if chance.random() < 0.5]
        chaos = Chaos(**{name: min(share * setting.chaos, 0.5) for name, share in vars(EVERYTHING).items()})
    core = SimEngine(MODEL, limits, Active(names), lifetime=Lifetime(launch=chance.getrandbits(64)))
    return VirtualEngine(
        core,
        chance.getrandbits(32),
        chaos=chaos,
        load=chance.choice(setting.loads),
        traced=chance.choice(setting.traced),
        spread=chance.choice([0.001, 0.004, 0.02]) if setting.chaos else 0.004,
    )


def rounds(
    engine: VirtualEngine, known: Known, chance: random.Random, widths: Sequence[int], relations: Sequence[str]
) -> Iterator[Round]:
    """Yield the rounds of one engine, without an end."""
    prober = Prober(engine, Promise.TOKENS_AND_LOGPROBS, CONTEXT, engine)
    items, expected = known.references.items, known.expected
    short = [item for item in items if len(item.prompt_ids) <= TOGETHER_TOKENS]
    while True:
        if "solo" in relations:
            reference = chance.choice(items)
            yield from drive(prober.solo(reference, expected[reference.name]))
        yield from drive(prober.width(chance.choices(short, k=chance.choice(widths)), expected))
        lengths = chance.choice([*LAUNCHES, (64, 65), (255, 257), (127, 128, 257)])
        yield drive(prober.launch(known.of_length(*lengths), expected))
        decoding = chance.sample(short, chance.choice([1, 3, 7]))
        yield drive(prober.join(decoding, chance.choice(items), expected))
        # A client of a boot that has ended would be told so for ever.
        engine.client.boot = engine.boot


def soak(
    setting: Setting,
    known: Known,
    seed: int,
    *,
    comparisons: int | None = None,
    runs: int | None = None,
    relations: Sequence[str] = ("solo",),
) -> Tally:
    """Run rounds on one engine after another.

    Args:
        setting: what the engines are like.
        known: references and right answers.
        seed: of everything that happens by chance.
        comparisons: the end, in answers compared.
        runs: the end, in rounds that could have been proven.
        relations: ``solo`` where requests alone are to be asked, too.
    """
    chance = random.Random(seed)
    tally = Tally()
    while True:
        engine = lifetime(setting, chance)
        start = tally.comparisons
        for outcome in rounds(engine, known, chance, setting.widths, relations):
            tally.book(outcome)
            if comparisons is not None and tally.comparisons >= comparisons:
                return tally
            if runs is not None and tally.runs >= runs:
                return tally
            if tally.comparisons - start >= COMPARISONS_OF_A_LIFETIME:
                break
