"""The attestation: what one process saw to be true, for one boot.

The guard writes it with the standard library alone; this model is how everyone else reads it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from detinf.documents.base import Document, Part


class Vocabulary(Part):
    """Which token ids exist."""

    size: int
    special_ids: list[int]


class Attestation(Document):
    """One process' attestation; ``<shared>/attestation-<process>.json``."""

    KIND: ClassVar[str] = "attestation"

    process: str
    boot: str
    """32 hexadecimal digits, fresh for each start of the engine."""
    boot_started_unix_ms: int
    plan_digest: str
    expected_fingerprint: str
    """From the plan and what the guard read, before the engine started."""
    fingerprint: str
    """Attested. Ready needs it equal to the expected one."""
    identity: dict[str, Any]
    """Tier N: what the fingerprint hashes."""
    placement: dict[str, Any]
    """Tier P: recorded, never hashed."""
    vocabulary: Vocabulary
    checks: list[str]
    """Names of the checks that held, in the order they ran."""
    observed: dict[str, str] | None = None
    """What a process of the engine found: JSON text by configuration path or symbol."""
    counters: dict[str, dict[str, str]] | None = None
    """Of the guard: error counters by NPU as npu-smi printed them when the engine started; volatile, never hashed."""
    boards: dict[str, dict[str, str]] | None = None
    """Of the guard: by NPU what tells it from others, as npu-smi printed it; never hashed, replicas differ in it."""
    overridden: dict[str, dict[str, str]] | None = None
    """Of the guard: variables by who had set them otherwise than the plan (``container``: its image, a webhook;
    ``scripts``), with the values that are not in effect; never hashed."""
    model: dict[str, str | int | bool] | None = None
    """Of the guard: what kind of model it is, by members of its config.json (``detinf.guard.model_shape``)."""
    model_files: dict[str, str] | None = None
    """Of the guard: every file of the model by relative path, ``sha256:<hex>``, or ``bytes:<size>`` of weights; the
    identity's ``modelFiles`` is the digest of just this."""
