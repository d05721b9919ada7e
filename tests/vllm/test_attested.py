"""Guard and plug-in around the real engine: every process of it attests, and one that is wrong does not serve."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import serve  # tools/vllm_cpu, found through conftest
import yaml

from detinf.api.types import Spec
from detinf.documents import Attestation, Plan, PlanTopology
from detinf.engines.plan import build_plan
from detinf.guard.install import install
from detinf.guard.layout import BOOT_HEADER, REFUSED_EXIT_CODE
from detinf.probe.attested import Attested, read_attested

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

PROCESSES = ["guard", "api-server", "engine-core", "worker-0"]


@dataclass(frozen=True)
class Guarded:
    """A guard, and the engine behind it."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str

    def attested(self) -> Attested | list[str]:
        return read_attested(self.folder / "plan.json", self.folder / "shared")

    def until(self, done: Callable[[], Any]) -> None:
        """Wait until something is so, or the guard has ended."""
        limit = time.monotonic() + serve.START_SECONDS
        while self.process.poll() is None and not done():
            assert time.monotonic() < limit, (self.folder / "output").read_text()[-4000:]
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):  # noqa: S310 - loopback
                return True
        except OSError:
            return False


def plan_of(model: Path) -> Plan:
    """Return the plan of the example, for a model's folder of the tests."""
    example = yaml.safe_load((serve.ROOT / "examples" / "vllm-cpu.yaml").read_text(encoding="utf-8"))
    plan = build_plan(Spec.model_validate(example["spec"]), serve.PROFILE, "image", PlanTopology(devices=0))
    return plan.model_copy(update={"model": plan.model.model_copy(update={"path": str(model)})})


@contextlib.contextmanager
def guarded(kit: Path, model: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Iterator[Guarded]:
    """Run the guard with a plan, changed or not; the folder is its own."""
    for name in ("guard", "shared"):
        (folder / name).mkdir()
    install(folder / "guard")
    document = json.loads(plan_of(model).canonical())
    change(document)
    (folder / "plan.json").write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))
    port = serve.free_port()
    environment = {"PATH": f"{kit / 'bin'}:{os.environ['PATH']}"}
    environment |= {item.name: item.value for item in serve.PROFILE.pod_variables if item.value is not None}
    environment |= {"HOME": str(folder), "TMPDIR": str(folder)}
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
        yield Guarded(process, folder, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.killpg(int(child), signal.SIGKILL)
            process.wait(60)


def test_every_process_of_the_real_engine_attests_and_answers_carry_the_fingerprint(
    kit: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with guarded(kit, tiny_model, tmp_path, lambda _plan: None) as running:
        running.until(running.healthy)
        assert running.process.poll() is None, (tmp_path / "output").read_text()[-4000:]
        attested = running.attested()
        assert isinstance(attested, Attested), attested
        found = {
            name: Attestation.parse((tmp_path / "shared" / f"attestation-{name}.json").read_bytes())
            for name in PROCESSES
        }
        assert {item.fingerprint for item in found.values()} == {attested.fingerprint}
        assert found["engine-core"].checks == ["environment", "configuration", "vocabulary", "kv-cache"]
        for name in PROCESSES[1:]:
            observed = found[name].observed
            assert observed is not None
            assert observed["cache_config.enable_prefix_caching"] == "false"
            assert observed["model_config.dtype"] == '"torch.float32"'
        body = {"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 2}
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{running.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - loopback
            assert json.loads(answer.read())["system_fingerprint"] == attested.fingerprint
            assert answer.headers[BOOT_HEADER] == attested.boot


def other_configuration(plan: dict[str, Any]) -> None:
    # As if the engine had it on: what is in effect is another than the plan's.
    plan["attestation"]["configuration"]["cache_config.enable_prefix_caching"] = "true"


def test_real_engine_with_another_effective_configuration_ends_before_it_serves(
    kit: Path, tiny_model: Path, tmp_path: Path
) -> None:
    with guarded(kit, tiny_model, tmp_path, other_configuration) as running:
        running.until(running.healthy)
        assert running.process.poll() == REFUSED_EXIT_CODE, (tmp_path / "output").read_text()[-4000:]
        words = "worker-0: configuration: cache_config.enable_prefix_caching is false in effect, the plan says true"
        assert words in (tmp_path / "log").read_text()
        assert isinstance(running.attested(), list)
