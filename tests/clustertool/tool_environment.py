"""The environment of the tool's command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from download_site import Site

Command = Callable[..., subprocess.CompletedProcess[str]]
TOOL = Path(__file__).resolve().parents[2] / "tools" / "cluster"


def environment(**changed: str | None) -> dict[str, str]:
    """Return an environment for the command; None takes a variable away."""
    merged: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(TOOL), "PYTHONUNBUFFERED": "1", **changed}
    return {name: value for name, value in merged.items() if value is not None}


def release_environment(site: Site, cache: Path) -> dict[str, str]:
    """Return the variables that make a site the one that releases come from."""
    return {
        "DETINF_CACHE": str(cache),
        "DETINF_KUBERNETES": "release",
        "DETINF_KUBERNETES_RELEASES": site.url,
        "DETINF_ETCD_RELEASES": f"{site.url}/etcd",
        "no_proxy": "127.0.0.1",
    }
