"""Sequences of bad events drawn with a seed, on the in-memory cluster: what is claimed holds, whatever happens.

The events and what must hold are those of the tests (``tests/fakes/bad_days.py``). It prints how many sequences, looks
and pairs of events there were, and each sequence that broke a claim, with the numbers that make it again.

    .venv/bin/python benchmarks/safety_net.py --sequences 1000000 --seed 1
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "fakes"))

import bad_days  # noqa: E402 - found through the line above

LONGEST = 8
BATCH = 500


@dataclass
class Result:
    """What a batch of sequences came to."""

    sequences: int = 0
    looks: int = 0
    isolations: int = 0
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Add another batch."""
        self.sequences += other.sequences
        self.looks += other.looks
        self.isolations += other.isolations
        self.pairs += other.pairs
        self.broken += other.broken


def _drop(*_: object) -> object:
    raise structlog.DropEvent


async def _live(day: bad_days.Day, steps: list[tuple[int, int]], result: Result) -> None:
    isolated = False
    for number, choice in steps:
        bad_days.EVENTS[number](day, choice)
        await day.look()
        result.looks += 1
        isolated |= "Isolated" in str(day.world.status.get("replicaStates"))
    for _ in range(2):
        await day.look()
        result.looks += 1
    result.isolations += isolated


def batch(seed: int) -> Result:
    """Run a batch of sequences; the same seed gives the same ones."""
    structlog.configure(processors=[_drop])
    drawn = random.Random(seed)  # noqa: S311 - drawn again with the same seed
    loop = asyncio.new_event_loop()
    result = Result()
    for _ in range(BATCH):
        steps = [
            (drawn.randrange(len(bad_days.EVENTS)), drawn.randrange(100)) for _ in range(drawn.randint(1, LONGEST))
        ]
        result.sequences += 1
        result.pairs.update((first[0], second[0]) for first, second in itertools.pairwise(steps))
        try:
            loop.run_until_complete(_live(bad_days.begin(loop.run_until_complete), steps, result))
        except AssertionError as error:
            named = ", ".join(f"{bad_days.EVENTS[number].__name__}({choice})" for number, choice in steps)
            result.broken.append(f"{error}: {named}")
    loop.close()
    return result


def main() -> int:
    """Run the sequences and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sequences", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    batches = -(-options.sequences // BATCH)
    total, began = Result(), time.monotonic()
    with ProcessPoolExecutor(options.processes) as pool:
        for number, result in enumerate(
            pool.map(batch, range(options.seed * 10**6, options.seed * 10**6 + batches)), 1
        ):
            total.add(result)
            if number % 20 == 0 or number == batches:
                print(f"{total.sequences} sequences, {len(total.broken)} broke a claim", file=sys.stderr, flush=True)
    kinds = len(bad_days.EVENTS)
    print(f"seed {options.seed}: {total.sequences} sequences, {total.looks} looks of the controller")
    print(
        f"{total.isolations} sequences had an isolated replica; {len(total.pairs)} of {kinds * kinds} pairs of events"
    )
    print(f"{len(total.broken)} sequences broke a claim; {time.monotonic() - began:.0f} s")
    for line in total.broken[:20]:
        print(line)
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main())
