"""Why a comparison was not conclusive, or what it found: one word each, explained in docs/reference/verdicts.md."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Reasons of verdicts."""

    EQUAL = "Equal"
    DIFFERENT = "Different"
    # The answer did not arrive whole.
    TRANSPORT = "Transport"
    TIMEOUT = "Timeout"
    CANCELLED = "Cancelled"
    RATE_LIMITED = "RateLimited"
    UNAVAILABLE = "Unavailable"
    HTTP_STATUS = "HttpStatus"
    TRUNCATED = "Truncated"
    # The answer is none that could be compared.
    GARBAGE = "Garbage"
    SHAPE = "Shape"
    FINISH_REASON = "FinishReason"
    PRECISION_LOST = "PrecisionLost"
    FLOOR_VALUE = "FloorValue"
    # The engine is not the one that was asked.
    ENGINE_CHANGED = "EngineChanged"
    # The disturbance was not proven.
    NOT_BATCHED = "NotBatched"
    METRICS_MISSING = "MetricsMissing"
    TRACE_MISSING = "TraceMissing"
    NOT_MIXED = "NotMixed"
    # The stimulus cannot disturb this engine, as its witness shows; or it was to be so, and is not.
    NOT_APPLICABLE = "NotApplicable"
    APPLIES = "Applies"
    # The reference does not fit this engine.
    NOT_COMPARABLE = "NotComparable"
    # Users come first.
    BUSY = "Busy"


NO_ANSWER = (
    *(Reason.TRANSPORT, Reason.TIMEOUT, Reason.RATE_LIMITED, Reason.UNAVAILABLE, Reason.HTTP_STATUS, Reason.TRUNCATED),
    *(Reason.GARBAGE, Reason.SHAPE, Reason.FINISH_REASON, Reason.PRECISION_LOST, Reason.FLOOR_VALUE),
)
"""Why there was no answer to compare; so may any round end."""
INCONCLUSIVE: dict[str, tuple[Reason, ...]] = {
    "S01": (*NO_ANSWER, Reason.ENGINE_CHANGED),
    "S02": (*NO_ANSWER, Reason.ENGINE_CHANGED),
    "S03": (*NO_ANSWER, Reason.ENGINE_CHANGED, Reason.NOT_BATCHED, Reason.METRICS_MISSING),
    "S04": (*NO_ANSWER, Reason.ENGINE_CHANGED, Reason.NOT_BATCHED, Reason.TRACE_MISSING),
    "S05": (*NO_ANSWER, Reason.ENGINE_CHANGED, Reason.NOT_BATCHED, Reason.TRACE_MISSING, Reason.NOT_MIXED),
}
"""By relation the reasons for which one of its rounds may be INCONCLUSIVE."""
BACK_OFF_SECONDS = (1, 2, 4, 8, 15, 30)
"""Between what was INCONCLUSIVE and the next attempt at it."""


class InconclusiveError(Exception):
    """A comparison that proves nothing, with its reason and what was seen."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Keep the reason."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
