"""What all documents share: camelCase JSON, canonical bytes, digests, and errors that name the field."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from detinf.guard import canonical

SCHEMA = 1


class DocumentError(ValueError):
    """A document that cannot be read; the message names the document, the field, the value and the remedy."""


class Part(BaseModel):
    """A part of a document. Unknown fields are ignored, so that a reader of schema N reads N + 1's optional ones."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="strings",
    )


class Document(Part):
    """One of the documents that cross a process boundary.

    Their digest is taken over the canonical bytes that were written, never over a re-encoding: a reader that drops a
    field it does not know would otherwise compute another digest.
    """

    KIND: ClassVar[str]

    schema_version: Literal[1] = Field(default=1, alias="schema")
    """The version of the document's schema."""

    def canonical(self) -> bytes:
        """Return the canonical bytes; absent fields are left out."""
        return canonical.encode(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def digest(self) -> str:
        """Return ``sha256:<hex>`` of the canonical bytes."""
        return canonical.digest_bytes(self.canonical())

    @classmethod
    def parse(cls, data: bytes | str, *, digest: str | None = None) -> Self:
        """Read a document.

        Args:
            data: the document's bytes.
            digest: where given, what the bytes must hash to.

        Raises:
            DocumentError: where the bytes are not this document, or not the bytes that were promised.
        """
        raw = data.encode() if isinstance(data, str) else data
        if digest is not None and (seen := canonical.digest_bytes(raw)) != digest:
            raise DocumentError(f"{cls.KIND}: the bytes hash to {seen}, expected {digest}; deliver it again")
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise DocumentError(
                f"{cls.KIND}: {where}: {first['msg']} (got {first.get('input')!r:.120}); "
                f"write it with a schema {SCHEMA} writer"
            ) from error

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the document's JSON Schema, as written under ``docs/reference/schemas``."""
        schema = cls.model_json_schema(by_alias=True, mode="serialization")
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["title"] = cls.KIND
        return schema
