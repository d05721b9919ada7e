"""Build the project's images with buildah, and keep them as OCI archives for ``load-image``."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detinf_cluster.cache import ClusterError, cache_dir, locked, say
from images.build_base import IMAGE as BASE_IMAGE
from images.build_base import build_base, buildah

ROOT = Path(__file__).resolve().parents[3]
TARGETS = {
    "controller": ["operator/detinf", "requirements/controller.txt"],
    "probe": ["operator/detinf", "requirements/probe.txt"],
    "simulated-engine": ["operator/detinf_sim", "requirements/sim.txt", "tools/cluster/images/vllm"],
}


def image_name(target: str) -> str:
    """Return the name of a target's image."""
    return f"localhost/detinf/{target}:dev"


def inputs_digest(target: str) -> str:
    """Return the digest of everything that goes into an image."""
    digest = hashlib.sha256((ROOT / "Dockerfile").read_bytes() + BASE_IMAGE.encode())
    for entry in TARGETS[target]:
        path = ROOT / entry
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        for file in files:
            digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def host_options() -> list[str]:
    """Return mounts of this machine's pip configuration and certificates, so that the build can reach packages."""
    options = []
    for path in ("/etc/pip.conf", "/etc/ssl/certs", "/usr/local/share/ca-certificates"):
        if Path(path).exists():
            options += ["-v", f"{path}:{path}:ro"]
    home = Path.home() / ".config" / "pip" / "pip.conf"
    if home.is_file():
        options += ["-v", f"{home}:/etc/pip.conf:ro"]
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT", "PIP_TRUSTED_HOST", "HTTPS_PROXY", "HTTP_PROXY"):
        if os.environ.get(name):
            options += ["--build-arg", f"{name}={os.environ[name]}"]
    return options


def build(target: str) -> Path:
    """Return the archive of a target's image, built where its inputs changed.

    Raises:
        ClusterError: where it cannot be built.
    """
    return kept(target, inputs_digest(target), lambda archive: _build(target, archive))


def kept(name: str, digest: str, make: Callable[[Path], None]) -> Path:
    """Return the archive of an image, made where there is none of this digest.

    Args:
        name: what the archives of all its versions begin with.
        digest: of everything that goes into it.
        make: writes the archive.

    Raises:
        ClusterError: where it cannot be made.
    """
    folder = cache_dir() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{name}-{digest}.tar"
    # One at a time: two checkouts build under the same names.
    with locked(cache_dir() / "build-images.lock", "another process is building images; waiting for it"):
        if archive.is_file():
            archive.touch()  # in use
        else:
            make(archive)
    for old in folder.glob(f"{name}-*.tar"):
        # Another checkout's may be in use; a day after its last use it is not.
        if old != archive and time.time() - old.stat().st_mtime > 86400:
            old.unlink(missing_ok=True)
    return archive


def export(image: str, archive: Path) -> None:
    """Write an image of buildah's store into an archive, whole or not at all."""
    draft = archive.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    buildah("push", "-q", "--disable-compression", image, f"oci-archive:{draft}:{image}")
    draft.rename(archive)


def _build(target: str, archive: Path) -> None:
    base = build_base()
    began = time.monotonic()
    say(f"image {target} (about 60 s from nothing, 10 s after a change of the source)")
    buildah(
        *("bud", "-q", "--layers", "--pull-never", "--format", "oci", "--build-arg", f"BASE={base}"),
        *("--target", target, "-t", image_name(target)),
        *host_options(),
        *("-f", str(ROOT / "Dockerfile"), str(ROOT)),
    )
    export(image_name(target), archive)
    say(f"image {target}: {archive.stat().st_size / 2**20:.0f} MiB, after {time.monotonic() - began:.0f} s")


def main() -> int:
    """Build the images that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=[])
    for target in parser.parse_args().targets or list(TARGETS):
        if target not in TARGETS:
            raise ClusterError(f"{target!r} is no image; there are {', '.join(TARGETS)}")
        print(build(target))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        print(f"images: {error}", file=sys.stderr)
        sys.exit(1)
