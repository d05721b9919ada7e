"""Make a virtual environment from a hashed lock: ``python3 tools/environment.py .venv requirements/dev.txt``.

Standard library only, since it runs before anything is installed. Idempotent: a stamp with the lock's digest in the
environment says that nothing is to be done. The package itself is not installed but found through a ``.pth`` file,
which needs no build back end.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALLER_LOCK = ROOT / "requirements" / "uv.txt"
MINIMUM = (3, 11)


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"environment: {message}", flush=True)


def run(command: list[str], **environment: str) -> None:
    """Run a command; its output is shown only where it fails.

    Raises:
        SystemExit: with the command and the end of its output.
    """
    done = subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment
    )
    if done.returncode:
        raise SystemExit(f"environment: {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")


def create(target: Path) -> None:
    """Create the environment; install Debian's python3-venv where it is missing and we may."""
    try:
        import ensurepip  # noqa: F401 - Debian splits it off into python3-venv
    except ImportError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SystemExit(
                "environment: this Python has no ensurepip; install python3-venv (apt install python3-venv)"
            ) from None
        say("installing python3-venv with apt")
        run(["apt-get", "update", "-q"])
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "python3-venv"])
    run([sys.executable, "-m", "venv", "--clear", str(target)])


def write_command(target: Path) -> None:
    """Put the command ``detinf`` into the environment, where an installed package would have it."""
    command = target / "bin" / "detinf"
    text = f"#!{target.resolve() / 'bin' / 'python'}\nfrom detinf.cli.main import main\n\nmain()\n"
    if not command.is_file() or command.read_text(encoding="utf-8") != text:
        command.write_text(text, encoding="utf-8")
        command.chmod(0o755)


def main() -> int:
    """Create or refresh the environment; return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("lock", type=Path)
    arguments = parser.parse_args()
    if sys.version_info < MINIMUM:
        raise SystemExit(
            f"environment: Python {sys.version.split()[0]} is too old; use Python 3.11 or newer (PYTHON=... make)"
        )
    target: Path = arguments.target
    lock: Path = arguments.lock
    digest = hashlib.sha256(
        lock.read_bytes() + INSTALLER_LOCK.read_bytes() + sys.version.encode() + str(ROOT).encode()
    ).hexdigest()
    stamp = target / "detinf-lock"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        write_command(target)
        return 0
    began = time.monotonic()
    say(f"{target} from {lock}: step 1 of 3, the environment (about 5 s of some 30 s)")
    create(target)
    say("step 2 of 3, the installer")
    run([str(target / "bin" / "python"), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(INSTALLER_LOCK)])
    packages = sum(1 for line in lock.read_text(encoding="utf-8").splitlines() if line[:1].isalnum())
    say(f"step 3 of 3, {packages} packages with verified hashes")
    run(
        [str(target / "bin" / "uv"), "pip", "install", "-q", "--require-hashes", "-r", str(lock)],
        VIRTUAL_ENV=str(target.resolve()),
    )
    site = next((target / "lib").glob("python3.*/site-packages"))
    (site / "detinf.pth").write_text(f"{ROOT / 'operator'}\n", encoding="utf-8")
    write_command(target)
    stamp.write_text(digest, encoding="utf-8")
    say(f"ready after {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
