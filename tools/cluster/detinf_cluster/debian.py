"""Debian packages that the node size and the image builds need; installed where we are root and apt is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from detinf_cluster.cache import ClusterError, cache_dir, locked, say

NODE = {
    "containerd": "containerd",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "unshare": "util-linux",
}
RUNC = {"/usr/include/seccomp.h": "libseccomp-dev", "pkg-config": "pkg-config", "gcc": "gcc", "cc": "libc6-dev"}
IMAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}


def require(tools: Mapping[str, str]) -> None:
    """Make sure that programs and files are there, by installing their packages.

    Raises:
        ClusterError: naming the packages, where they are missing and cannot be installed.
    """
    missing = sorted(
        {
            package
            for tool, package in tools.items()
            if not (os.path.exists(tool) if tool.startswith("/") else shutil.which(tool))  # noqa: PTH110 - a plain name
        }
    )
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"missing: {', '.join(missing)}; install them (Debian: apt install {' '.join(missing)})")
    say(f"installing Debian packages: {', '.join(missing)} (about 20 s)")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    # apt-get update waits for nobody.
    with locked(cache_dir() / "apt.lock", "another process installs Debian packages; waiting for it"):
        for command in (["apt-get", "update", "-q"], install):
            done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise ClusterError(
                    f"missing: {', '.join(missing)}; {' '.join(command)} failed: "
                    f"{(done.stderr or done.stdout).strip()[-400:]}"
                )
