"""What guard and attestation cost at the start of the real vLLM on CPU, paired with starts without them.

Run: .venv/bin/python benchmarks/start_cost.py

A bare start and a guarded one take turns, and in every other pair the guarded one is first, so that whatever else the
machine does falls on both; one start before them all fills the caches. A bare start has the middleware and the step
trace, which cost next to nothing before the first request; it ends when the engine is healthy. A guarded one ends when
the complete set of attestations is there, too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "vllm_cpu"))

import serve  # noqa: E402 - found through the line above
from guarded import guarded  # noqa: E402 - as above

from detinf.probe.attested import Attested  # noqa: E402 - as above


def bare(kit: Path, model: Path, folder: Path) -> float:
    """Return the seconds to a healthy engine that nobody guards and that attests nothing."""
    with serve.serving(kit, model, folder) as served:
        return served.start_seconds


def behind_the_guard(kit: Path, model: Path, folder: Path) -> float:
    """Return the seconds to an engine that is healthy and attested."""
    began = time.monotonic()
    with guarded(kit, model, folder) as running:
        running.until(lambda: running.healthy() and isinstance(running.attested(), Attested))
        seconds = time.monotonic() - began
        if running.process.poll() is not None:
            raise SystemExit(running.output())
        return seconds


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    kit = serve.installed()
    differences, ratios = [], []
    with tempfile.TemporaryDirectory(prefix="detinf-start-") as name:
        model = serve.make_model(kit, Path(name) / "model")
        kinds = {"bare": bare, "guarded": behind_the_guard}

        def start(kind: str, number: int) -> float:
            folder = Path(name) / f"{kind}-{number}"
            folder.mkdir()
            return kinds[kind](kit, model, folder)

        print(f"first: {start('bare', -1):.1f} s, not counted", flush=True)
        for number in range(pairs):
            order = sorted(kinds, reverse=number % 2 == 1)
            seconds = {kind: start(kind, number) for kind in order}
            differences.append(seconds["guarded"] - seconds["bare"])
            ratios.append(seconds["guarded"] / seconds["bare"])
            print(f"pair {number + 1}: bare {seconds['bare']:.1f} s, guarded {seconds['guarded']:.1f} s", flush=True)
    print(
        f"guarded over bare: median {statistics.median(ratios):.3f} of {pairs} pairs, "
        f"{min(ratios):.3f} to {max(ratios):.3f}; difference {statistics.median(differences):+.1f} s"
    )


if __name__ == "__main__":
    main()
