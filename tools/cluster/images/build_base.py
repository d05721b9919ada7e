"""The base image without a registry: a Debian from its own packages, committed with buildah, kept as an archive.

With Docker and a registry nobody needs this: the Dockerfile's base is a build argument.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detinf_cluster import debian
from detinf_cluster.cache import ClusterError, cache_dir, say

SUITE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
IMAGE = f"localhost/detinf/base:{SUITE}"
SURPLUS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


def buildah(*arguments: str) -> str:
    """Run buildah as it works without a container engine.

    Raises:
        ClusterError: where it fails, with the end of its words.
    """
    done = subprocess.run(
        ["buildah", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"BUILDAH_ISOLATION": "chroot"},
    )
    if done.returncode:
        raise ClusterError(f"buildah {' '.join(arguments[:3])}...: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout.strip()


def has_image(name: str) -> bool:
    """Return whether buildah's store has an image."""
    done = subprocess.run(["buildah", "inspect", "--type", "image", name], check=False, capture_output=True)
    return done.returncode == 0


def mirror() -> str:
    """Return the mirror that this machine's apt uses.

    Raises:
        ClusterError: where none is configured.
    """
    for path in [*sorted(Path("/etc/apt").glob("sources.list*/*")), Path("/etc/apt/sources.list")]:
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.replace("URIs:", "URIs: ").split()
            if words[:1] in (["deb"], ["URIs:"]):
                found = next((word for word in words if "://" in word), None)
                if found and "security" not in found:
                    return found
    raise ClusterError("no Debian mirror in /etc/apt; configure apt first")


def build_base() -> str:
    """Return the base image's name; it is made where buildah does not have it."""
    debian.require(debian.IMAGES)
    if has_image(IMAGE):
        return IMAGE
    archive = cache_dir() / "images" / f"base-{SUITE}.tar"
    began = time.monotonic()
    if archive.is_file():
        say(f"base image from {archive}")
        buildah("pull", f"oci-archive:{archive}:{IMAGE}")
        return IMAGE
    say(f"base image: Debian {SUITE} with Python, from Debian's packages (about 60 s)")
    root = Path(tempfile.mkdtemp(prefix="detinf-base-", dir=cache_dir()))
    try:
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), mirror()]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"debootstrap failed: {done.stdout.strip()[-800:]}")
        for path in SURPLUS:
            shutil.rmtree(root / path, ignore_errors=True)
        container = buildah("from", "scratch")
        try:
            buildah("add", "-q", container, str(root), "/")
            buildah("config", "--cmd", "python3", container)
            buildah("commit", "-q", container, IMAGE)
        finally:
            buildah("rm", container)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    draft = archive.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    buildah("push", "-q", "--disable-compression", IMAGE, f"oci-archive:{draft}:{IMAGE}")
    draft.rename(archive)
    say(f"base image ready after {time.monotonic() - began:.0f} s")
    return IMAGE


if __name__ == "__main__":
    try:
        print(build_base())
    except ClusterError as error:
        print(f"images: {error}", file=sys.stderr)
        sys.exit(1)
