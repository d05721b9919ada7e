"""Witnesses without a step trace, held against the step trace: what they miss, and that they claim nothing wrong.

    .venv/bin/python benchmarks/witnesses.py simulated
    .venv/bin/python benchmarks/witnesses.py stock       (the real vLLM on CPU, as its profile runs it)
    .venv/bin/python benchmarks/witnesses.py caching 2   (with prefix caching and chunked prefill; 2 rounds and not 7)

Cohorts of 2, 8 and 16 in every form, idle and beside 6 tenants. For each witness: of the cohorts in which the thing
took place by the trace, how many it did not prove; and how many claims were wrong, of all cohorts. For each form: how
many cohorts were read in one step, whole, and how many decoded in one. Prints JSON; ends with 1 after a wrong claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools" / "vllm_cpu"), str(ROOT / "tests" / "observers")]

import serve  # noqa: E402 - found through the line above
from witness_trials import Trial, Trials  # noqa: E402 - as above

from detinf.probe.client import EngineClient  # noqa: E402 - as above
from detinf.probe.cohort import Shape  # noqa: E402 - as above
from detinf.probe.trace import Trace  # noqa: E402 - as above
from detinf.probe.witness import SHARE  # noqa: E402 - as above
from detinf_sim.model import HashModel  # noqa: E402 - as above
from detinf_sim.scheduler import Limits  # noqa: E402 - as above
from detinf_sim.server import Settings, running_server  # noqa: E402 - as above

WIDTHS = (2, 8, 16)
ROUNDS = 7
TENANTS = 6
PLUG = 1000
VOCABULARY = 256
SHAPES = {
    "connections": Shape(),
    "one list": Shape(one_request=True),
    "connections behind a plug": Shape(plug_tokens=PLUG),
    "one list behind a plug": Shape(plug_tokens=PLUG, one_request=True),
}


def missed(trials: list[Trial]) -> dict[str, str]:
    """Return for each witness how many it missed of how many that took place, and wrong claims of all."""
    facts = {
        "W1 all resident": [(t.truth.resident >= t.wanted, t.claims.resident >= t.wanted) for t in trials],
        "W2 all decoded in one step": [
            (t.truth.decoded >= t.wanted, t.claims.decoded >= SHARE * t.wanted) for t in trials
        ],
        "W3 all first tokens in one step": [(t.truth.first >= t.wanted, t.claims.first) for t in trials],
        "W6 nobody else": [(not t.truth.foreign, t.claims.alone) for t in trials],
    }
    wrong = sum(len(trial.wrong()) for trial in trials)
    lines = {}
    for name, pairs in facts.items():
        proven = [claimed for took_place, claimed in pairs if took_place]
        lines[name] = f"{len(proven) - sum(proven)} missed of {len(proven)}"
    met = sum(trial.claims.possible == trial.truth.own_resident for trial in trials)
    lines["W4 at most so many of ours"] = f"the bound is what ran in {met} of {len(trials)}"
    return lines | {"wrong claims": f"{wrong} in {len(trials)} cohorts"}


def together(trials: Iterable[Trial]) -> str:
    """Return how many cohorts were read in one step, and how many decoded in one."""
    listed = list(trials)
    read, decoded = sum(t.truth.read for t in listed), sum(t.truth.decoded >= t.wanted for t in listed)
    return f"{read} read in one step, {decoded} decoded in one, of {len(listed)}"


async def measure(client: EngineClient, trace: Trace, rounds: int) -> tuple[dict[str, Any], int]:
    """Return the figures of one engine, and the number of wrong claims."""
    figures: dict[str, Any] = {}
    wrong = 0
    for tenants in (0, TENANTS):
        trials = Trials(client, trace, VOCABULARY, tenants=tenants)
        found = {
            name: [await trials.one(width, shape) for _ in range(rounds) for width in WIDTHS]
            for name, shape in SHAPES.items()
        }
        everything = [trial for listed in found.values() for trial in listed]
        for trial in everything:
            for line in trial.wrong():
                print(f"WRONG: {line}", file=sys.stderr)
                wrong += 1
        figures[f"{tenants} tenants" if tenants else "idle"] = {
            "witnesses": missed(everything),
            "cohorts": {name: together(listed) for name, listed in found.items()},
        }
    return figures, wrong


@contextlib.asynccontextmanager
async def simulated(folder: Path) -> AsyncIterator[tuple[EngineClient, Trace]]:
    """Run the simulated engine."""
    path, boot = folder / "trace.ring", "b" * 32
    settings = Settings(
        HashModel(VOCABULARY, b"bench"), limits=Limits(32, 8192, 4096), step_seconds=0.002, boot=boot, trace=path
    )
    async with running_server(settings) as (url, _), EngineClient(url, "sim", boot=boot) as client:
        yield client, Trace(path, boot)


async def of_simulated(rounds: int) -> tuple[dict[str, Any], int]:
    """Measure the simulated engine."""
    with tempfile.TemporaryDirectory(prefix="detinf-witnesses-") as folder:
        async with simulated(Path(folder)) as (client, trace):
            return await measure(client, trace, rounds)


async def of_real(served: serve.Served, rounds: int) -> tuple[dict[str, Any], int]:
    """Measure a real engine that runs."""
    async with EngineClient(served.url, serve.MODEL, boot=serve.BOOT) as client:
        trials = Trials(client, Trace(served.trace, serve.BOOT), VOCABULARY)
        await trials.first_step()
        return await measure(client, trials.trace, rounds)


def main() -> int:
    """Measure one engine; return 1 where a claim was wrong."""
    name, *more = sys.argv[1:] or [""]
    rounds = int(more[0]) if more else ROUNDS
    if name == "simulated":
        figures, wrong = asyncio.run(of_simulated(rounds))
    elif name in serve.VARIANTS:
        with serve.from_nothing(variant=name) as served:
            figures, wrong = asyncio.run(of_real(served, rounds))
    else:
        print(f"usage: witnesses.py simulated|{'|'.join(serve.VARIANTS)} [ROUNDS]", file=sys.stderr)
        return 2
    print(json.dumps({name: figures}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
