"""kubectl, as the demo and the end-to-end tests call it.

What is asked again and again goes straight to the API server, as the same user: a kubectl of its own for every look
costs more than what is looked at, on a machine with two processors.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

GROUPS = {
    "detinf": "/apis/detinf.io/v1alpha1",
    **dict.fromkeys(("pods", "services", "configmaps"), "/api/v1"),
    **dict.fromkeys(("deployments", "statefulsets"), "/apis/apps/v1"),
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
}
"""Where the API server has the resources that are looked at."""
PLURALS = {"detinf": "deterministicinferences"}
READ_SECONDS = 30


class KubectlError(Exception):
    """kubectl ended with an error; the message holds its words."""


@dataclass(frozen=True)
class Kubectl:
    """One cluster, and one namespace in it."""

    binary: str
    kubeconfig: Path
    namespace: str

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Return kubectl's standard output.

        Raises:
            KubectlError: where it ends with an error.
        """
        done = subprocess.run(
            [self.binary, *arguments],
            check=False,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=timeout,
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig)},
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl in the namespace."""
        return self.run("--namespace", self.namespace, *arguments, stdin=stdin, timeout=timeout)

    def get(self, path: str, **query: str) -> str | None:
        """Return what the API server answers at a path; None where nothing is there.

        Raises:
            KubectlError: for any other answer, and for none.
        """
        api = _client(self.kubeconfig)
        request = api.param_serialize("GET", path, query_params=list(query.items()), auth_settings=["BearerToken"])
        try:
            answer = api.call_api(*request, _request_timeout=READ_SECONDS)
            text = answer.read().decode()
        except (ApiException, HTTPError) as error:
            raise KubectlError(f"GET {path}: {error}") from error
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status != HTTPStatus.OK:
            raise KubectlError(f"GET {path}: {answer.status}: {text}")
        return str(text)

    def object(self, resource: str, name: str) -> dict[str, Any]:
        """Return an object of the namespace by its resource, such as ``pods``; an empty dict where it is missing."""
        return dict(json.loads(self.get(self._path(resource, name)) or "{}"))

    def objects(self, resource: str, labels: str = "") -> list[dict[str, Any]]:
        """Return the objects of the namespace that a label selector selects."""
        return list(json.loads(self.get(self._path(resource), labelSelector=labels) or "{}").get("items", []))

    def _path(self, resource: str, name: str = "") -> str:
        path = f"{GROUPS[resource]}/namespaces/{self.namespace}/{PLURALS.get(resource, resource)}"
        return f"{path}/{name}" if name else path

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests on the server's side."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))

    def condition(self, resource: str, name: str, condition: str) -> dict[str, Any]:
        """Return a condition of an object's status; empty where it is not there."""
        status = self.object(resource, name).get("status", {})
        return next((item for item in status.get("conditions", []) if item["type"] == condition), {})


@cache
def _client(kubeconfig: Path) -> client.ApiClient:
    return config.new_client_from_config(str(kubeconfig))
