"""What the step trace costs the real vLLM: time in each step, and throughput with and without it.

    .venv/bin/python benchmarks/step_trace.py
    .venv/bin/python benchmarks/step_trace.py alone      (no engine: the recorder's own work, in a loop)

One engine (vLLM on CPU, 256 sequences), and 256 requests at once that are all our own, the most expensive case. The
time is taken around all that the recorder does in a step, inside the scheduler. Throughput is measured in pairs on the
same engine, recorder off and on in turn and in changing order, and given as the ratio of each pair. Prints JSON.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "vllm_cpu"))

import serve  # noqa: E402 - found through the line above

from detinf.documents import Reference  # noqa: E402 - as above
from detinf.guard.recorder import Recorder  # noqa: E402 - as above
from detinf.guard.trace import TraceWriter, own_id  # noqa: E402 - as above
from detinf.probe.client import EngineClient  # noqa: E402 - as above
from detinf.probe.observation import Observation  # noqa: E402 - as above

WIDTH = 256
TOKENS = 24
PAIRS = 16
STEPS_ALONE = 3000
EMPTYING_BYTES = 32 << 20
PLUGIN = ROOT / "benchmarks" / "step_trace_plugin"


async def burst(client: EngineClient, turn: int) -> float:
    """Ask 256 requests at once; return output tokens per second."""
    generator = random.Random(turn)  # noqa: S311 - reproducible, not secret
    cohort = turn.to_bytes(8, "big")
    items = [
        Reference(
            name=str(number),
            prompt_ids=[generator.randrange(256) for _ in range(8)],
            max_tokens=TOKENS,
            temperature_milli=0,
            seed=0,
        )
        for number in range(WIDTH)
    ]
    began = time.monotonic()
    answers = await asyncio.gather(*(client.ask(item, own_id(cohort, place)) for place, item in enumerate(items)))
    seconds = time.monotonic() - began
    if not all(isinstance(answer, Observation) for answer in answers):
        raise SystemExit("the engine did not answer every request")
    return WIDTH * TOKENS / seconds


def switch(off: Path, *, recorded: bool) -> None:
    """Switch the recorder on or off."""
    off.unlink(missing_ok=True)
    if not recorded:
        off.touch()


async def throughput(url: str, off: Path) -> list[float]:
    """Return, for each pair of bursts, the throughput with the trace over that without."""
    ratios, turn = [], 1
    async with EngineClient(url, serve.MODEL, boot=serve.BOOT) as client:
        await burst(client, turn)
        for pair in range(PAIRS):
            rates = {}
            for recorded in (True, False) if pair % 2 else (False, True):
                switch(off, recorded=recorded)
                turn += 1
                rates[recorded] = await burst(client, turn)
            ratios.append(rates[True] / rates[False])
        switch(off, recorded=True)
        await burst(client, turn + 1)
    return ratios


def figures(steps: Path, ratios: list[float]) -> dict[str, object]:
    """Return what is printed."""
    lines = [line.split() for line in steps.read_text().splitlines()]
    each = [(int(taken) / 1000, int(width), int(began) / 1000) for taken, width, began in lines]
    full = sorted(taken for taken, width, _ in each if width == WIDTH)
    # From one full step to the next: a step's time, forward pass included.
    periods = [then[2] - step[2] for step, then in itertools.pairwise(each) if step[1] == then[1] == WIDTH]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "microseconds a step at 256 requests, all our own": {
            "median": round(statistics.median(full), 1),
            "90 %": round(full[len(full) * 9 // 10], 1),
            "99 %": round(full[len(full) * 99 // 100], 1),
            "most": round(full[-1], 1),
            "share of a step's time": f"{statistics.median(full) / statistics.median(periods):.2%}",
            "steps": len(full),
        },
        "throughput with the trace / without, pairs": {
            "median": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "pairs": len(ratios),
        },
    }


def alone() -> dict[str, object]:
    """Return the microseconds that the recorder takes for a step of 256 decodes, of which so many are our own.

    Once in a tight loop, and once with the processor's caches emptied before each step, as a forward pass does.
    """
    return {
        "microseconds a step, the recorder alone": {
            f"{own} of {WIDTH} our own{after}": round(statistics.median(_steps_alone(own, emptied=emptied)), 1)
            for after, emptied in (("", False), (", caches emptied", True))
            for own in (16, WIDTH)
        }
    }


def _steps_alone(own: int, *, emptied: bool) -> list[float]:
    ids = [f"cmpl-{own_id(bytes(8), number)}-0-0a1b2c3d" for number in range(own)]
    ids += [f"cmpl-{number:032x}-0-0a1b2c3d" for number in range(WIDTH - own)]
    request = SimpleNamespace(num_tokens=8, num_computed_tokens=8, num_preemptions=0)
    scheduler = SimpleNamespace(requests=dict.fromkeys(ids, request), waiting=())

    def step(new: list[str]) -> SimpleNamespace:
        return SimpleNamespace(
            num_scheduled_tokens=dict.fromkeys(ids, 1),
            total_num_scheduled_tokens=WIDTH,
            scheduled_new_reqs=[SimpleNamespace(req_id=item, num_computed_tokens=0) for item in new],
            scheduled_cached_reqs=SimpleNamespace(req_ids=[] if new else list(ids), resumed_req_ids=()),
            finished_req_ids=(),
        )

    weights, copied = bytearray(EMPTYING_BYTES), bytearray(EMPTYING_BYTES)
    times = []
    with tempfile.TemporaryDirectory(prefix="detinf-step-trace-", dir=serve.MEMORY) as name:
        recorder = Recorder(TraceWriter(Path(name) / "trace.ring", serve.BOOT))
        recorder.record(scheduler, step(ids))
        for _ in range(STEPS_ALONE // 10 if emptied else STEPS_ALONE):
            if emptied:
                copied[:] = weights
            output = step([])
            began = time.perf_counter_ns()
            recorder.record(scheduler, output)
            times.append((time.perf_counter_ns() - began) / 1000)
    return times


def main() -> int:
    """Measure; return 0."""
    if sys.argv[1:] == ["alone"]:
        print(json.dumps(alone(), indent=1))
        return 0
    with tempfile.TemporaryDirectory(prefix="detinf-step-trace-") as name:
        steps = Path(name) / "steps"
        extra = {"DETINF_BENCH_STEPS": str(steps), "PYTHONPATH": str(PLUGIN)}
        with serve.from_nothing(added=("--max-num-seqs", str(WIDTH)), extra=extra) as served:
            ratios = asyncio.run(throughput(served.url, steps.with_name(steps.name + ".off")))
        print(json.dumps(figures(steps, ratios), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
