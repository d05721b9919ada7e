"""The documents' JSON Schemas: ``python -m detinf.documents.generate`` writes them into ``docs/reference/schemas``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from detinf.documents import ALL, Document

FOLDER = Path("docs/reference/schemas")


def tidied(node: Any, *, names: bool = False) -> Any:
    """Return a schema without the titles that pydantic makes of field names.

    Args:
        node: any part of the schema.
        names: whether the keys of this part are field names, among which a ``title`` would be a field.
    """
    if isinstance(node, list):
        return [tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: tidied(value, names=key in {"properties", "$defs"} and not names)
        for key, value in node.items()
        if names or key != "title"
    }


def schema_of(document: type[Document]) -> dict[str, Any]:
    """Return a document's schema: what a writer has to write."""
    schema = document.json_schema()
    schema |= {"required": ["schema", *schema["required"]]}
    return {**tidied(schema), "title": document.KIND}


def render() -> dict[str, str]:
    """Return each schema's text by file name; the same models give the same bytes."""
    return {
        f"{document.KIND}.json": json.dumps(schema_of(document), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for document in ALL
    }


def main() -> int:
    """Write the files below the working directory."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in render().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stdout.write(f"wrote {FOLDER / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
