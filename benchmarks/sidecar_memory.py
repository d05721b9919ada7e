"""The sidecar's memory: after its imports, and while it probes; beside a bare Python of the same run.

    .venv/bin/python benchmarks/sidecar_memory.py

A simulated engine serves; a probe process is gated by it and then watches it. Resident memory is the kernel's own
figure of the probe's process (VmRSS, and VmHWM for the peak), which includes libraries that it shares with others.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from detinf.api.names import REFERENCES_KEY, baseline_key
from detinf.api.types import Promise
from detinf.documents import (
    Attestation,
    Baseline,
    GateSettings,
    Plan,
    PlanAttestation,
    PlanEnvironment,
    PlanModel,
    PlanTopology,
    ProbeSettings,
    Report,
    ScheduleSettings,
    Vocabulary,
    seal,
)
from detinf_sim.model import HashModel
from detinf_sim.server import Settings, running_server

BOOT = "b" * 32
ROUNDS_SECONDS = 30
SOURCES = str(Path(__file__).resolve().parent.parent / "operator")


def memory(process: int) -> tuple[float, float]:
    """Return (resident, peak) MiB of a process."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines() if ":" in line
    )
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["VmHWM"].split()[0]) / 1024


def bare(statement: str) -> float:
    """Return the resident MiB of a Python that ran one statement."""
    code = f"{statement}\nprint([l for l in open('/proc/self/status') if l.startswith('VmRSS')][0].split()[1])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def write_pod(folder: Path) -> None:
    """Write the files of a pod whose engine was attested."""
    for name in ("shared", "state", "baselines", "podinfo"):
        (folder / name).mkdir()
    plan = Plan(
        profile="simulated",
        image="none",
        model=PlanModel(path="/none", dtype="bfloat16", max_model_len=8192, max_num_seqs=32),
        arguments=[],
        environment=PlanEnvironment(set_variables={}),
        topology=PlanTopology(devices=0),
        attestation=PlanAttestation(processes=["guard"]),
    )
    (folder / "plan.json").write_bytes(plan.canonical())
    settings = ProbeSettings(
        promise=Promise.TOKENS_AND_LOGPROBS,
        served_model_name="sim",
        gate=GateSettings(widths=[2, 8, 16], timeout_seconds=300),
        schedule=ScheduleSettings(solo_interval_seconds=1, width_interval_seconds=1, stale_after_seconds=300),
    )
    (folder / "settings.json").write_bytes(settings.canonical())
    attestation = Attestation(
        process="guard",
        boot=BOOT,
        boot_started_unix_ms=0,
        plan_digest=plan.digest(),
        expected_fingerprint="sha256:" + "0" * 64,
        fingerprint="sha256:" + "0" * 64,
        identity={},
        placement={},
        vocabulary=Vocabulary(size=32_000, special_ids=[0, 1]),
        checks=[],
    )
    (folder / "shared" / "attestation-guard.json").write_bytes(attestation.canonical())


async def report(port: int) -> Report | None:
    """Return the probe's report, or None before it listens."""
    try:
        answer: Any = await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/v1/report")
        return Report.parse(answer.read())
    except OSError:
        return None


async def until(port: int, what: Any) -> Report:
    """Wait for a report of which ``what`` is true."""
    async with asyncio.timeout(300):
        while True:
            seen = await report(port)
            if seen is not None and what(seen):
                return seen
            await asyncio.sleep(0.2)


async def measure(folder: Path) -> dict[str, float]:
    """Run a probe from its start to its watch, and return MiB."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        port = probe_socket.getsockname()[1]
    settings = Settings(model=HashModel(32_000, b"benchmark"), served_name="sim", boot=BOOT)
    async with running_server(settings) as (url, _):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "detinf.probe", "--engine-url", url, "--host", "127.0.0.1", "--port", str(port)),
            *("--plan", str(folder / "plan.json"), "--settings", str(folder / "settings.json")),
            *("--delivery-dir", str(folder / "baselines"), "--shared-dir", str(folder / "shared")),
            *("--state-dir", str(folder / "state"), "--podinfo-dir", str(folder / "podinfo")),
            stdout=asyncio.subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": SOURCES},
        )
        try:
            proposal = (await until(port, lambda seen: seen.proposal)).proposal
            started, _ = memory(process.pid)
            if proposal is None:
                raise RuntimeError("the probe proposed nothing")
            (folder / "baselines" / REFERENCES_KEY).write_text(seal(proposal.canonical()), encoding="utf-8")
            candidate = (await until(port, lambda seen: seen.candidate)).candidate
            if candidate is None:
                raise RuntimeError("the probe offered no candidate")
            baseline = Baseline(
                fingerprint=candidate.fingerprint,
                references_digest=candidate.references_digest,
                lifetimes=1,
                answers=candidate.answers,
            )
            key = baseline_key(baseline.fingerprint, baseline.references_digest)
            (folder / "baselines" / key).write_text(seal(baseline.canonical()), encoding="utf-8")
            await until(port, lambda seen: seen.phase == "Passed")
            gated, _ = memory(process.pid)
            await asyncio.sleep(ROUNDS_SECONDS)
            watching, peak = memory(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()
    return {"listening": started, "gated": gated, "watching": watching, "peak": peak}


def main() -> int:
    """Print one line of JSON and a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pod(folder)
        result = asyncio.run(measure(folder))
    result = {"python": bare("pass"), "imports": bare("import detinf.probe.app"), **result}
    result["ratio of peak to a bare Python"] = result["peak"] / result["python"]
    print(json.dumps({key: round(value, 1) for key, value in result.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
