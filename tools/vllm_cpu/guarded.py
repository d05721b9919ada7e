"""Run the real vLLM on CPU behind the guard, as a pod does, for tests and benchmarks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import serve

from detinf.documents import Plan, PlanTopology
from detinf.engines.plan import build_plan
from detinf.guard.install import install
from detinf.probe.attested import Attested, read_attested


@dataclass(frozen=True)
class Guarded:
    """A guard, and the engine behind it."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str
    model: str
    """The model's folder, as the plan names it."""

    def output(self) -> str:
        """Return the end of what the engine said."""
        return (self.folder / "output").read_text()[-4000:]

    def attested(self) -> Attested | list[str]:
        """Return what the probe makes of it."""
        return read_attested(self.folder / "plan.json", self.folder / "shared")

    def until(self, done: Callable[[], Any]) -> None:
        """Wait until something is so, or the guard has ended.

        Raises:
            TimeoutError: with the end of the engine's output.
        """
        limit = time.monotonic() + serve.START_SECONDS
        while self.process.poll() is None and not done():
            if time.monotonic() > limit:
                raise TimeoutError(self.output())
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)

    def healthy(self) -> bool:
        """Return whether the engine answers its health check."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):  # noqa: S310 - loopback
                return True
        except OSError:
            return False


def plan_of(model: Path) -> Plan:
    """Return the plan of the example, for a model's folder of the tests."""
    plan = build_plan(serve.SPEC, serve.PROFILE, "image", PlanTopology(devices=0))
    return plan.model_copy(update={"model": plan.model.model_copy(update={"path": str(model)})})


@contextlib.contextmanager
def guarded(
    kit: Path,
    model: Path,
    folder: Path,
    change: Callable[[dict[str, Any]], Any] = lambda _plan: None,
    extra: Mapping[str, str] | None = None,
) -> Iterator[Guarded]:
    """Run the guard with a plan.

    Args:
        kit: what ``serve.installed`` returned.
        model: the model's folder.
        folder: empty, and the guard's own.
        change: changes the plan before it is written.
        extra: variables of the container.
    """
    for name in ("guard", "shared"):
        (folder / name).mkdir()
    install(folder / "guard")
    document = json.loads(plan_of(model).canonical())
    change(document)
    (folder / "plan.json").write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    port = serve.free_port()
    environment = {"PATH": f"{kit / 'bin'}:{os.environ['PATH']}"}
    environment |= {item.name: item.value for item in serve.PROFILE.pod_variables if item.value is not None}
    environment |= {"HOME": str(folder), "TMPDIR": str(folder), **serve.cached(kit), **(extra or {})}
    model = Path(document["model"]["path"])
    command = [str(kit / "bin" / "python3"), str(folder / "guard"), "--plan", str(folder / "plan.json")]
    command += ["--shared", str(folder / "shared"), "--termination-log", str(folder / "log"), "--"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*command, *serve.command_line(model, port, "stock")],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Guarded(process, folder, f"http://127.0.0.1:{port}", str(model))
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.killpg(int(child), signal.SIGKILL)
            process.wait(60)
