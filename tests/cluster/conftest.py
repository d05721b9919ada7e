"""One real control plane for a test run, and a namespace for each test."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="session")
def ask(control_plane: ControlPlane) -> Ask:
    """Ask the API server as the administrator: method, path, body; its status and answer. Quicker than a kubectl."""
    context = ssl.create_default_context(cafile=str(control_plane.pki / "ca.crt"))
    context.load_cert_chain(str(control_plane.pki / "admin.crt"), str(control_plane.pki / "admin.key"))

    def asked(method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        host, port = control_plane.address, control_plane.port
        connection = http.client.HTTPSConnection(host, port, context=context, timeout=60)
        with contextlib.closing(connection):
            given = None if body is None else json.dumps(body)
            connection.request(method, path, given, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, dict(json.loads(response.read()))

    return asked


@pytest.fixture
def namespace(ask: Ask) -> Iterator[str]:
    """A namespace of the test's own, deleted after it."""
    name = f"test-{next(_NUMBERS)}"
    status, answer = ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert status == 201, answer
    yield name
    status, answer = ask("DELETE", f"/api/v1/namespaces/{name}")
    assert status == 200, answer


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
