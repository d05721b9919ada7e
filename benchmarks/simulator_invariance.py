"""The fault-free simulator answers as alone, whatever its scheduler does and however strange the world is.

    .venv/bin/python benchmarks/simulator_invariance.py --comparisons 100000

Requests of all kinds are answered alone once, in an engine without anything; and then in changing company, under
limits drawn anew for each round, with everything benign switched on that may leave a value alone. Every answer is
compared with the one alone: ids, logprob bits, lists of the most probable tokens, logprobs of the prompt, the end.
The run counts what happened, and has no force where one of those never did. At its end every fault is switched on
for a round, and how many of the same comparisons then differ shows that they can.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import sys
import time
from collections import Counter
from dataclasses import replace

from detinf_sim.faults import FAULTS, Active
from detinf_sim.limits import Lifetime, Limits
from detinf_sim.model import HashModel
from detinf_sim.scheduler import SimEngine
from detinf_sim.sequences import Emission, Request

MODEL = HashModel(1000, b"soak")
DIFFERENT = 600
"""Requests that are asked again and again."""
LONGEST = 640
BENIGN = ("shuffle", "preempt:3", "evict:3", "slow:9", "clock", "metrics-reset")
HAPPENED = (
    "steps",
    "mixed steps",
    "steps with a part of a prompt",
    "preemptions",
    "cached tokens",
    "accepted drafts",
    "aborted requests",
    "answers in tenants' company",
)


def population(chance: random.Random) -> list[Request]:
    """Return requests of all kinds."""
    documents = [[chance.randrange(1000) for _ in range(LONGEST)] for _ in range(24)]
    lengths = [1, 15, 16, 17, 31, 32, 33, 65, 127, 128, 129, 257, 500]
    requests = []
    for number in range(DIFFERENT):
        length = chance.choice(lengths)
        sampled = chance.random() < 0.5
        requests.append(
            Request(
                f"r{number}",
                chance.choice(documents)[:length],
                max_tokens=chance.randrange(1, 40),
                temperature=chance.choice([0.5, 0.8, 1.0]) if sampled else 0.0,
                top_k=chance.choice([0, 5, 50]),
                top_p=chance.choice([1.0, 0.95]),
                min_p=chance.choice([0.0, 0.05]),
                seed=chance.getrandbits(16),
                logprobs=chance.choice([None, 0, 1, 5, 20]),
                presence_penalty=chance.choice([0.0, 0.0, 0.4]),
                frequency_penalty=chance.choice([0.0, 0.0, 0.3]),
                repetition_penalty=chance.choice([1.0, 1.0, 1.1]),
                cache_salt=chance.choice(["", "", "salt"]),
                prompt_logprobs=length < 40 and chance.random() < 0.1,
                adapter=chance.choice(["", "", "", "poems"]),
                stop_ids=frozenset(chance.sample(range(1000), 20)) if chance.random() < 0.2 else frozenset(),
            )
        )
    return requests


def limits(chance: random.Random) -> Limits:
    """Return limits of one round."""
    size = chance.choice([4, 16, 32, 128])
    seats = chance.choice([1, 3, 8, 16, 32, 64])
    chunked = chance.random() < 0.7
    scarce = LONGEST * chance.choice([1, 2, 4]) // size
    return Limits(
        seats,
        chance.choice([64, 100, 256, 2048]) if chunked else 2048,
        LONGEST,
        chunked,
        prefix_caching=chance.random() < 0.7,
        block_size=size,
        kv_blocks=chance.choice([0, scarce, scarce]),
        speculative_tokens=chance.choice([0, 0, 3]),
    )


class Soak:
    """Compares answers with those given alone."""

    def __init__(self, seed: int) -> None:
        """Answer every request alone."""
        self.chance = random.Random(seed)  # noqa: S311 - a run that can be repeated
        self.requests = population(self.chance)
        self.alone: dict[str, list[Emission]] = {}
        for request in self.requests:
            engine = SimEngine(MODEL, Limits(max_model_len=LONGEST))
            engine.submit(request)
            while engine.has_work:
                self.alone.setdefault(request.identifier, []).extend(engine.step(0.0)[0])
        self.happened: Counter[str] = Counter()
        self.comparisons = self.differences = 0

    def round(self, count: int, faults: tuple[str, ...] = ()) -> Active:
        """Ask so many requests in company; return what was switched on."""
        chance = self.chance
        load = chance.choice([0, 0, 0, 30, 95]) if not faults else 0
        active = Active([*BENIGN, *([f"load:{load}"] if load else []), *faults])
        engine = SimEngine(MODEL, limits(chance), active, lifetime=Lifetime(chance.getrandbits(64)))
        pending = [
            replace(request, identifier=f"{request.identifier}#{number}", server=number % 2)
            for number, request in enumerate(chance.choices(self.requests, k=count))
        ]
        answers: dict[str, list[Emission]] = {}
        now, left = 0.0, len(pending)
        while left:
            while pending and chance.random() < 0.4:
                request = pending.pop()
                answers[request.identifier] = []
                engine.submit(request)
            if answers and chance.random() < 0.01:
                gone = chance.choice(list(answers))
                engine.abort(gone)
                del answers[gone]
                left -= 1
                self.happened["aborted requests"] += 1
            emissions, seconds = engine.step(now)
            now += seconds
            for emission in emissions:
                answer = answers.get(emission.request)
                if answer is None:
                    continue
                answer.append(emission)
                if emission.finish_reason:
                    self.compare(emission.request, answers.pop(emission.request))
                    self.happened["answers in tenants' company"] += bool(load)
                    left -= 1
            if engine.trace:
                self.look(engine, emissions)
        self.happened["accepted drafts"] += engine.counters.accepted_tokens
        return active

    def compare(self, identifier: str, answer: list[Emission]) -> None:
        """Compare an answer with the one given alone: all of it but who it was for and what was cached."""
        alone = self.alone[identifier.partition("#")[0]]
        self.comparisons += 1
        self.differences += [item[1:6] for item in answer] != [item[1:6] for item in alone]

    def look(self, engine: SimEngine, emissions: list[Emission]) -> None:
        """Count what the last step held."""
        record = engine.trace[-1]
        if record.step != self.happened["last step"]:
            self.happened["last step"] = record.step
            self.happened["steps"] += 1
            self.happened["mixed steps"] += bool(record.prefills and record.decodes)
            self.happened["preemptions"] += record.preemptions
            self.happened["cached tokens"] += record.cached_tokens
            self.happened["steps with a part of a prompt"] += (
                len({emission.request for emission in emissions}) < record.width
            )


def control(soak: Soak, count: int, rounds: int) -> list[str]:
    """Switch every fault on for some rounds; print how many comparisons differ; return faults that nothing showed."""
    missed = []
    print("\nThe same comparisons with a fault (those that need what no round has here never strike):")
    for name in FAULTS:
        before = soak.comparisons, soak.differences
        struck = sum(soak.round(count, (name,)).struck.get(name, 0) for _ in range(rounds))
        compared, differ = soak.comparisons - before[0], soak.differences - before[1]
        print(f"  {name:5} {differ:6} of {compared} differ; {struck} emissions changed")
        if struck and not differ:
            missed.append(name)
    return missed


def main() -> int:
    """Run it; 1 where something differed, where something never happened, or where a fault went unseen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault-rounds", type=int, default=6, help="rounds of 40 requests with each fault")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    options = parser.parse_args()
    soak = Soak(options.seed)
    profile = cProfile.Profile()
    if options.profile:
        profile.enable()
    began = time.process_time()
    while soak.comparisons < options.comparisons:
        soak.round(min(400, options.comparisons))
    seconds = time.process_time() - began
    profile.disable()
    print(
        f"{soak.comparisons} comparisons in {seconds:.0f} s of one core, {soak.comparisons / seconds:.0f} per second: "
        f"{soak.differences} differ"
    )
    for name in HAPPENED:
        print(f"  {name:32} {soak.happened[name]}")
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)
    wrong = soak.differences > 0
    idle = [name for name in HAPPENED if not soak.happened[name]]
    missed = control(soak, 40, options.fault_rounds)
    for words, names in (("never happened", idle), ("went unseen", missed)):
        if names:
            print(f"without force: {', '.join(names)} {words}", file=sys.stderr)
    return int(wrong or bool(idle or missed))


if __name__ == "__main__":
    sys.exit(main())
