"""The probe's start: its port is open before it has imported what it answers with."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

from detinf.probe.port import parser

WAIT_SECONDS = 60
GATE = """\
import sys

class Waits:
    def find_spec(self, name, path=None, target=None):
        if name == "aiohttp":
            sys.meta_path.remove(self)
            open({fifo!r}).read()

sys.meta_path.insert(0, Waits())
"""


async def connected(
    port: int, process: asyncio.subprocess.Process
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Wait for an open port; the limit only turns a hang into a failure."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            assert process.returncode is None
            try:
                return await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)


async def test_connection_made_while_the_probe_imports_is_answered_and_not_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "sitecustomize.py").write_text(GATE.format(fifo=str(fifo)), encoding="utf-8")
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        folders = [part for name in ("shared", "state", "podinfo") for part in (f"--{name}-dir", str(tmp_path))]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "detinf.probe", "--host", "127.0.0.1", "--port", str(port)),
            *("--plan", str(tmp_path / "plan.json"), *folders),
            env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}operator"},
            stdout=subprocess.DEVNULL,
        )
        try:
            reader, writer = await connected(port, process)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
            await asyncio.to_thread(fifo.write_text, "")  # only now it may import what answers
            answer = await reader.read()
            writer.close()
        finally:
            process.terminate()
            await process.wait()
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"plan: " in answer


def test_port_is_held_with_the_standard_library_alone() -> None:
    code = "import detinf.probe.port, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"aiohttp", "pydantic", "prometheus_client", "structlog"} & set(done.stdout.split())


def test_defaults_are_a_pods_paths() -> None:
    options = parser().parse_args([])
    assert (options.port, str(options.state_dir), str(options.podinfo_dir)) == (
        9400,
        "/detinf/state",
        "/detinf/podinfo",
    )
