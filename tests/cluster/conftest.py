"""One real control plane for a test run, and a namespace for each test."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from detinf.api import crd, names

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "cluster"))

from detinf_cluster.build import binary  # noqa: E402 - found through the line above
from detinf_cluster.control_plane import ControlPlane  # noqa: E402 - as above

CHART = ROOT / "charts" / "deterministic-inference"
RELEASE, OPERATOR_NAMESPACE = "detinf", "detinf-system"
ACCOUNT = f"system:serviceaccount:{OPERATOR_NAMESPACE}:{RELEASE}"

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


def call(control_plane: ControlPlane, *arguments: str, given: str | None = None, fails: bool = False) -> str:
    """Run kubectl as the administrator and return what it prints; ``fails``: what it says instead of doing it."""
    command = [str(control_plane.bin / "kubectl"), "--kubeconfig", str(control_plane.kubeconfig), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr if fails else done.stdout


@pytest.fixture(scope="session")
def administrator(control_plane: ControlPlane) -> Callable[..., str]:
    """Run kubectl as the administrator."""
    return functools.partial(call, control_plane)


@pytest.fixture(scope="session")
def definition(control_plane: ControlPlane) -> str:
    """Install the definition and return its name."""
    name = f"crd/{names.PLURAL}.{names.GROUP}"
    call(control_plane, "apply", "--server-side", "--validate=strict", "-f", str(ROOT / "crds" / crd.FILE_NAME))
    call(control_plane, "wait", "--for=condition=Established", name, "--timeout=30s")
    return name


@pytest.fixture
def kubectl(control_plane: ControlPlane, definition: str, namespace: str) -> Callable[..., str]:
    """Run kubectl in the test's namespace."""
    assert definition
    return functools.partial(call, control_plane, "--namespace", namespace)


@pytest.fixture(scope="session")
def role(control_plane: ControlPlane) -> dict[str, object]:
    """The rights that the chart grants to its ServiceAccount, applied to the control plane."""
    call(control_plane, "create", "namespace", OPERATOR_NAMESPACE)
    template = [str(binary("helm")), "template", RELEASE, str(CHART), "--namespace", OPERATOR_NAMESPACE]
    rendered = subprocess.run(
        [*template, "--show-only", "templates/rbac.yaml"], check=True, capture_output=True, text=True
    ).stdout
    call(control_plane, "apply", "--server-side", "--validate=strict", "-f", "-", given=rendered)
    granted: dict[str, object] = json.loads(call(control_plane, "get", "clusterrole", RELEASE, "-o", "json"))
    return granted


@pytest.fixture(scope="session")
def account_kubeconfig(
    control_plane: ControlPlane, role: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A kubeconfig of the chart's own ServiceAccount: what runs with it has those rights and no others."""
    assert role
    token = call(control_plane, "create", "token", RELEASE, "--namespace", OPERATOR_NAMESPACE, "--duration=24h")
    config = json.loads(control_plane.kubeconfig.read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"token": token.strip()}
    path = tmp_path_factory.mktemp("account") / "kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path
