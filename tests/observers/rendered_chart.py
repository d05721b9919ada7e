"""The chart as the real helm renders it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from detinf_cluster.build import binary

CHART = Path(__file__).resolve().parents[2] / "charts" / "deterministic-inference"


class RefusedError(Exception):
    """helm refused the values; its words."""


def template(values: Mapping[str, Any], *more: str, release: str = "detinf", namespace: str = "detinf-system") -> str:
    """Return what the chart renders.

    Raises:
        RefusedError: where helm refuses the values.
    """
    command = [str(binary("helm")), "template", release, str(CHART), "--namespace", namespace, "--values", "-", *more]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


def manifests(values: Mapping[str, Any], *more: str, **where: str) -> list[dict[str, Any]]:
    """Return the manifests that the chart renders."""
    return [item for item in yaml.safe_load_all(template(values, *more, **where)) if item]


def settings(values: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """Return the file of settings that the controller reads in its pod."""
    (deployment,) = manifests(values, "--show-only", "templates/deployment.yaml", *more)
    template_of_pod = deployment["spec"]["template"]
    (volume,) = (item for item in template_of_pod["spec"]["volumes"] if item["name"] == "config")
    (item,) = volume["downwardAPI"]["items"]
    (container,) = template_of_pod["spec"]["containers"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "config")
    assert f"--config={mount['mountPath']}/{item['path']}" in container["args"]
    key = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
    read: dict[str, Any] = yaml.safe_load(template_of_pod["metadata"]["annotations"][key])
    return read
