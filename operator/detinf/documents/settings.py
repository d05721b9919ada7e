"""The probe's settings: schedule and relations. Mutable; nothing here changes outputs."""

from __future__ import annotations

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


class ProbeSettings(Document):
    """What the probe is to do."""

    KIND: ClassVar[str] = "probe-settings"

    promise: Promise
    served_model_name: str
    gate: GateSettings
    schedule: ScheduleSettings
    mode: ProbeMode | None = None
    """Observe: the gate measures and lets the engine serve, whatever it finds; else Enforce."""
