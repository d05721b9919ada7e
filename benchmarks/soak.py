"""The core of the probe in virtual time, for as long as it takes to believe it.

    .venv/bin/python benchmarks/soak.py [--share 0.01] [--processes 2]

Solo, width, tokens in a launch and prefill among decodes, on one simulated engine after another: with every benign
chaos at once, idle, with 70 % of the places taken by tenants, and on engines that serialise. Ends with 1 where an
engine that is right was said to FAIL, or one that serialises to PASS.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "virtual"))

from soaking import SETTINGS, Tally, know, soak

from detinf.documents import Verdict

COHORTS = ("S03", "S04", "S05")
COMPARISONS = {"chaos": 300_000, "idle": 20_000, "loaded": 20_000}
SERIALISED_RUNS = 10_000
PORTIONS = 20
"""Parts of each setting, each with a seed of its own, so that all processes end at about the same time."""


def portion(job: tuple[str, int, float]) -> tuple[str, Tally]:
    """Run one part of a setting."""
    name, seed, share = job
    known = know()
    if name == "serialising":
        return name, soak(SETTINGS[name], known, seed, runs=round(SERIALISED_RUNS * share / PORTIONS), relations=())
    return name, soak(SETTINGS[name], known, seed, comparisons=round(COMPARISONS[name] * share / PORTIONS))


def main() -> int:
    """Run all settings and print what came out."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--share", type=float, default=1.0, help="of the comparisons")
    top.add_argument("--processes", type=int, default=2)
    options = top.parse_args()
    jobs = [(name, 1000 + part, options.share) for name in (*COMPARISONS, "serialising") for part in range(PORTIONS)]
    tallies = {name: Tally() for name in (*COMPARISONS, "serialising")}
    start = time.monotonic()
    with multiprocessing.Pool(options.processes) as pool:
        for name, tally in pool.imap_unordered(portion, jobs):
            tallies[name].add(tally)
    seconds = time.monotonic() - start
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = spent.ru_utime + spent.ru_stime
    print(f"{seconds:.0f} s with {options.processes} processes, {processor:.0f} s of processor time")
    for name, tally in tallies.items():
        print(f"\n{name}: {tally.comparisons} comparisons in {tally.runs} rounds")
        print(f"  FAIL {len(tally.failures)}   conclusive {tally.conclusive:.1%} of the comparisons")
        reasons: Counter[str] = Counter()
        for (relation, verdict, reason), count in sorted(tally.rounds.items()):
            if verdict != Verdict.INCONCLUSIVE:
                print(f"  {relation} {verdict:<4} {count}")
            else:
                reasons[reason] += count
        print(f"  INCONCLUSIVE {dict(reasons.most_common())}")
        for line in tally.failures[:5]:
            print(f"  {line}")
    vacuous = tallies["serialising"].verdicts(Verdict.PASS, COHORTS)
    failures = sum(len(tally.failures) for tally in tallies.values())
    print(f"\nfalse FAIL {failures}, vacuous PASS {vacuous}")
    return 1 if failures or vacuous else 0


if __name__ == "__main__":
    sys.exit(main())
