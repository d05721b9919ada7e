"""What the chart knows of the code: the form of its values, and the engine profiles of this release.

Both are generated (``make generate``), so that what the controller would refuse is refused by Helm, before anything is
changed. ``LAYOUT`` says which value each of the controller's settings comes from; a setting without one is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]
CHART = Path("charts/deterministic-inference")
LAYOUT = {
    "imagePullPolicy": "image.pullPolicy",
    "imagePullSecrets": "image.pullSecrets",
    "defaultProfile": "engine.defaultProfile",
    "profileImages": "engine.images",
    "profiles": "engine.profiles",
    "nodeLabels": "topology.nodeLabels",
    "readNodes": "topology.readNodes",
    "hostPathPrefixes": "models.hostPathPrefixes",
    "soloIntervalSeconds": "probe.soloIntervalSeconds",
    "widthIntervalSeconds": "probe.widthIntervalSeconds",
    "staleAfterSeconds": "probe.staleAfterSeconds",
    "gateTimeoutSeconds": "probe.gateTimeoutSeconds",
}
"""The chart's value for each setting, beside ``probeImage``, which is made of three."""
NAMESPACE = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"
IMAGE = {
    "type": "object",
    "properties": {
        "repository": {"type": "string", "minLength": 1},
        "tag": {"type": "string"},
        "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    },
    "anyOf": [{"properties": {name: {"minLength": 1}}} for name in ("tag", "digest")],
}
OWN: Mapping[str, Schema] = {
    "replicas": {"type": "integer", "minimum": 0, "maximum": 5},
    "image.controller": {"$ref": "#/$defs/image"},
    "image.probe": {"$ref": "#/$defs/image"},
    "crds.enabled": {"type": "boolean"},
    "crds.keep": {"type": "boolean"},
    "admissionPolicy.enabled": {"type": "boolean"},
    "watchNamespace": {"type": "string", "maxLength": 63, "pattern": NAMESPACE},
    "resources": {"type": "object"},
    "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
    "tolerations": {"type": "array", "items": {"type": "object"}},
    "priorityClassName": {"type": "string"},
}
"""Values that are no settings of the controller."""
ADMITTED = ("inherits", "abstract", "image", "usesDevices", "refused", "remove")
"""Of a profile, what the chart needs to say no in the controller's words."""


def values_schema() -> str:
    """Return ``values.schema.json``.

    Raises:
        LookupError: where the controller has a setting that the chart has no value for, or the other way round.
    """
    from detinf.controller import settings

    of_file = settings.schema()
    unknown = of_file["properties"].keys() ^ {*LAYOUT, "probeImage"}
    if unknown:
        raise LookupError(f"tools/chart.py: LAYOUT and the controller's settings differ in {', '.join(unknown)}")
    root: Schema = {"type": "object", "properties": {"global": {"type": "object"}}}
    for path, schema in (*OWN.items(), *((LAYOUT[name], of_file["properties"][name]) for name in LAYOUT)):
        *parents, last = path.split(".")
        at = root
        for parent in parents:
            at = at["properties"].setdefault(parent, {"type": "object", "properties": {}})
        at["properties"][last] = schema
    profile, parts = site_profile()
    root["properties"]["engine"]["properties"]["profiles"] = {"type": "array", "items": profile}
    root["$defs"] = {"image": IMAGE} | of_file["$defs"] | parts
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by `make generate` by tools/chart.py from the controller's settings.",
    }
    return json.dumps(head | closed(root), indent=2) + "\n"


def site_profile() -> tuple[Schema, Schema]:
    """Return the schema of an entry of ``engine.profiles``, and of the parts that it refers to.

    What it inherits may be left out, so that nothing but its name is required at its top.
    """
    from detinf.engines.profile import Profile

    whole = Profile.model_json_schema()
    own = {
        "inherits": {"type": "string", "minLength": 1},
        "abstract": {"type": "boolean"},
        "remove": {"type": "array", "items": {"type": "string"}},
    }
    schema = {
        "type": "object",
        "properties": whole["properties"] | own,
        "required": ["name"],
        "additionalProperties": False,
    }
    return schema, whole["$defs"]


def closed(schema: Any) -> Any:
    """Return a schema in which every object has exactly its properties, without what is no condition.

    A value that was set to null is one that Helm has removed: it is required, or the template would print nothing.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: closed(item) for name, item in value.items()}
        elif key not in {"title", "description", "default"}:
            result[key] = closed(value)
    if result.get("type") == "object" and "properties" in result:
        result.setdefault("additionalProperties", False)
        result.setdefault("required", [name for name in result["properties"] if name != "global"])
    return result


def shipped_profiles() -> str:
    """Return ``files/profiles.yaml``: of each profile of this release, as it is written, what the templates need."""
    from detinf.engines.catalogue import SHIPPED

    known = {
        name: {key: content[key] for key in ADMITTED if key in content} for name, content in sorted(SHIPPED.items())
    }
    for content in known.values():
        if "refused" in content:
            wanted = ("field", "values", "reason", "remedy")
            content["refused"] = [{key: fact[key] for key in wanted} for fact in content["refused"]]
    head = "# Written by `make generate` from operator/detinf/engines/profiles; change those, not this.\n"
    return head + yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=120)


def generated() -> dict[Path, str]:
    """Return the chart's generated files with their content."""
    return {
        CHART / "values.schema.json": values_schema(),
        CHART / "files" / "profiles.yaml": shipped_profiles(),
    }
