"""What all documents share: camelCase JSON, canonical bytes, digests, and errors that name the field."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from detinf.guard import canonical

SCHEMA = 1
LARGEST_BYTES = 16 * 1024 * 1024
"""No document of ours is larger by far; what is, is not read."""


SHOWN = 120
"""Characters of what was read that an error repeats."""


def _shown(value: object) -> str:
    """Return a value as an error shows it; Python writes no integer of thousands of digits, and nobody reads one."""
    try:
        return repr(value)[:SHOWN]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too large to be shown"


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
            DocumentError: where the bytes are not this document, or not the bytes that were promised, or hold what has
                no canonical form (floats, integers beyond 2**53, too deep a nesting): nobody could compare it.
        """
        try:
            raw = data.encode() if isinstance(data, str) else data
        except UnicodeEncodeError as error:
            raise DocumentError(f"{cls.KIND}: {error.reason}; deliver it again") from error
        if len(raw) > LARGEST_BYTES:
            raise DocumentError(f"{cls.KIND}: {len(raw)} bytes, {LARGEST_BYTES} at most; deliver it again")
        if digest is not None and (seen := canonical.digest_bytes(raw)) != digest:
            raise DocumentError(f"{cls.KIND}: the bytes hash to {seen}, expected {digest}; deliver it again")
        writer = f"write it with a schema {SCHEMA} writer"
        try:
            found = cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:SHOWN] or "document"
            raise DocumentError(
                f"{cls.KIND}: {where}: {first['msg'][:SHOWN]} (got {_shown(first.get('input'))}); {writer}"
            ) from error
        try:
            found.canonical()
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"{cls.KIND}: {str(error)[:SHOWN]}; {writer}") from error
        return found

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the document's JSON Schema, as written under ``docs/reference/schemas``."""
        schema = cls.model_json_schema(by_alias=True, mode="serialization")
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["title"] = cls.KIND
        return schema
