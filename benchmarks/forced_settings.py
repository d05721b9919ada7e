"""What two settings cost that every profile forces: no prefix cache, and no chunked prefill. On the real vLLM on CPU.

Run: .venv/bin/python benchmarks/forced_settings.py

Engines with the forced settings and engines with both features on (prompts cut into chunks of 256 tokens) take turns on
the same loads, so that whatever else the machine does falls on both. It is a tiny model on a CPU: the share of work
that a setting gives up is the same elsewhere, what that work costs is not.
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
    parser.add_argument("--pairs", type=int, default=2, help="pairs of engines")
    parser.add_argument("--turns", type=int, default=4, help="turns of each load in each engine")
    options = parser.parse_args()
    kinds = ("shared prefix", "own prompts", "long prompts")
    kit = serve.installed()
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="detinf-forced-") as name:
        model = serve.make_model(kit, Path(name) / "model")
        for pair in range(options.pairs):
            for variant in ("stock", "caching") if pair % 2 == 0 else ("caching", "stock"):
                folder = Path(name) / f"{variant}-{pair}"
                folder.mkdir()
                with serve.serving(kit, model, folder, variant=variant) as served:
                    asyncio.run(seconds(served.url, load("own prompts", -1)))  # warm
                    for turn in range(options.turns):
                        for kind in kinds:
                            taken = asyncio.run(seconds(served.url, load(kind, pair * options.turns + turn)))
                            found.setdefault((kind, variant), []).append(taken)
                print(f"pair {pair + 1}: {variant} done", flush=True)
    print("seconds with the forced settings over seconds with both features on, medians:")
    for kind in kinds:
        forced, free = (statistics.median(found[kind, variant]) for variant in ("stock", "caching"))
        print(f"  {kind:<14} {forced / free:.2f}  ({forced:.2f} s over {free:.2f} s, {CLIENTS * ROUNDS} requests)")


if __name__ == "__main__":
    main()
