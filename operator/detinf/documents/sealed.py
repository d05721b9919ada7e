"""Sealed entries: a document in a mutable ConfigMap, behind the digest of its bytes.

A kubelet may bring an entry late, and a person may edit it; what does not hash to its first line is not used.
"""

from __future__ import annotations

from detinf.documents.base import DocumentError
from detinf.guard.canonical import digest_bytes


def seal(data: bytes) -> str:
    """Return the entry: one line with the digest, then the bytes."""
    return f"{digest_bytes(data)}\n{data.decode()}"


def unseal(entry: str) -> tuple[str, bytes]:
    """Return (digest, bytes) of an entry.

    Raises:
        DocumentError: where the bytes are not what the first line says.
    """
    promised, _, body = entry.partition("\n")
    data = body.encode()
    if (seen := digest_bytes(data)) != promised:
        raise DocumentError(
            f"sealed entry: the bytes hash to {seen}, the seal says {promised[:80]!r}; deliver it again"
        )
    return promised, data
