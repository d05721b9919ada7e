"""Where Kubernetes' programs come from: built from Go modules, a folder that the user names, or the official releases.

``DETINF_KUBERNETES`` says ``build``, ``release`` or a folder; without it ``KUBEBUILDER_ASSETS`` does, where it is set,
and otherwise they are built. All come from one place: versions are not mixed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from detinf_cluster.build import VERSION, binary
from detinf_cluster.cache import ClusterError, say

VARIABLE = "DETINF_KUBERNETES"
ASSETS = "KUBEBUILDER_ASSETS"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE = ("kubelet", "kube-proxy", "npu-device-plugin")
OURS = ("npu-device-plugin",)
"""What nobody publishes: built from Go modules, whatever the source of the rest."""


def programs(names: Sequence[str]) -> dict[str, Path]:
    """Return the programs of these names, built or downloaded now if they have to be.

    Raises:
        ClusterError: where some are missing, all of them named.
    """
    variable = VARIABLE if os.environ.get(VARIABLE) else ASSETS
    source = os.environ.get(variable) or "build"
    if source == "build":
        kube = binary("kube")
        return dict.fromkeys(names, kube)
    theirs = [name for name in names if name not in OURS]
    if source == "release":
        from detinf_cluster import releases

        found = {name: releases.program(name) for name in theirs}
    else:
        found = _in_folder(variable, Path(source), theirs)
    return found | {name: binary(name) for name in names if name in OURS}


def _in_folder(variable: str, folder: Path, names: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise ClusterError(f"{variable}: {str(folder)!r} is no folder; name one, or set {VARIABLE}=build or =release")
    missing = [name for name in names if not os.access(folder / name, os.X_OK)]
    if missing:
        raise ClusterError(
            f"{variable}: {folder} has no program {', '.join(missing)}; put them there (they are in the release "
            f"{VERSION}), or set {VARIABLE}=build or =release"
        )
    return {name: (folder / name).resolve() for name in names}


def link(folder: Path, names: Sequence[str]) -> Path:
    """Make links to programs under their names, which the one built binary listens to; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, program in programs(names).items():
        link = folder / name
        if not link.is_symlink() or link.readlink() != program:
            draft = folder / f".{name}.{os.getpid()}"
            draft.symlink_to(program)
            draft.rename(link)
    return folder


def say_version(apiserver: Path) -> None:
    """Say what is used where it is not what this was tested with."""
    done = subprocess.run([str(apiserver), "--version"], check=False, capture_output=True, text=True)
    found = done.stdout.strip().removeprefix("Kubernetes ")
    if found != VERSION:
        say(f"{apiserver.resolve()} is {found or 'of an unknown version'}; tested is {VERSION}")
