"""The engine as the guard's child: signals passed on, orphans reaped, its exit code made ours.

The guard is process 1 of the container. It never restarts an engine in place: a container restart is what resets the
readiness that the kubelet knows.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def start(command: list[str], environment: dict[str, str]) -> int:
    """Start the engine in a process group of its own and return its process id.

    Raises:
        OSError: where the program cannot be run.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.setpgid(0, 0)
            os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is the point
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(writer)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # whoever comes first: a signal sent now must reach the group
    with os.fdopen(reader, "rb") as pipe:
        failed = pipe.read()
    if failed:
        os.waitpid(child, 0)
        number = int(failed)
        raise OSError(number, os.strerror(number), command[0])
    return child


def forward_signals(child: int) -> None:
    """Pass every signal that asks something of us on to the engine's main process.

    The main process alone, as a shell would: vLLM ends its own workers, in its own order.
    """

    def forward(number: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in FORWARDED:
        signal.signal(number, forward)


def wait(child: int, ended: Callable[[], None] = lambda: None) -> int:
    """Wait for the engine, reaping every orphan on the way, and return its exit code (128 + n for signal n).

    Args:
        child: the engine's main process.
        ended: called at once when it has ended, before its group is swept.
    """
    while True:
        process, status = os.waitpid(-1, 0)
        if process == child:
            break
    ended()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # workers that outlived their engine hold devices and ports
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def stop(child: int) -> None:
    """End the engine at once: it runs, and may not."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
