"""A vLLM plug-in of the benchmark: times what the recorder costs inside the scheduler, and switches it off and on.

It wraps ``Watch.step``, which is all that the recorder does in a step. Each step's nanoseconds, width and time go to
the file that ``DETINF_BENCH_STEPS`` names, a line each; while ``<that file>.off`` exists the recorder is not called.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def register() -> None:
    """Wrap the recorder; called by vLLM, more than once in some processes."""
    from detinf.guard import recorder

    original = recorder.Watch.step
    if hasattr(original, "__wrapped__"):
        return
    path = Path(os.environ["DETINF_BENCH_STEPS"])
    off = path.with_name(path.name + ".off")
    lines: list[str] = []

    def step(self: Any, scheduler: Any, output: Any) -> None:
        if off.exists():
            if self.recorder is not None:
                # What it missed must not be carried along.
                self.recorder.own.clear()
                self.recorder.reading.clear()
                self.recorder.decoded = None
            return
        began = time.perf_counter_ns()
        original(self, scheduler, output)
        taken = time.perf_counter_ns() - began
        lines.append(f"{taken} {len(output.num_scheduled_tokens)} {began}\n")
        if len(lines) == 64:
            with path.open("a") as file:
                file.writelines(lines)
            lines.clear()

    step.__wrapped__ = original  # type: ignore[attr-defined]
    recorder.Watch.step = step
