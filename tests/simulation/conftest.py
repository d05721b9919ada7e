"""A pod without Kubernetes: the real guard, the simulated engine and the real probe, on folders and loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp import web

from detinf.api.names import REFERENCES_KEY, baseline_key
from detinf.api.types import Promise
from detinf.documents import (
    Baseline,
    GateSettings,
    Phase,
    Plan,
    PlanAttestation,
    PlanEnvironment,
    PlanModel,
    PlanTopology,
    PodIdentity,
    ProbeSettings,
    Reference,
    References,
    Report,
    ScheduleSettings,
    Verdict,
    seal,
)
from detinf.guard.install import install
from detinf.probe import app, lifetime, watching
from detinf.probe.app import Probe
from detinf.probe.attested import Attested
from detinf.probe.client import EngineClient
from detinf.probe.delivery import Delivery
from detinf.probe.exported import Exported
from detinf.probe.lifetime import Lifetime
from detinf.probe.observation import Observation
from detinf.probe.readiness import Files, not_ready
from detinf.probe.references import propose
from detinf.probe.server import ProbeServer
from detinf.probe.trace import Trace
from detinf_sim.limits import Limits
from detinf_sim.model import HashModel, make_model
from detinf_sim.server import Server, Settings, running_server

WAIT_SECONDS = 120
BOOT = "b" * 32
DOCUMENTS = Path(__file__).resolve().parents[1] / "fixtures" / "documents"
CONTEXT = 4096
T = TypeVar("T")


async def until(ask: Callable[[], Awaitable[T | None]]) -> T:
    """Wait for something other than None; the limit only turns a hang into a failure."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (seen := await ask()) is None:
            await asyncio.sleep(0.05)
    return seen


@dataclass
class EnginePod:
    """One engine pod; its folders are the volumes, and the test is the controller."""

    folder: Path
    engine_port: int
    engine_url: str
    probe_url: str
    session: aiohttp.ClientSession
    environment: dict[str, str]
    guard: asyncio.subprocess.Process | None = None
    end_probe: Callable[[], Awaitable[None]] = field(kw_only=True)
    """Ends the probe that was there from the start."""

    async def start_engine(self) -> None:
        """Start the engine container's process."""
        model = self.plan().model.path
        serving = ["--host", "127.0.0.1", "--port", str(self.engine_port), "--served-model-name", "sim"]
        self.guard = await asyncio.create_subprocess_exec(
            sys.executable,
            str(self.folder / "guard"),
            *("--plan", str(self.folder / "plan.json"), "--shared", str(self.folder / "shared")),
            *("--termination-log", str(self.folder / "termination-log")),
            *("--", "vllm", "serve", model, *self.plan().arguments, *serving),
            env=self.environment,
        )

    async def end_engine(self, number: int = signal.SIGTERM) -> int:
        """Signal the guard, and return its exit code."""
        assert self.guard is not None
        if self.guard.returncode is None:
            self.guard.send_signal(number)
        return await self.guard.wait()

    def engine_process(self) -> int:
        """Return the process id of the engine under the guard."""
        assert self.guard is not None
        children = Path(f"/proc/{self.guard.pid}/task/{self.guard.pid}/children").read_text().split()
        return int(children[0])

    def plan(self) -> Plan:
        """Return the plan on disk."""
        return Plan.parse((self.folder / "plan.json").read_bytes())

    async def report(self) -> Report:
        """Return the probe's report."""
        async with self.session.get(f"{self.probe_url}/v1/report") as response:
            return Report.parse(await response.read())

    async def until_phase(self, phase: Phase) -> Report:
        """Wait for a phase."""

        async def ask() -> Report | None:
            report = await self.report()
            return report if report.phase is phase else None

        return await until(ask)

    async def until_proposal(self) -> References:
        """Wait for proposed references: the engine is asked for texts first."""

        async def ask() -> References | None:
            return (await self.report()).proposal

        return await until(ask)

    async def ready(self) -> tuple[bool, list[str]]:
        """Return what /readyz answers."""
        async with self.session.get(f"{self.probe_url}/readyz") as response:
            body = await response.json()
            assert (response.status == 200) == body["ready"]
            return body["ready"], body["reasons"]

    def deliver(self, key: str, data: bytes) -> None:
        """Write a sealed entry, as the mounted ConfigMap would show it."""
        (self.folder / "baselines" / key).write_text(seal(data), encoding="utf-8")

    async def qualify(self) -> Baseline:
        """Freeze the proposal and make the candidate the baseline, as the controller does."""
        proposal = await self.until_proposal()
        self.deliver(REFERENCES_KEY, proposal.canonical())
        candidate = (await self.until_phase(Phase.WAITING_FOR_BASELINE)).candidate
        assert candidate is not None
        baseline = Baseline(
            fingerprint=candidate.fingerprint,
            references_digest=candidate.references_digest,
            lifetimes=1,
            answers=candidate.answers,
        )
        self.deliver(baseline_key(baseline.fingerprint, baseline.references_digest), baseline.canonical())
        return baseline

    async def until(self, ask: Callable[[], Awaitable[T | None]]) -> T:
        """Wait for what a callback returns."""
        return await until(ask)

    def another_probe(self) -> contextlib.AbstractAsyncContextManager[str]:
        """Return a second probe on the same volumes, as after a restart of the sidecar."""
        return running_probe(self.folder, self.engine_url)

    async def switch(self, *names: str) -> None:
        """Switch the engine's faults."""
        async with self.session.put(f"{self.engine_url}/sim/faults", json=list(names)) as response:
            assert response.status == 200, await response.text()


@contextlib.contextmanager
def _held_port() -> Iterator[int]:
    """Yield a loopback port for engines that come and go: meanwhile the system gives it to nobody else."""
    with socket.socket() as holder:
        holder.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the engine's: it may listen there all the same
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def write_documents(folder: Path, **settings: Any) -> None:
    """Write a plan and probe settings that fit the simulated engine."""
    plan = Plan(
        profile="simulated",
        image="localhost/detinf/simulated-engine:dev",
        model=PlanModel(path=str(folder / "model"), dtype="bfloat16", max_model_len=4096, max_num_seqs=32),
        arguments=["--max-model-len", "4096", "--max-num-seqs", "32", "--no-enable-chunked-prefill"],
        environment=PlanEnvironment(
            set_variables={"VLLM_BATCH_INVARIANT": "1"},
            unset=["HCCL_ALGO"],
            # A fault that the fingerprint told would be another engine, with a baseline of its own.
            unrecorded=["DETINF_SIM_FAULTS"],
        ),
        topology=PlanTopology(devices=0),
        attestation=PlanAttestation(processes=["guard"]),
    )
    (folder / "plan.json").write_bytes(plan.canonical())
    probe_settings = ProbeSettings(
        promise=settings.get("promise", Promise.TOKENS_AND_LOGPROBS),
        served_model_name="sim",
        gate=GateSettings(widths=settings.get("widths", [2, 8, 16]), timeout_seconds=60),
        schedule=ScheduleSettings(solo_interval_seconds=1, width_interval_seconds=1, stale_after_seconds=60),
    )
    (folder / "settings.json").write_bytes(probe_settings.canonical())


@contextlib.asynccontextmanager
async def running_probe(pod_folder: Path, engine_url: str) -> AsyncIterator[str]:
    """Run a probe on the folders of a pod, as its own process would; yield its URL."""
    files = Files(pod_folder / "plan.json", pod_folder / "shared", pod_folder / "state", pod_folder / "podinfo")
    probe = Probe(
        files=files,
        settings=pod_folder / "settings.json",
        delivery=pod_folder / "baselines",
        engine_url=engine_url,
        pod=PodIdentity(namespace="test", name="sim-0-0", uid="uid-1"),
    )
    server = ProbeServer(not_ready=lambda: not_ready(files), report=probe.report, refresh_metrics=probe.metrics)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1)
    await runner.setup()
    following = asyncio.create_task(probe.run())
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        await runner.cleanup()


@pytest.fixture
async def engine_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EnginePod]:
    """A pod with an engine that was started, and a probe beside it that looks at files and a starting engine often."""
    for module in (app, lifetime, watching):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    for name in ("shared", "state", "baselines", "podinfo", "guard", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "podinfo" / "labels").write_text('detinf.io/serving="true"\n', encoding="utf-8")
    install(tmp_path / "guard")
    make_model(tmp_path / "model", 1000)
    write_documents(tmp_path)
    launcher = tmp_path / "bin" / "vllm"
    launcher.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path('operator').resolve())!r})\n"
        "from detinf_sim.cli import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    launcher.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "DETINF_SIM_LOAD_SECONDS": "0.1",
        "DETINF_SIM_STEP_MS": "0.3",
    }
    with _held_port() as port:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as probe:
            probe_url = await probe.enter_async_context(running_probe(tmp_path, url))
            pod = EnginePod(tmp_path, port, url, probe_url, session, environment, end_probe=probe.aclose)
            await pod.start_engine()
            try:
                yield pod
            finally:
                await pod.end_engine()


def attestation(pod: EnginePod) -> dict[str, Any]:
    """Return the guard's attestation as it is on disk."""
    return dict(json.loads((pod.folder / "shared" / "attestation-guard.json").read_text()))


@dataclass
class Gated:
    """A lifetime before its gate, and the engine that it is of."""

    lifetime: Lifetime
    server: Server
    items: list[Reference]
    expected: dict[str, Observation]

    def cells(self, verdict: Verdict) -> set[tuple[str, str]]:
        """Return the cells whose last round had a verdict."""
        return {
            (cell.relation, cell.condition) for cell in self.lifetime.books.ledger.listed() if cell.verdict is verdict
        }

    def shown(self) -> dict[str, float]:
        """Return the digests that the metrics page shows, by reference."""
        (family,) = self.lifetime.exported.answers.collect()
        assert {sample.labels["fingerprint"] for sample in family.samples} == {"fingerprint"}
        return {sample.labels["reference"]: sample.value for sample in family.samples}


@contextlib.asynccontextmanager
async def gated_lifetime(
    folder: Path,
    widths: list[int],
    *,
    seqs: int = 32,
    traced: bool = True,
    promise: Promise = Promise.TOKENS_AND_LOGPROBS,
    interval: int = 0,
) -> AsyncIterator[Gated]:
    """A lifetime in this process, whose engine answers on loopback and whose references are known."""
    settings = ProbeSettings.parse((DOCUMENTS / "probe-settings.json").read_bytes())
    gate = settings.gate.model_copy(update={"widths": widths})
    schedule = settings.schedule.model_copy(
        update={"solo_interval_seconds": interval, "width_interval_seconds": interval}
    )
    settings = settings.model_copy(update={"gate": gate, "schedule": schedule, "promise": promise})
    plan = Plan.parse((DOCUMENTS / "plan.json").read_bytes())
    plan = plan.model_copy(update={"model": plan.model.model_copy(update={"max_model_len": CONTEXT})})
    ring = folder / "trace.ring"
    engine = Settings(
        HashModel(1000, b"test"),
        served_name="sim",
        limits=Limits(seqs, 8192, CONTEXT),
        step_seconds=0.0003,
        boot=BOOT,
        trace=ring if traced else None,
    )
    async with running_server(engine) as (url, server), EngineClient(url, "sim", boot=BOOT) as client:
        items = propose(1000, [], CONTEXT, 24).items
        expected = {}
        # Together: without a fault the simulator is invariant (test_sim_invariance.py).
        for item, answer in zip(items, await asyncio.gather(*map(client.ask, items)), strict=True):
            assert isinstance(answer, Observation), answer
            expected[item.name] = answer
        lifetime = Lifetime(
            attested=Attested(BOOT, 0, plan, "plan", "fingerprint", 1000, ()),
            pod=PodIdentity(namespace="test", name="sim-0-0", uid="uid-1"),
            client=client,
            delivery=Delivery(folder),
            state=folder,
            podinfo=folder / "podinfo",
            trace=Trace(ring, BOOT),
            read_settings=lambda: settings,
            exported=Exported(),
        )
        yield Gated(lifetime, server, items, expected)


@pytest.fixture
def gated() -> Callable[..., contextlib.AbstractAsyncContextManager[Gated]]:
    """Return what makes a lifetime before its gate: faster than a pod, where its processes are not what is tested."""
    return gated_lifetime
