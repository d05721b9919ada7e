"""The engine as the guard's child: signals passed on, orphans reaped, its exit code made ours.

The guard is process 1 of the container. It never restarts an engine in place: a container restart is what resets the
readiness that the kubelet knows.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from types import FrameType

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def end_on_signals() -> None:
    """Let a signal end the guard while there is no engine: process 1 would not even notice it otherwise."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in ENDING:
        signal.signal(number, end)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Let signals wait, so that none is lost between the engine's start and ``forward_signals``."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _restore_signals() -> None:
    """Give the engine the signals that it would have without us: what Python ignores or we hold is inherited."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def start(command: list[str], environment: dict[str, str]) -> int:
    """Start the engine in a process group of its own and return its process id.

    Args:
        command: the engine's command line.
        environment: all of its environment.

    Raises:
        OSError: where the program cannot be run.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            os.setpgid(0, 0)
            _restore_signals()
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

    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in FORWARDED:
        signal.signal(number, forward)


def has_ended(child: int) -> bool:
    """Return whether the engine has ended; its exit code stays there for ``wait``."""
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def wait(child: int, ended: Callable[[], None] = lambda: None) -> int:
    """Wait for the engine, reaping every orphan on the way, and return its exit code (128 + n for signal n).

    Args:
        child: the engine's main process.
        ended: called at once when it has ended, before its group is swept.
    """
    with _wakeups() as woken:
        while (status := _reap(child)) is None:
            select.select([woken], [], [])
            os.read(woken, 4096)
    ended()
    end_group(child)  # workers that outlived their engine hold devices and ports
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _wakeups() -> Iterator[int]:
    """Return a pipe that can be read from when a signal came.

    A blocking ``waitpid`` would not do: a signal that is noticed just before it, or by another thread, does not
    interrupt it, and would be passed on when the engine has ended.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # what has no handler writes nothing
    try:
        yield reader
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _reap(child: int) -> int | None:
    """Reap whatever has ended; return the engine's status, or None where it still runs."""
    while True:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == child:
            return status
        if process == 0:
            return None


def end_group(child: int) -> None:
    """Kill the engine and its workers; its end is still to be waited for."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def stop(child: int) -> None:
    """End the engine at once: it runs, and may not."""
    end_group(child)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
