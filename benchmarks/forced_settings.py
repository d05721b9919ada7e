"""What two settings cost that every profile forces: no prefix cache, and no chunked prefill. On the real vLLM on CPU.

Run: .venv/bin/python benchmarks/forced_settings.py

Engines with every forced setting, and engines in which one of the two is given back (prompts in chunks of 256 tokens),
take turns on the same loads: a ratio compares one turn of a load with the same turn of the other engine in its round.
It is a tiny model on a CPU: the share of work that a setting gives up is the same elsewhere, what that work costs is
not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "vllm_cpu"))

import serve  # noqa: E402 - found through the line above

VOCABULARY = 256
CLIENTS = 8
ROUNDS = 4
KINDS = ("shared prefix", "own prompts", "long prompts")
VARIANTS = ("stock", "prefix-caching", "chunked-prefill")


def load(kind: str, turn: int) -> list[dict[str, Any]]:
    """Return the requests of a load; other ones at each turn, so that nothing but a shared prefix is cached.

    Args:
        kind: ``shared prefix`` (640 tokens before 16 of one's own), ``own prompts`` (64 tokens) or ``long prompts``
            (900 tokens).
        turn: which turn.
    """
    generator = random.Random(f"{kind}/{turn}")  # noqa: S311 - reproducible, not secret

    def ids(count: int) -> list[int]:
        return [generator.randrange(VOCABULARY) for _ in range(count)]

    shared = ids(640)
    prompts = {
        "shared prefix": lambda: shared + ids(16),
        "own prompts": lambda: ids(64),
        "long prompts": lambda: ids(900),
    }
    return [
        {"model": serve.MODEL, "prompt": prompts[kind](), "max_tokens": 16, "temperature": 0, "ignore_eos": True}
        for _ in range(CLIENTS * ROUNDS)
    ]


async def seconds(url: str, requests: list[dict[str, Any]]) -> float:
    """Return how long ``CLIENTS`` clients take for the requests."""
    waiting = list(reversed(requests))

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            async with session.post(f"{url}/v1/completions", json=waiting.pop()) as answer:
                answer.raise_for_status()
                await answer.read()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        began = time.monotonic()
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
        return time.monotonic() - began


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="engines of each kind")
    parser.add_argument("--turns", type=int, default=3, help="turns of each load in each engine")
    options = parser.parse_args()
    kit = serve.installed()
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="detinf-forced-") as name:
        model = serve.make_model(kit, Path(name) / "model")
        for number in range(options.rounds):
            # Whoever is first in one round is last in the next one.
            for variant in VARIANTS if number % 2 == 0 else VARIANTS[::-1]:
                folder = Path(name) / f"{variant}-{number}"
                folder.mkdir()
                with serve.serving(kit, model, folder, variant=variant) as served:
                    asyncio.run(seconds(served.url, load("own prompts", -1)))  # warm
                    for turn in range(options.turns):
                        for kind in KINDS:
                            taken = asyncio.run(seconds(served.url, load(kind, number * options.turns + turn)))
                            found.setdefault((kind, variant), []).append(taken)
                print(f"round {number + 1}: {variant} done", flush=True)
    print(
        f"seconds for {CLIENTS * ROUNDS} requests with the forced settings, over seconds with one of them given back:"
    )
    for given_back in VARIANTS[1:]:
        for kind in KINDS:
            pairs = list(zip(found[kind, "stock"], found[kind, given_back], strict=True))
            ratios = [forced / free for forced, free in pairs]
            forced, free = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"  {given_back:<16} {kind:<14} median {statistics.median(ratios):.2f}, {min(ratios):.2f} to "
                f"{max(ratios):.2f} in {len(ratios)} pairs  (medians {forced:.2f} s and {free:.2f} s)"
            )


if __name__ == "__main__":
    main()
