"""Building binaries from Go modules, once for each version of their sources."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from detinf_cluster import debian
from detinf_cluster.cache import HERE, ClusterError, cache_dir, locked, say

VERSION = "v1.36.3"
MAJOR, MINOR = VERSION.lstrip("v").split(".")[:2]
_COMPONENT = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Program:
    """One binary."""

    name: str
    folder: str
    """Under ``tools/cluster``: a Go module of its own."""
    package: str
    about_seconds: int
    """What a build from nothing took on two cores, for the first estimate."""
    flags: tuple[str, ...] = ()
    cgo: bool = False


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "kube",
            "kube",
            ".",
            380,
            (
                "-ldflags",
                " ".join(
                    [
                        "-s -w",
                        f"-X {_COMPONENT}.gitVersion={VERSION}",
                        f"-X {_COMPONENT}.gitMajor={MAJOR}",
                        f"-X {_COMPONENT}.gitMinor={MINOR}",
                    ]
                ),
            ),
        ),
        Program("npu-device-plugin", "kube", "./npu/cmd", 60, ("-ldflags", "-s -w")),
        Program("pause", "pause", ".", 5, ("-ldflags", "-s -w")),
        Program("runc", "runc", "github.com/opencontainers/runc", 40, ("-tags", "seccomp"), cgo=True),
        Program("health", "health", ".", 80, ("-ldflags", "-s -w")),
        Program("helm", "helm", "helm.sh/helm/v4/cmd/helm", 150, ("-ldflags", "-s -w")),
    )
}


def binary(name: str) -> Path:
    """Return a program, built now if it has to be.

    Raises:
        ClusterError: where it cannot be built.
    """
    program = PROGRAMS[name]
    if shutil.which("go") is None:
        elsewhere = " (or DETINF_KUBERNETES=release, or a folder that has it)" if name == "kube" else ""
        raise ClusterError(f"go is not on PATH, and {name} is built with it; install Go 1.26 or newer{elsewhere}")
    source = HERE / program.folder
    asked = subprocess.run(["go", "env", "GOVERSION"], cwd=source, check=False, capture_output=True, text=True)
    if asked.returncode:  # an old Go that may not fetch a newer one, for instance
        raise ClusterError(f"go does not work in {source}: {' '.join(asked.stderr.split())[-300:]}")
    digest = hashlib.sha256(f"{asked.stdout.strip()} {program}".encode())
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in {".go", ".mod", ".sum"}:
            digest.update(path.name.encode() + path.read_bytes())
    target = cache_dir() / "bin" / f"{name}-{digest.hexdigest()[:16]}"
    if target.is_file():
        return target
    if name == "runc":
        debian.require(debian.RUNC)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(cache_dir() / f"build-{name}.lock", f"another process is building {name}; waiting for it"):
        if not target.is_file():
            _build(program, source, target)
    return target


def _build(program: Program, source: Path, target: Path) -> None:
    """Build into ``target``, printing every ten seconds how far it is."""
    record = target.parent / f"{program.name}.seconds"
    expected = int(record.read_text()) if record.is_file() else program.about_seconds
    say(f"building {program.name} from its Go module (about {expected} s from nothing; later builds are cached)")
    listed = subprocess.run(
        ["go", "list", "-deps", program.package], cwd=source, check=False, capture_output=True, text=True
    )
    if listed.returncode:
        raise ClusterError(f"go list in {source} failed: {listed.stderr.strip()[-500:]}")
    packages = len(listed.stdout.split())
    draft = target.with_suffix(f".{os.getpid()}")
    began = time.monotonic()
    process = subprocess.Popen(
        ["nice", "go", "build", "-v", "-trimpath", *program.flags, "-o", str(draft), program.package],
        cwd=source,
        env=os.environ | {"CGO_ENABLED": "1" if program.cgo else "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    assert process.stderr is not None  # noqa: S101 - it is a pipe
    reader = threading.Thread(target=lambda: lines.extend(process.stderr or ()), daemon=True)
    reader.start()
    while True:
        try:
            process.wait(10)
            break
        except subprocess.TimeoutExpired:
            spent = time.monotonic() - began
            left = max(expected - spent, 5)
            done = f"{len(lines)} packages compiled of at most {packages}"
            say(f"  {program.name}: {done}, {spent:.0f} s, about {left:.0f} s left")
    reader.join()
    process.stderr.close()
    if process.returncode:
        raise ClusterError(f"building {program.name} failed: {''.join(lines)[-1500:].strip()}")
    seconds = time.monotonic() - began
    if len(lines) > packages // 2:
        record.write_text(f"{seconds:.0f}")  # a build from nothing; the next estimate is this machine's
    draft.rename(target)
    for old in target.parent.glob(f"{program.name}-*"):
        if old != target and time.time() - old.stat().st_mtime > 7 * 86400:
            old.unlink()
    say(f"  {program.name}: built in {seconds:.0f} s")
