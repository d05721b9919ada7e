"""A slice of benchmarks/simulator_invariance.py: the fault-free simulator is invariant, and its faults are not."""

from __future__ import annotations

import subprocess
import sys


def test_fault_free_engine_answers_as_alone_with_everything_benign_switched_on() -> None:
    size = ("--comparisons", "1500", "--fault-rounds", "2", "--seed", "2")
    command = [sys.executable, "benchmarks/simulator_invariance.py", *size]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 0 differ" in done.stdout
    assert "F01" in done.stdout
