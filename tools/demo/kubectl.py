"""kubectl, as the demo and the end-to-end tests call it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

    def json(self, *arguments: str) -> dict[str, Any]:
        """Return the parsed output of ``kubectl ... -o json``; an empty dict where the object is missing."""
        text = self(*arguments, "--ignore-not-found", "-o", "json")
        parsed: dict[str, Any] = json.loads(text) if text.strip() else {}
        return parsed

    def items(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the items of a list."""
        return list(json.loads(self(*arguments, "-o", "json")).get("items", []))

    def apply(self, *manifests: dict[str, Any]) -> None:
        """Apply manifests on the server's side."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(document))

    def condition(self, kind: str, name: str, condition: str) -> dict[str, Any]:
        """Return a condition of an object's status; empty where it is not there."""
        status = self.json("get", kind, name).get("status", {})
        return next((item for item in status.get("conditions", []) if item["type"] == condition), {})
