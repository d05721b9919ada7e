"""The probe's metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detinf.documents import Verdict
from detinf.probe.comparison import Observable
from detinf.probe.coverage import Ledger
from detinf.probe.digests import digest48
from detinf.probe.reasons import INCONCLUSIVE, Reason
from detinf.probe.verdict import Round

MOST_ANSWERS = 16
"""References whose answers are shown."""
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)
WITNESSES = {"S01": ("W6",), "S02": ("W6",), "S03": ("W0", "W2"), "S04": ("W0",), "S05": ("W0",)}
"""By relation what a conclusive round of it may be proven by."""
BUSY = "busy"
PHASES = ("prefill", "decode")


def outcomes(relation: str) -> Iterator[tuple[str, Reason]]:
    """Yield (verdict, reason) of every outcome that a round of a relation may have."""
    yield "pass", Reason.EQUAL
    yield "fail", Reason.DIFFERENT
    for reason in INCONCLUSIVE[relation]:
        yield "inconclusive", reason


class Exported:
    """What ``/metrics`` shows."""

    def __init__(self) -> None:
        """Register everything, so that a series that never moved is there with 0."""
        self.registry = CollectorRegistry()
        relation = ["relation"]
        self.rounds = Counter(
            "detinf_probe_runs",
            "Rounds by verdict and reason.",
            ["relation", "verdict", "reason"],
            registry=self.registry,
        )
        self.comparisons = Counter(
            "detinf_probe_comparisons", "Answers compared.", ["relation", "result"], registry=self.registry
        )
        self.mismatches = Counter(
            "detinf_probe_mismatches",
            "Confirmed differences.",
            ["relation", "observable", "phase"],
            registry=self.registry,
        )
        self.last_conclusive = Gauge(
            "detinf_probe_last_conclusive_timestamp_seconds", "Last PASS or FAIL.", relation, registry=self.registry
        )
        self.last_pass = Gauge(
            "detinf_probe_last_pass_timestamp_seconds", "Last PASS.", relation, registry=self.registry
        )
        self.cells = Gauge("detinf_probe_cells", "Cells of the ledger by state.", ["state"], registry=self.registry)
        self.width = Histogram(
            "detinf_probe_witness_width",
            "Width that was proven, and by what.",
            ["relation", "witness"],
            buckets=WIDTHS,
            registry=self.registry,
        )
        self.duration = Histogram(
            "detinf_probe_duration_seconds", "Time of a round.", relation, buckets=SECONDS, registry=self.registry
        )
        self.tokens = Counter(
            "detinf_probe_tokens", "Tokens of the probe's own requests.", ["kind"], registry=self.registry
        )
        self.skipped = Counter("detinf_probe_skipped", "Rounds not run.", ["reason"], registry=self.registry)
        self.gate = Gauge("detinf_probe_gate_passed", "1 when this boot passed the gate.", registry=self.registry)
        self.ready = Gauge("detinf_probe_ready", "1 when the engine may be sent users.", registry=self.registry)
        self.attested = Gauge(
            "detinf_probe_attested",
            "1 when a process of the engine has attested for the present boot.",
            ["process"],
            registry=self.registry,
        )
        self.info = Gauge(
            "detinf_probe_info",
            "Identity of the engine.",
            ["fingerprint", "references", "baseline"],
            registry=self.registry,
        )
        self.answers = Gauge(
            "detinf_probe_digest48",
            "48 bits of the digest of what is promised of a reference's answer, as this engine gave it alone last.",
            ["fingerprint", "reference"],
            registry=self.registry,
        )
        self._answered: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """Show 0 for everything that may be counted: where a series begins with its first event, nobody sees that.

        ``increase()`` of a series that came into being with 1 is 0.
        """
        for relation in INCONCLUSIVE:
            for verdict, reason in outcomes(relation):
                self.rounds.labels(relation, verdict, str(reason))
            for observable in Observable:
                for phase in PHASES:
                    self.mismatches.labels(relation, str(observable), phase)
            for result in ("equal", "different"):
                self.comparisons.labels(relation, result)
            for witness in WITNESSES[relation]:
                self.width.labels(relation, witness)
            self.duration.labels(relation)
        for kind in ("prompt", "generated"):
            self.tokens.labels(kind)
        self.skipped.labels(BUSY)

    def book(self, outcome: Round, *, now: float, seconds: float) -> None:
        """Count a round."""
        relation, verdict = outcome.relation, outcome.verdict
        self.rounds.labels(relation, verdict.value.lower(), str(outcome.reason)).inc()
        self.duration.labels(relation).observe(seconds)
        if verdict is Verdict.INCONCLUSIVE:
            return
        self.last_conclusive.labels(relation).set(now)
        different = 0
        if outcome.finding is not None:
            different = 1
            difference = outcome.finding.difference
            self.mismatches.labels(relation, str(difference.observable), difference.phase).inc()
        else:
            self.last_pass.labels(relation).set(now)
        self.comparisons.labels(relation, "equal").inc(outcome.comparisons - different)
        self.comparisons.labels(relation, "different").inc(different)
        if outcome.witness.kind != "None":
            self.width.labels(relation, outcome.witness.kind).observe(outcome.witness.width)

    def count_tokens(self, tokens: tuple[int, int]) -> None:
        """Count (prompt, generated) tokens of our own requests."""
        for kind, number in zip(("prompt", "generated"), tokens, strict=True):
            self.tokens.labels(kind).inc(number)

    def restore(self, ledger: Ledger) -> None:
        """Show when a probe before this one saw the relations hold last."""
        for cell in ledger.listed():
            of_relation = [other for other in ledger.listed() if other.relation == cell.relation]
            for gauge, times in (
                (self.last_conclusive, [other.last_conclusive_unix for other in of_relation]),
                (self.last_pass, [other.last_pass_unix for other in of_relation]),
            ):
                if known := [when for when in times if when is not None]:
                    gauge.labels(cell.relation).set(max(known))

    def show_answer(self, reference: str, fingerprint: str, digest: str) -> None:
        """Show the digest of an answer, of the first references alone; a double holds 48 bits exactly."""
        if len(self._answered) < MOST_ANSWERS:
            self._answered.add(reference)
        if reference in self._answered:
            self.answers.labels(fingerprint, reference).set(digest48(digest))

    def forget_answers(self) -> None:
        """Forget the answers of an earlier boot."""
        self.answers.clear()
        self._answered.clear()

    def show_attested(self, processes: Mapping[str, bool]) -> None:
        """Show who has attested and who is missing."""
        self.attested.clear()
        for process, present in processes.items():
            self.attested.labels(process).set(present)

    def refresh(self, ledger: Ledger, *, now: int, stale_after: int, ready: bool) -> None:
        """Bring the gauges that depend on time up to date, before they are shown."""
        for state, count in ledger.states(now, stale_after).items():
            self.cells.labels(state).set(count)
        self.ready.set(ready)
