"""What the probe's core costs on one core: each part alone, all of it in virtual time, and where the time goes.

    .venv/bin/python benchmarks/core.py [--profile]

Parsing, digests and comparison of answers of 32 tokens; then comparisons per second of the whole core, solo requests
and cohorts, against the simulated engine in virtual time. The engine's own share of that time is said beside it.
Processor time, so that other people's work on the machine counts less.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "virtual"))

from soaking import MODEL, SETTINGS, Known, know, soak
from virtual_engine import VirtualEngine

from detinf.api.types import Promise
from detinf.documents import Reference
from detinf.probe.comparison import compare
from detinf.probe.digests import digests
from detinf.probe.observation import parse_completion
from detinf_sim.answers import choice
from detinf_sim.limits import Limits
from detinf_sim.scheduler import SimEngine

SECONDS = 1.0
"""Processor time of each measurement."""
COMPARISONS = 6000


def per_second(what: Callable[[], object]) -> float:
    """Return how often something is done in a second of processor time."""
    count, start = 0, time.process_time()
    while (seconds := time.process_time() - start) < SECONDS:
        for _ in range(50):
            what()
        count += 50
    return count / seconds


def answer(reference: Reference) -> bytes:
    """Return the bytes of an answer as an engine would send them."""
    engine = VirtualEngine(SimEngine(MODEL, Limits()), 0)
    pending = engine.send(reference, None)
    engine.until(lambda: pending.done)
    return json.dumps({"choices": [choice(pending.completion, 0, pending.emissions)]}).encode()


def parts(known: Known) -> dict[str, float]:
    """Return the rate of each part."""
    plain = known.references.items[4]
    top = plain.model_copy(update={"logprobs": 5})
    plain_bytes, top_bytes = answer(plain), answer(top)
    seen = parse_completion(top_bytes, tokens=32, prompt=top.prompt_ids, top=5)
    again = parse_completion(top_bytes, tokens=32, prompt=top.prompt_ids, top=5)
    promise = Promise.TOKENS_AND_LOGPROBS
    return {
        "parse an answer of 32 tokens": per_second(
            lambda: parse_completion(plain_bytes, tokens=32, prompt=plain.prompt_ids)
        ),
        "the same with the 5 most probable tokens": per_second(
            lambda: parse_completion(top_bytes, tokens=32, prompt=top.prompt_ids, top=5)
        ),
        "compare two equal answers": per_second(lambda: compare(seen, again, promise)),
        "the three digests of an answer": per_second(lambda: digests(top.prompt_ids, seen)),
    }


def main() -> None:
    """Measure, and print."""
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--profile", action="store_true", help="print where the time of the whole core goes")
    options = top.parse_args()
    known = know()
    for words, rate in parts(known).items():
        print(f"{words:<45} {rate:>9.0f} /s")
    profile = cProfile.Profile()
    for name in ("idle", "loaded"):
        start = time.process_time()
        tally = soak(SETTINGS[name], known, 7, comparisons=COMPARISONS)
        rate = tally.comparisons / (time.process_time() - start)
        profile.enable()
        soak(SETTINGS[name], known, 7, comparisons=COMPARISONS // 4)
        profile.disable()
        print(f"{f'comparisons in virtual time, {name}':<45} {rate:>9.0f} /s")
    stats = pstats.Stats(profile)
    engine = sum(
        own
        for (file, _, _), (_, _, own, _, _) in stats.stats.items()
        if "detinf_sim" in file or "tests/virtual" in file
    )
    probe = sum(own for (file, _, _), (_, _, own, _, _) in stats.stats.items() if "detinf/probe" in file)
    print(f"of their time: simulated engine and harness {engine / stats.total_tt:.0%}, the probe's own code ", end="")
    print(f"{probe / stats.total_tt:.0%}, libraries and Python's own the rest")
    if options.profile:
        stats.sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
