"""The probe's metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detinf.documents import Verdict
from detinf.probe.coverage import Ledger
from detinf.probe.digests import digest48
from detinf.probe.verdict import Round

MOST_ANSWERS = 16
"""References whose answers are shown."""
WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)


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
        self.tokens = Gauge(
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
        for name in ("S01", "S02", "S03", "S04", "S05"):
            for result in ("equal", "different"):
                self.comparisons.labels(name, result)

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
