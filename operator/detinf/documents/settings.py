"""The probe's settings: schedule and relations. Mutable; nothing here changes outputs."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from detinf.api.types import ProbeMode, Promise
from detinf.documents.base import Document, Part


class GateSettings(Part):
    """The check that every lifetime passes before it serves."""

    widths: list[int]
    """Requests in one decode step that S03 must prove, ascending, none above ``maxNumSeqs``."""
    timeout_seconds: int
    """How long one attempt may take before it is INCONCLUSIVE(Timeout) and starts again."""


class ScheduleSettings(Part):
    """How often the relations are checked while serving, in seconds."""

    solo_interval_seconds: int
    """S01 and S02."""
    width_interval_seconds: int
    """S03 at one width, and one of S04 and S05, each time."""
    stale_after_seconds: int
    """A cell without a conclusive comparison for this long is stale."""


class StimulusWitness(StrEnum):
    """What proves that a stimulus could not disturb an engine."""

    NO_PARTIAL_PREFILL = "NoPartialPrefill"
    """The step trace has no step that read a part of a prompt."""
    NO_PREFIX_CACHE_QUERIES = "NoPrefixCacheQueries"
    """The engine's counter of tokens that were looked up in its prefix cache is 0."""


class NotApplicable(Part):
    """Relations that cannot be checked on this engine, since what they disturb is not in it."""

    relations: list[str]
    """Such as S06."""
    witness: StimulusWitness
    reason: str


class ProbeSettings(Document):
    """What the probe is to do."""

    KIND: ClassVar[str] = "probe-settings"

    promise: Promise
    served_model_name: str
    gate: GateSettings
    schedule: ScheduleSettings
    mode: ProbeMode | None = None
    """Observe: the gate measures and lets the engine serve, whatever it finds; else Enforce."""
    not_applicable: list[NotApplicable] | None = None
    metrics: dict[str, str] | None = None
    """Names of the engine's series, counters without ``_total``, by what the probe needs them for; else vLLM's."""
