"""One real control plane for a test run, and a namespace for each test."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "cluster"))

from detinf_cluster.control_plane import ControlPlane

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """etcd, API server, controller manager and scheduler; built now, with progress, where they are not in the cache."""
    with ControlPlane() as running:
        yield running


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own, deleted after it."""
    name = f"test-{next(_NUMBERS)}"
    kubectl = [str(control_plane.bin / "kubectl"), "--kubeconfig", str(control_plane.kubeconfig)]
    subprocess.run([*kubectl, "create", "namespace", name], check=True, capture_output=True)
    yield name
    subprocess.run([*kubectl, "delete", "namespace", name, "--wait=false"], check=True, capture_output=True)
