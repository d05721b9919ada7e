"""What the guard takes to start an engine, in time and memory, beside another build of it.

Run: .venv/bin/python benchmarks/guard_start.py --base COMMIT

The guards of a commit and of this tree take turns in one place, and in every other pair this tree's is first, so that
whatever else the machine does falls on both. A start ends when the guard has attested the engine that runs; the engine
is a shell that sleeps. The place is like a pod: a container's variables, set-up scripts, packages with their metadata,
an operator library, and a model with the small files of a large one. There are no NPUs, since a simulated npu-smi takes
longer than all else. Memory is the largest that the guard's own process ever had (VmHWM).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / name) for name in ("tools", "tests/stand_ins", "tests/unit/detinf/guard")]

from packages import installed  # noqa: E402 - as above

import conftest  # noqa: E402 - found through the line above
from detinf.guard.packages import MODULES  # noqa: E402 - as above
from published import VLLM_ASCEND  # noqa: E402 - as above

BAR = 1.2
WAIT_SECONDS = 120
RECORD_LINES = 12_000
"""Of torch's RECORD."""
TOKENIZER_BYTES = 11 * 2**20
"""Of Qwen3's tokenizer.json."""


def build(folder: Path, commit: str | None) -> Path:
    """Install the guard of a commit, or of this tree, and return its folder."""
    source = ROOT / "operator"
    if commit is not None:
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", commit, "operator"], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder / "source", filter="data")
        source = folder / "source" / "operator"
    target = folder / "guard"
    environment = os.environ | {"PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-m", "detinf.guard", "install", str(target)], env=environment, check=True)
    return target


def make_place(folder: Path) -> Any:
    """Return folders in which everything verifies, of a pod's size."""
    place = conftest.make_place(folder)
    place.write_launcher("exec sleep 600")
    site = folder / "site"
    for name, text in installed(VLLM_ASCEND).items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for record in site.glob("torch-*/RECORD"):
        record.write_text(
            "".join(f"torch/module_{line}.py,sha256={line:043d},{line}\n" for line in range(RECORD_LINES))
        )
    for module in MODULES.values():
        (site / module).mkdir(exist_ok=True)
        (site / module / "__init__.py").touch()
    model = folder / "root/models/m"
    (model / "tokenizer.json").write_bytes(b"{}" + b" " * TOKENIZER_BYTES)
    (model / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{% for m in messages %}{{ m }}{% endfor %}"})
    )
    for shard in range(8):
        with (model / f"model-{shard}-of-8.safetensors").open("wb") as file:
            file.truncate(4 * 2**30)
    library = folder / "root/opp/libcust_opapi.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"\0" * (8 * 2**20))
    script = folder / "set_env.sh"
    below_root = folder / "root" / str(script).lstrip("/")  # where an earlier guard does not look
    below_root.parent.mkdir(parents=True)
    for path in (script, below_root):
        path.write_text("".join(f"export OF_THE_TOOLKIT_{number}=/usr/local/Ascend/{number}\n" for number in range(40)))

    def planned(plan: dict[str, Any]) -> None:
        plan["environment"]["scripts"] = [str(script)]
        plan["attestation"]["files"] = {"kernels": "/opp/libcust_opapi.so"}

    place.write_plan(planned)
    place.environment |= {"PYTHONPATH": str(site)} | {f"OF_THE_IMAGE_{number}": "x" * 40 for number in range(60)}
    return place


def start(place: Any, guard: Path) -> tuple[float, int]:
    """Return (seconds to an attested engine, KiB that the guard took at most)."""
    command = [word if word != str(place.folder / "guard") else str(guard) for word in place.arguments()]
    command.remove("-I")  # the packages of the place are found as an image's are
    began = time.monotonic()
    process = subprocess.Popen(command, env=place.environment, stderr=subprocess.PIPE, text=True)
    try:
        while not place.attestation.exists():
            if process.poll() is not None or time.monotonic() - began > WAIT_SECONDS:
                raise SystemExit(f"{guard}: no attestation: {process.communicate()[1]}")
            time.sleep(0.001)
        seconds = time.monotonic() - began
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_SECONDS)
    return seconds, peak


def main() -> int:
    """Measure; 0 where both medians are within the bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="9021fd6", help="commit of the other build")
    parser.add_argument("--pairs", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="detinf-guard-") as name:
        folder = Path(name)
        for kind in ("base", "here", "place"):
            (folder / kind).mkdir()
        guards = {"base": build(folder / "base", given.base), "here": build(folder / "here", None)}
        place = make_place(folder / "place")
        for guard in guards.values():  # fills the caches
            start(place, guard)
        seen: dict[str, list[tuple[float, int]]] = {kind: [] for kind in guards}
        for number in range(given.pairs):
            for kind in sorted(guards, reverse=number % 2 == 1):
                seen[kind].append(start(place, guards[kind]))
    failed = False
    for index, (what, unit, scale) in enumerate((("start", "ms", 1000), ("memory", "MiB", 1 / 1024))):
        base, here = (statistics.median(item[index] for item in seen[kind]) * scale for kind in ("base", "here"))
        pairs = zip(seen["here"], seen["base"], strict=True)
        ratio = statistics.median(mine[index] / other[index] for mine, other in pairs)
        failed = failed or ratio > BAR
        print(
            f"{what}: {base:.1f} {unit} at {given.base}, {here:.1f} {unit} here; median ratio {ratio:.3f} (bar {BAR})"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
