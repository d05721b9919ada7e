"""A vLLM plug-in for machines with few processors: a process that waits for another one does not spin.

vLLM's worker and engine core wait for each other in shared memory, and for a second after each message they do so in a
loop around ``sched_yield`` (``SpinCondition`` in ``vllm/distributed/device_communicators/shm_broadcast.py``). Where two
engines have two processors, most of both goes into that. With ``DETINF_TEST_YIELD=1`` the loop sleeps for a moment
instead. Nothing that computes a number is touched; benchmarks leave it off.
"""

from __future__ import annotations

import functools
import os
import time

VARIABLE = "DETINF_TEST_YIELD"
PAUSE_SECONDS = 0.0002


def register() -> None:
    """Let whoever waits sleep between two looks; called by vLLM, more than once in some processes."""
    if os.environ.get(VARIABLE) != "1":
        return
    from vllm.distributed.device_communicators import shm_broadcast

    if not hasattr(shm_broadcast, "sched_yield"):
        raise RuntimeError("vLLM waits in another way than with sched_yield; see detinf_test_yield")
    shm_broadcast.sched_yield = functools.partial(time.sleep, PAUSE_SECONDS)
