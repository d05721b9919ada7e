"""What the API server's audit log says of one user."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detinf.api import names

WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@dataclass(frozen=True)
class Audit:
    """The audit log, as one user's requests."""

    path: Path
    user: str

    def events(self) -> list[dict[str, Any]]:
        """Return the user's requests that were answered, in their order."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [event for line in lines if (event := json.loads(line))["user"]["username"] == self.user]

    def writes(self, namespace: str | None = None) -> list[str]:
        """Return the user's writes, as VERB URI; those in one namespace, or all."""
        return [
            f"{event['verb']} {event['requestURI']}"
            for event in self.events()
            if event["verb"] in WRITES and namespace in {None, event["objectRef"].get("namespace")}
        ]

    def looks(self, namespace: str, name: str) -> int:
        """Return how often the user read a resource: a controller's passes begin so.

        One resource's passes do not overlap, so the next one's first read says that all of a pass is in the log.
        """
        wanted = ("get", namespace, names.PLURAL, name)
        return sum(
            (event["verb"], target.get("namespace"), target["resource"], target.get("name")) == wanted
            for event in self.events()
            if (target := event["objectRef"])
        )

    def refused(self) -> list[str]:
        """Return what the user's rights did not cover."""
        return [
            f"{event['verb']} {event['requestURI']}"
            for event in self.events()
            if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
        ]

    def used(self) -> set[tuple[str, str]]:
        """Return the rights that were used, as (resource, verb)."""
        rights = set()
        for event in self.events():
            target = event["objectRef"]
            subresource = f"/{target['subresource']}" if target.get("subresource") else ""
            rights.add((target["resource"] + subresource, event["verb"]))
            if event["verb"] == "patch" and event.get("responseStatus", {}).get("code") == 201:
                rights.add((target["resource"], "create"))  # an apply of something new is held to both rights
        return rights


def granted(role: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the rights of a Role, as (resource, verb)."""
    return {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
