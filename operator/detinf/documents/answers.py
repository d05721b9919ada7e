"""Requests with a known answer: references, candidates and baselines."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from detinf.documents.base import Document, Part

Float32Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{8})*$")]
"""Eight hexadecimal digits a position: the big-endian bits of the chosen token's float32 logprob."""

TopHex = Annotated[str, Field(pattern=r"^([0-9a-f]{16})*$")]
"""Sixteen hexadecimal digits a token: its id, and the bits of its float32 logprob."""


class Reference(Part):
    """One fixed request, sent as token ids."""

    name: str
    prompt_ids: list[int]
    max_tokens: int
    """Exactly this many tokens are generated (``min_tokens`` equal, ``ignore_eos``)."""
    temperature_milli: int
    """Temperature in thousandths: 0 is greedy, 1000 samples from the distribution itself."""
    seed: int
    kind: str | None = None
    """What it is for: random, text, entropy, margin or tie."""
    logprobs: int | None = None
    """How many of the most probable tokens are asked for at each position; 1 where absent."""


class References(Document):
    """The references of one resource: proposed once by a probe, frozen by the controller, the same ever after."""

    KIND: ClassVar[str] = "references"

    vocabulary_size: int
    special_ids: list[int]
    """Ids that no prompt may hold."""
    max_model_len: int
    seed: int
    items: list[Reference]


class Answer(Part):
    """What an engine answered to one reference."""

    token_ids: list[int]
    logprob_bits: Float32Hex
    finish_reason: str
    top_bits: list[TopHex] | None = None
    """The most probable tokens of each position; in evidence alone."""


class AnswerDigests(Part):
    """Digests of an answer, one for each thing that may differ."""

    ids: str
    """Of the prompt, the token ids and the finish reason."""
    logprobs: str
    """Of these and the logprobs' bits."""
    top: str | None = None
    """Of these and the most probable tokens with theirs."""


class Candidate(Document):
    """The answers of one lifetime, offered for the first baseline."""

    KIND: ClassVar[str] = "candidate"

    boot: str
    plan_digest: str
    fingerprint: str
    references_digest: str
    answers: dict[str, Answer]
    hardware: dict[str, Any] | None = None
    """What the engine's guard read of the hardware: chip, hbmGiB, driver, firmware, link, devices."""
    identity: dict[str, str] | None = None
    """What the engine is beside plan and hardware, as text by part and key (``detinf.documents.identity``): variables,
    packages, files, model."""
    image_id: str | None = None
    """The imageID of the engine's container as its kubelet told it; from the controller, which alone can know."""


class Baseline(Document):
    """The agreed answers for one fingerprint; immutable."""

    KIND: ClassVar[str] = "baseline"

    fingerprint: str
    references_digest: str
    lifetimes: int
    """How many lifetimes agreed."""
    answers: dict[str, Answer]
    hardware: dict[str, Any] | None = None
    """What the engine's guard read of the hardware: chip, hbmGiB, driver, firmware, link, devices."""
    plan_digest: str | None = None
    """Of the plan that the fingerprint is of."""
    identity: dict[str, str] | None = None
    """What the engine is beside plan and hardware, as text by part and key (``detinf.documents.identity``): variables,
    packages, files, model."""
    image_id: str | None = None
    """The imageID of the engine's container as its kubelet told it: replicas of this plan run no other image."""
