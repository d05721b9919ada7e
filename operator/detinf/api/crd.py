"""The CustomResourceDefinition, from the models: ``python -m detinf.api.crd`` writes it into ``crds/``.

pydantic's JSON Schema is no structural schema: references are inlined, an optional field loses its null, and defaults
of nested parts become ``{}``, without which the API server would not fill in what is inside an absent part.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from detinf.api import names
from detinf.api.rules import VALIDATIONS, ApiModel
from detinf.api.structural import Schema, violations
from detinf.api.types import DeterministicInference

FILE_NAME = f"{names.GROUP}_{names.PLURAL}.yaml"
HEADER = "# Written by `make generate` from the models in operator/detinf/api; change that, not this.\n"

DROPPED = frozenset({"title", "$defs", "examples", "deprecated", "readOnly"})
"""What pydantic writes and a CRD does not carry."""


def _column(name: str, kind: str, path: str, description: str, *, priority: int = 0) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": priority} if priority else column


def _condition(kind: str, member: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{member}'


COLUMNS = [
    _column("Ready", "string", _condition("Ready", "status"), "Whether it serves, proven."),
    _column("Reason", "string", _condition("Ready", "reason"), "Why it is ready or not."),
    _column("Model", "string", ".status.model", "Name in the API."),
    _column("Replicas", "integer", ".spec.replicas", "Engines asked for."),
    _column("Serving", "integer", ".status.readyReplicas", "Engines that serve."),
    _column("Invariant", "string", _condition("OutputsInvariant", "status"), "Whether outputs are proven equal, now."),
    _column("Mode", "string", ".status.mode", "Whether a divergence is acted on (Enforce) or only reported (Observe)."),
    _column("URL", "string", ".status.url", "Where to send requests, inside the cluster.", priority=1),
    _column("Revision", "string", ".status.revision", "Digest of the plan.", priority=1),
    _column("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
    _column("Message", "string", _condition("Ready", "message"), "Why, and what to do about it.", priority=1),
]


class _Generator(GenerateJsonSchema):
    """pydantic's generator, with the rules of a part and the defaults that come from a factory."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return a part's schema with its rules."""
        result = super().model_schema(schema)
        part = schema["cls"]
        if issubclass(part, ApiModel) and part.RULES:
            result[VALIDATIONS] = list(part.RULES)
        return result

    def get_default_value(self, schema: core_schema.WithDefaultSchema) -> Any:
        """Return a field's default; a list or map that a factory makes has one too."""
        factory = schema.get("default_factory")
        if factory is not None and not schema.get("default_factory_takes_data"):
            return factory()  # type: ignore[call-arg]  # takes no data, as just asked
        return super().get_default_value(schema)


def _one_choice(choices: list[Schema], *, int_or_string: bool) -> Schema:
    """Return the one schema of a union that a structural schema can hold: something or null, a number or its text."""
    real = [choice for choice in choices if choice != {"type": "null"}]
    if int_or_string:
        real = [{key: value for choice in real for key, value in choice.items() if key != "type"}]
    if len(real) != 1:
        raise ValueError(f"a union has no structural schema: {choices}; use a part with one member for each choice")
    return real[0]


def _structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a JSON Schema of pydantic in the form that the API server takes."""
    free = {"additionalProperties"} if "x-kubernetes-preserve-unknown-fields" in schema else set()
    merged = {key: value for key, value in schema.items() if key not in DROPPED | free}
    if reference := merged.pop("$ref", None):
        return _structural({**definitions[reference.rpartition("/")[2]], **merged}, definitions)
    if choices := merged.pop("anyOf", None):
        choice = _one_choice(choices, int_or_string="x-kubernetes-int-or-string" in merged)
        return _structural({**choice, **merged}, definitions)
    if merged.get("default", ...) is None:
        del merged["default"]
    if "properties" in merged:
        merged["properties"] = {name: _structural(item, definitions) for name, item in merged["properties"].items()}
        if "default" in merged:
            merged["default"] = {}
    for key in ("additionalProperties", "items"):
        if key in merged:
            merged[key] = _structural(merged[key], definitions)
    if merged.get("type") == "integer":
        merged.setdefault("format", "int64")
    if "description" in merged:
        merged["description"] = merged["description"].replace("``", "`")
    return dict(sorted(merged.items(), key=lambda item: _ORDER.get(item[0], len(_ORDER))))


_ORDER = {key: place for place, key in enumerate(("description", "type", "format", "enum", "default", "required"))}


def schema() -> Schema:
    """Return the structural schema of the resource.

    Raises:
        ValueError: where the API server would not take it.
    """
    generated = DeterministicInference.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    definitions = generated.get("$defs", {})
    root = _structural(generated, definitions)
    envelope = {
        "apiVersion": {"description": "Version of the schema of this object.", "type": "string"},
        "kind": {"description": "Kind of this object.", "type": "string"},
        "metadata": {"type": "object"},
    }
    # Until the controller has seen a resource, kstatus and Argo CD would take it for well: Flux's own way out.
    root["properties"]["status"]["default"] = {"observedGeneration": -1}
    problems = [
        problem
        for part, bounded in (("spec", True), ("status", False))
        for problem in violations(root["properties"][part], part, bounded=bounded)
    ]
    if problems:
        raise ValueError("\n".join(problems))
    root["properties"] = envelope | root["properties"]
    return root


def definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": COLUMNS,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "schema": {"openAPIV3Schema": schema()},
                }
            ],
        },
    }


def render() -> str:
    """Return the file's text; the same models give the same bytes."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            del data
            return True

    return HEADER + yaml.dump(definition(), Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)


def main() -> int:
    """Write the file into ``crds/`` of the working directory."""
    target = Path("crds") / FILE_NAME
    target.parent.mkdir(exist_ok=True)
    target.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
