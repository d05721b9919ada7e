"""The CRD: what is committed is what the models give, and what the models give is what an API server takes."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from detinf.api import crd
from detinf.api.structural import violations
from detinf.api.types import Spec

ROOT = Path(__file__).resolve().parents[4]


def parts(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, item in schema.get("properties", {}).items():
        found += parts(item, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            found += parts(schema[key], f"{path}[*]")
    return found


def spec_schema() -> dict[str, Any]:
    return dict(crd.schema()["properties"]["spec"])


def test_the_committed_file_is_the_generated_one() -> None:
    assert (ROOT / "crds" / crd.FILE_NAME).read_text(encoding="utf-8") == crd.render()


def test_the_file_is_the_definition_and_the_same_each_time() -> None:
    assert yaml.safe_load(crd.render()) == crd.definition()
    assert crd.render() == crd.render()


def test_every_field_has_a_description_for_kubectl_explain() -> None:
    described = [*parts(spec_schema(), "spec"), *parts(crd.schema()["properties"]["status"], "status")]
    assert [path for path, item in described if not path.endswith("[*]") and not item.get("description")] == []


def test_an_absent_part_is_filled_in_to_the_last_default_of_the_models() -> None:
    def filled(schema: dict[str, Any]) -> Any:
        value = schema["default"]
        if schema.get("properties"):
            inner = {name: filled(item) for name, item in schema["properties"].items() if "default" in item}
            return inner | value
        return value

    defaults = {name: filled(item) for name, item in spec_schema()["properties"].items() if "default" in item}
    spec = Spec.model_validate({"model": {"source": {}}}).model_dump(mode="json", by_alias=True, exclude_none=True)
    del spec["model"]
    assert defaults == spec


def test_every_rule_has_a_message_that_starts_with_its_field() -> None:
    for path, item in parts(crd.schema(), "root"):
        for rule in item.get("x-kubernetes-validations", []):
            first = rule["message"].split(" ")[0].split(".")[-1]
            fields = {path.rpartition(".")[2], *item.get("properties", {}), "resources", "tensor", "name"}
            assert first in fields, rule["message"]
            assert len(rule["message"].split()) > 5


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#/$defs/A"}, "$ref"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "anyOf"),
        ({"type": ["string", "null"]}, "expected one type"),
        ({}, "expected one type"),
        ({"type": "string", "maxLength": 1, "const": "x"}, "const"),
        ({"type": "string", "maxLength": 1, "title": "x"}, "title"),
        ({"type": "string", "maxLength": 1, "examples": ["x"]}, "examples"),
        ({"type": "string"}, "needs maxLength"),
        ({"type": "string", "maxLength": 9, "pattern": "^(?!a)"}, "look-around"),
        ({"type": "string", "maxLength": 9, "format": "binary"}, "format"),
        ({"type": "string", "maxLength": 9, "default": None}, "default None"),
        ({"type": "string", "maxLength": 9, "pattern": "^a$", "default": "b"}, "does not match"),
        ({"type": "string", "enum": ["a"], "default": "b"}, "none of"),
        ({"type": "integer", "minimum": 1, "default": 0}, "outside its limits"),
        ({"type": "integer", "exclusiveMinimum": 0}, "exclusiveMinimum"),
        ({"type": "array", "items": {"type": "integer"}}, "needs maxItems"),
        ({"type": "array", "maxItems": 3}, "needs one schema"),
        ({"type": "array", "maxItems": 3, "items": {"type": "integer"}, "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "maxItems": 3, "items": {"type": "integer"}, "prefixItems": []}, "prefixItems"),
        ({"type": "object", "additionalProperties": True}, "would be pruned"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "needs maxProperties"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "additionalProperties": {"type": "integer"},
                "maxProperties": 1,
            },
            "exclude each other",
        ),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"]}, "required b"),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "default": {}},
            "leaves out the required a",
        ),
        (
            {
                "type": "array",
                "maxItems": 1,
                "items": {"type": "object", "properties": {"a": {"type": "integer"}}},
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["a"],
            },
            "must be required or have a default",
        ),
        ({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1"}]}, "has no message"),
    ],
)
def test_what_an_api_server_refuses_or_drops_is_found(schema: dict[str, Any], words: str) -> None:
    found = list(violations(schema, "spec.x"))
    assert len(found) >= 1
    assert all(item.startswith("spec.x") for item in found)
    assert any(words in item for item in found), found


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "maxLength": 9, "pattern": r"^\d+(?:a|b)$", "default": "1a"},
        {"x-kubernetes-int-or-string": True, "maxLength": 32},
        {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3, "default": {}},
        {"type": "array", "maxItems": 2, "items": {"type": "string", "enum": ["a"]}, "default": []},
    ],
)
def test_what_an_api_server_takes_is_not_complained_about(schema: dict[str, Any]) -> None:
    assert list(violations(schema)) == []
