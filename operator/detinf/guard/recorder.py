"""Records each step of vLLM's scheduler in the step trace; runs inside the engine core's process.

Read in vLLM 0.32, ``v1/core/sched/scheduler.py`` and ``output.py``: ``Scheduler.schedule`` returns what the next step
holds, and has by then added the scheduled tokens to each request's ``num_computed_tokens``.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from detinf.guard.layout import BOOT_VARIABLE, TRACE_VARIABLE
from detinf.guard.trace import OWN, TraceWriter, own_of

SCHEDULER_MODULE = "vllm.v1.core.sched.scheduler"


class Recorder:
    """Turns what a scheduler says into records. It costs a look at new requests, at prefills and at our own, only."""

    def __init__(self, writer: TraceWriter) -> None:
        """Start with no requests known."""
        self.writer = writer
        self.own: dict[str, tuple[bytes, int]] = {}
        self.prefilling: set[str] = set()
        self.preempted = 0

    def record(self, scheduler: Any, output: Any) -> None:
        """Record one step."""
        scheduled: dict[str, int] = output.num_scheduled_tokens
        for identifier in output.finished_req_ids:
            self.own.pop(identifier, None)
            self.prefilling.discard(identifier)
        cached = 0
        for new in output.scheduled_new_reqs:
            cached += new.num_computed_tokens
            self.prefilling.add(new.req_id)
            if found := own_of(new.req_id):
                self.own[new.req_id] = found
        self.prefilling |= output.scheduled_cached_reqs.resumed_req_ids
        if not scheduled:
            return
        began = [identifier for identifier in self.prefilling if identifier in scheduled]
        for identifier in began:
            request = scheduler.requests[identifier]
            if request.num_computed_tokens >= request.num_prompt_tokens:
                self.prefilling.discard(identifier)
        prefills = set(began)
        entries = []
        for identifier, (cohort, number) in self.own.items():
            if tokens := scheduled.get(identifier):
                computed = scheduler.requests[identifier].num_computed_tokens - tokens
                entries.append(OWN.pack(cohort, number, identifier in prefills, tokens, computed))
        self.writer.write(
            tokens=output.total_num_scheduled_tokens,
            width=len(scheduled),
            prefills=len(prefills),
            waiting=len(scheduler.waiting),
            preemptions=self.preempted,
            cached_tokens=cached,
            own=entries,
        )
        self.preempted = 0


def hook(module: Any) -> None:
    """Wrap ``Scheduler.schedule``; subclasses that call it, such as the asynchronous scheduler, are covered.

    Tracing is a witness and no check: where it cannot work, the engine serves, and the probe proves by metrics or
    stays INCONCLUSIVE.
    """
    path, boot = os.environ.get(TRACE_VARIABLE), os.environ.get(BOOT_VARIABLE, "")
    scheduler = module.Scheduler
    original = scheduler.schedule
    if path is None or hasattr(original, "detinf_recorder"):
        return
    state: dict[str, Recorder | None] = {}

    def recorder() -> Recorder | None:
        if "recorder" not in state:
            state["recorder"] = Recorder(TraceWriter(Path(path), boot))
        return state["recorder"]

    def give_up(error: Exception) -> None:
        state["recorder"] = None
        print(f"detinf: the step trace ends: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    @functools.wraps(original)
    def schedule(self: Any, *arguments: Any, **named: Any) -> Any:
        output = original(self, *arguments, **named)
        try:
            if current := recorder():
                current.record(self, output)
        except Exception as error:  # noqa: BLE001 - an engine must not fail because it is watched
            give_up(error)
        return output

    preempt = scheduler._preempt_request  # noqa: SLF001 - no public name; the reason is counted, nothing is changed

    @functools.wraps(preempt)
    def preempt_request(self: Any, *arguments: Any, **named: Any) -> Any:
        if current := state.get("recorder"):
            current.preempted += 1
        return preempt(self, *arguments, **named)

    schedule.detinf_recorder = recorder  # type: ignore[attr-defined]
    scheduler.schedule = schedule
    scheduler._preempt_request = preempt_request  # noqa: SLF001
