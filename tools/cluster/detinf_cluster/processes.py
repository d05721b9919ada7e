"""Child processes with a log each, ended by id and in order; and waiting for what they serve."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detinf_cluster.cache import ClusterError

PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """Return a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Processes:
    """Processes in the order of their start; ended in the reverse one."""

    def __init__(self, logs: Path) -> None:
        """Keep the folder of the logs."""
        self.logs = logs
        self.logs.mkdir(parents=True, exist_ok=True)
        self.running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process that ends when we do."""
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(environment) if environment is not None else None,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl, no locks
                start_new_session=True,
            )
        self.running.append((name, process))

    def check(self) -> None:
        """Look whether all are alive.

        Raises:
            ClusterError: with the end of the log of the first that is not.
        """
        for name, process in self.running:
            if process.poll() is not None:
                raise ClusterError(f"{name} ended with {process.returncode}: {self.tail(name)}")

    def tail(self, name: str) -> str:
        """Return the end of a log."""
        text = (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return text.strip()[-800:]

    def stop(self) -> None:
        """End all, the last first: an API server whose etcd is gone does not end when asked."""
        for _, process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.running.clear()


def wait_until(what: str, ask: Callable[[], bool], processes: Processes, *, seconds: float = 120) -> None:
    """Wait for something that processes bring about.

    Raises:
        ClusterError: where one of them ends first, or it takes too long.
    """
    limit = time.monotonic() + seconds
    while not ask():
        processes.check()
        if time.monotonic() > limit:
            tails = "; ".join(f"{name}: ...{processes.tail(name)[-200:]}" for name, _ in processes.running)
            raise ClusterError(f"{what} did not come about within {seconds:.0f} s; {tails}")
        time.sleep(0.1)


def answers(url: str, pki: Path | None = None) -> bool:
    """Return whether a URL answers 200, with the admin's certificate where a folder is given."""
    context = None
    if pki is not None:
        context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        context.load_cert_chain(str(pki / "admin.crt"), str(pki / "admin.key"))
    handlers = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))  # type: ignore[arg-type]
    opener = urllib.request.build_opener(*handlers)
    with contextlib.suppress(urllib.error.URLError, OSError), opener.open(url, timeout=5) as response:
        return int(response.status) == 200
    return False


def is_alive(process: int) -> bool:
    """Return whether a process id is alive."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
