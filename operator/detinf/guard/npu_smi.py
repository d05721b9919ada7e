"""Running npu-smi, and saying in one line why it told nothing: it is missing, fails, hangs, or prints something else.

A process that waits for a driver that hangs cannot be killed before the driver answers: its end is not waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

NPU_SMI = "npu-smi"
TIMEOUT_SECONDS = 60
LONGEST = 200
"""Characters of what it said that are repeated."""
DRIVER = "run it on the node, and look at the driver there (dmesg)"
MISSING = "have Ascend Docker Runtime mount it, or the profile's hostPaths, into a folder of the container's PATH"


class NpuSmi:
    """npu-smi, as the guard asks it once; called with arguments it returns what is printed, else None."""

    def __init__(self) -> None:
        """Begin with nothing known against it."""
        self.problems: list[str] = []
        """Why it told nothing, a line for each call that it was none."""
        self._given_up = False

    def __call__(self, arguments: list[str]) -> str | None:
        """Return what npu-smi prints, or None where it is missing, fails or hangs; ``problems`` says why.

        Whoever is missing, or hangs, is asked no more: each further question would cost as much again.
        """
        if self._given_up:
            return None
        words = " ".join([NPU_SMI, *arguments])
        try:
            process = subprocess.Popen(
                [NPU_SMI, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self._given_up = True
            why = "not on PATH" if isinstance(error, FileNotFoundError) else f"it cannot be run: {error.strerror}"
            self.problems.append(f"devices: {NPU_SMI}: {why}; {MISSING}")
            return None
        try:
            printed, complaint = process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._given_up = True
            _leave(process)
            self.problems.append(f"devices: {words} did not end within {TIMEOUT_SECONDS} s; {DRIVER}")
            return None
        except BaseException:
            _leave(process)
            raise
        code = process.returncode
        if code == 0:
            return printed
        end = f"exit code {code}" if code > 0 else f"signal {-code}"
        said = _last_line(complaint) or _last_line(printed)
        self.problems.append(f"devices: {words} ended with {end}{f': {said}' if said else ''}; {DRIVER}")
        return None


def _leave(process: subprocess.Popen[str]) -> None:
    """Kill npu-smi and what it started; its end is waited for a moment, and no longer."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)


def _last_line(text: str) -> str:
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")[:LONGEST]
