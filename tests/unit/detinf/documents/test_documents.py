"""The documents are frozen: what was written once is read for ever, byte for byte."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from detinf.documents import ALL, Document, DocumentError, seal, unseal
from detinf.documents.generate import render
from detinf.guard.canonical import digest_bytes

ROOT = Path(__file__).resolve().parents[4]
EXAMPLES = ROOT / "tests" / "fixtures" / "documents"
DIGESTS = json.loads((EXAMPLES / "digests.json").read_text(encoding="utf-8"))
KINDS = {document.KIND: document for document in ALL}
SCHEMAS = {name.removesuffix(".json"): json.loads(text) for name, text in render().items()}
ENTRIES = sorted(DIGESTS)


def kind_of(example: str) -> type[Document]:
    return KINDS[example.partition(".")[0]]


def read(example: str) -> bytes:
    return (EXAMPLES / f"{example}.json").read_bytes()


def floats(value: Any, path: str = "$") -> list[str]:
    if isinstance(value, float):
        return [path]
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in floats(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in floats(item, f"{path}[{index}]")]
    return []


def test_every_document_has_an_example_and_every_example_a_digest() -> None:
    assert {example.partition(".")[0] for example in ENTRIES} == set(KINDS)
    assert {path.stem for path in EXAMPLES.glob("*.json")} == {*ENTRIES, "digests"}


@pytest.mark.parametrize("example", ENTRIES)
def test_an_example_that_is_read_and_written_keeps_its_bytes_and_digest(example: str) -> None:
    data = read(example)
    document = kind_of(example).parse(data, digest=DIGESTS[example])
    assert document.canonical() == data
    assert document.digest() == DIGESTS[example] == digest_bytes(data)


@pytest.mark.parametrize("example", ENTRIES)
def test_an_example_is_valid_under_the_published_schema(example: str) -> None:
    schema = SCHEMAS[kind_of(example).KIND]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(read(example)))


@pytest.mark.parametrize("example", ENTRIES)
def test_an_example_holds_no_float(example: str) -> None:
    assert floats(json.loads(read(example))) == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_missing_field_is_refused_by_schema_and_model_alike(kind: str) -> None:
    required = [name for name in SCHEMAS[kind]["required"] if name != "schema"]
    whole = json.loads(read(kind))
    for name in required:
        lacking = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(jsonschema.ValidationError, match=name):
            jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(lacking)
        with pytest.raises(DocumentError, match=f"{kind}: {name}: "):
            KINDS[kind].parse(json.dumps(lacking))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_unknown_optional_field_is_tolerated(kind: str) -> None:
    newer = json.loads(read(kind)) | {"addedLater": {"in": ["schema 1"]}}
    jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(newer)
    document = KINDS[kind].parse(json.dumps(newer))
    assert document.canonical() == read(kind)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_another_schema_is_refused_with_the_field_the_value_and_the_remedy(kind: str) -> None:
    newer = json.loads(read(kind)) | {"schema": 2}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMAS[kind]).validate(newer)
    with pytest.raises(DocumentError) as raised:
        KINDS[kind].parse(json.dumps(newer))
    assert str(raised.value).startswith(f"{kind}: schema: ")
    assert "got 2" in str(raised.value)
    assert "schema 1 writer" in str(raised.value)


def test_bytes_that_are_not_the_promised_ones_are_refused_with_both_digests() -> None:
    data = read("baseline").replace(b'"lifetimes":1', b'"lifetimes":2')
    with pytest.raises(DocumentError) as raised:
        KINDS["baseline"].parse(data, digest=DIGESTS["baseline"])
    assert digest_bytes(data) in str(raised.value)
    assert DIGESTS["baseline"] in str(raised.value)


def test_something_that_is_no_json_is_refused_as_that_document() -> None:
    with pytest.raises(DocumentError, match=r"^plan: document: Invalid JSON"):
        KINDS["plan"].parse(b"\xff\x00 garbage")


@pytest.mark.parametrize("example", ENTRIES)
def test_a_sealed_entry_gives_back_digest_and_bytes(example: str) -> None:
    assert unseal(seal(read(example))) == (DIGESTS[example], read(example))


def test_a_sealed_entry_that_was_edited_is_refused() -> None:
    entry = seal(read("baseline")).replace('"lifetimes":1', '"lifetimes":9')
    with pytest.raises(DocumentError, match="deliver it again"):
        unseal(entry)


def test_the_references_of_the_examples_belong_together() -> None:
    candidate, baseline = json.loads(read("candidate")), json.loads(read("baseline"))
    assert candidate["referencesDigest"] == baseline["referencesDigest"] == DIGESTS["references"]
    assert candidate["planDigest"] == DIGESTS["plan"]
    assert json.loads(read("report"))["baselineDigest"] == DIGESTS["baseline"]


def test_the_committed_schemas_are_the_generated_ones() -> None:
    folder = ROOT / "docs" / "reference" / "schemas"
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")} == render()
