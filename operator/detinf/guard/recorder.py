"""Records each step of vLLM's scheduler in the step trace; runs inside the engine core's process.

Read in vLLM 0.32, ``v1/core/sched/scheduler.py`` and ``output.py``, and run inside it by tests/vllm:

- ``Scheduler.schedule`` returns what the next step holds, and has by then added the scheduled tokens to each request's
  ``num_computed_tokens``. ``AsyncScheduler``, the default, inherits it.
- A preempted request that comes back reads its prompt and its answer so far again. The first model runner is told so
  in ``resumed_req_ids``; for the second it is among the new ones.
- With asynchronous scheduling ``num_tokens`` lacks the answers in flight; it is exact when a request begins to read.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from detinf.guard.layout import BOOT_VARIABLE, TRACE_VARIABLE
from detinf.guard.trace import Own, Part, TraceWriter, own_of, parts_of

SCHEDULER_MODULE = "vllm.v1.core.sched.scheduler"


class Recorder:
    """Turns what a scheduler says into records.

    Nearly every step holds what the one before held, one token of each request: then the lists of requests are
    compared, which hold the same objects, and what was made ready for the step before is written again.
    """

    def __init__(self, writer: TraceWriter) -> None:
        """Start with no requests known."""
        self.writer = writer
        self.own: dict[str, tuple[bytes, int]] = {}
        """Requests of our own: cohort and number."""
        self.reading: dict[str, int] = {}
        """Requests that are reading, and how many tokens each has to read."""
        self.preempted = 0
        self.decoded: list[str] | None = None
        """Requests of the last step, if it was one token of each."""
        self.parts: list[Part] = []

    def record(self, scheduler: Any, output: Any) -> None:
        """Record one step."""
        cached = output.scheduled_cached_reqs
        listed: list[str] = cached.req_ids
        width = len(output.num_scheduled_tokens)
        # One token of each, and nobody joined or left.
        decodes = width == len(listed) == output.total_num_scheduled_tokens and not (
            output.scheduled_new_reqs
            or cached.resumed_req_ids
            or output.finished_req_ids
            or self.reading
            or self.preempted
        )
        if not decodes or listed != self.decoded:
            self._look(scheduler.requests, output)
            self.decoded = listed if decodes and width else None
            if not width:
                return
        self.writer.write(self.parts, len(scheduler.waiting))

    def _look(self, requests: Any, output: Any) -> None:
        """Make a step's parts ready."""
        for identifier in output.finished_req_ids:
            self.own.pop(identifier, None)
            self.reading.pop(identifier, None)
        cached = self._admit(requests, output)
        scheduled: dict[str, int] = output.num_scheduled_tokens
        prefills = {identifier for identifier in self.reading if identifier in scheduled}
        for identifier in prefills:
            if requests[identifier].num_computed_tokens >= self.reading[identifier]:
                del self.reading[identifier]
        own = []
        for identifier, (cohort, number) in self.own.items():
            if count := scheduled.get(identifier):
                prefill = identifier in prefills
                computed = requests[identifier].num_computed_tokens - count if prefill else 0
                own.append(Own(cohort, number, prefill, count, computed))
        if not scheduled:
            return
        self.parts = parts_of(
            own,
            tokens=output.total_num_scheduled_tokens,
            width=len(scheduled),
            prefills=len(prefills),
            preemptions=self.preempted,
            cached_tokens=cached,
        )
        self.preempted = 0

    def _admit(self, requests: Any, output: Any) -> int:
        """Take note of the requests that begin to read; return how many tokens of new ones were cached."""
        cached = 0
        for new in output.scheduled_new_reqs:
            request = requests[new.req_id]
            if not request.num_preemptions:
                cached += new.num_computed_tokens
            self.reading[new.req_id] = request.num_tokens
            if found := own_of(new.req_id):
                self.own[new.req_id] = found
        for identifier in output.scheduled_cached_reqs.resumed_req_ids:
            self.reading[identifier] = requests[identifier].num_tokens
        return cached


class Watch:
    """Called from inside the scheduler; it never raises, since an engine must not fail because it is watched."""

    def __init__(self, path: Path, boot: str) -> None:
        """Wait for the first step: the ring is made by the process that schedules, and by no other."""
        self.path = path
        self.boot = boot
        self.recorder: Recorder | None = None
        self.ended = False

    def step(self, scheduler: Any, output: Any) -> None:
        """Record a step that was scheduled."""
        if self.ended:
            return
        try:
            if self.recorder is None:
                self.recorder = Recorder(TraceWriter(self.path, self.boot))
            self.recorder.record(scheduler, output)
        except Exception as error:  # noqa: BLE001 - see above
            self.ended = True
            if self.recorder is not None:
                self.recorder.writer.remove()
            _say(f"it ends: {type(error).__name__}: {error}")

    def preemption(self) -> None:
        """Count a request that was put back, for the step that is being scheduled."""
        if self.recorder is not None:
            self.recorder.preempted += 1


def hook(module: Any) -> None:
    """Wrap ``Scheduler.schedule``; subclasses that call it, such as the asynchronous scheduler, are covered.

    Tracing is a witness and no check: where it cannot work it says so and leaves no trace at all, the engine serves,
    and the probe proves by metrics or stays INCONCLUSIVE.
    """
    path = os.environ.get(TRACE_VARIABLE)
    if path is None:
        return
    scheduler = getattr(module, "Scheduler", None)
    original, preempt = getattr(scheduler, "schedule", None), getattr(scheduler, "_preempt_request", None)
    if scheduler is None or original is None or preempt is None:
        _say("there is none, since this engine's scheduler has no schedule or no _preempt_request")
        return
    if hasattr(original, "detinf_watch"):
        return
    watch = Watch(Path(path), os.environ.get(BOOT_VARIABLE, ""))

    @functools.wraps(original)
    def schedule(self: Any, *arguments: Any, **named: Any) -> Any:
        output = original(self, *arguments, **named)
        watch.step(self, output)
        return output

    @functools.wraps(preempt)
    def preempt_request(self: Any, *arguments: Any, **named: Any) -> Any:
        watch.preemption()
        return preempt(self, *arguments, **named)

    schedule.detinf_watch = watch  # type: ignore[attr-defined]
    scheduler.schedule = schedule
    scheduler._preempt_request = preempt_request  # noqa: SLF001 - no public name; it is counted, nothing is changed


def _say(what: str) -> None:
    print(f"detinf: the step trace: {what}", file=sys.stderr, flush=True)
