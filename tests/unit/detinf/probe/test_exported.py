"""The metrics page: counters are there with 0 before anything happened, and count what happened."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from detinf.api.types import Promise
from detinf.documents import Reference, Verdict, Witness
from detinf.probe.client import EngineClient
from detinf.probe.comparison import Observable
from detinf.probe.exported import PHASES, Exported
from detinf.probe.observation import Observation
from detinf.probe.reasons import INCONCLUSIVE, Reason
from detinf.probe.verdict import Asked, judge

GOOD = Observation((1, 2), (0xBF000000, 0xBF000000), "length")
REFERENCE = Reference(name="r", prompt_ids=[1], max_tokens=2, temperature_milli=0, seed=0)


def series(exported: Exported) -> dict[str, float]:
    """Return what the page shows, by name and labels."""
    lines = [line for line in generate_latest(exported.registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_difference_of_any_kind_moves_a_series_that_was_there_with_0() -> None:
    exported = Exported()
    before = series(exported)
    for observed in (replace(GOOD, token_ids=(9, 2)), replace(GOOD, logprob_bits=(0xBF000000, 0xBF000001))):
        outcome = judge("S03", "width=8", [Asked(REFERENCE, GOOD, observed)], promise=Promise.TOKENS_AND_LOGPROBS)
        exported.book(outcome, now=1.0, seconds=1.0)
    moved = {name: value - before[name] for name, value in series(exported).items() if name in before}
    assert moved['detinf_probe_mismatches_total{observable="token",phase="prefill",relation="S03"}'] == 1
    assert moved['detinf_probe_mismatches_total{observable="logprob",phase="decode",relation="S03"}'] == 1
    assert moved['detinf_probe_runs_total{reason="Different",relation="S03",verdict="fail"}'] == 2
    assert moved['detinf_probe_comparisons_total{relation="S03",result="different"}'] == 2


def test_every_outcome_of_every_relation_is_counted_from_0() -> None:
    page = series(Exported())
    for relation, reasons in INCONCLUSIVE.items():
        for observable in Observable:
            for phase in PHASES:
                labels = f'observable="{observable}",phase="{phase}",relation="{relation}"'
                assert page[f"detinf_probe_mismatches_total{{{labels}}}"] == 0
        for verdict, reason in (
            ("pass", "Equal"),
            ("fail", "Different"),
            *(("inconclusive", item) for item in reasons),
        ):
            labels = f'reason="{reason}",relation="{relation}",verdict="{verdict}"'
            assert page[f"detinf_probe_runs_total{{{labels}}}"] == 0
    assert page['detinf_probe_skipped_total{reason="busy"}'] == 0
    assert page['detinf_probe_tokens_total{kind="prompt"}'] == 0
    assert page['detinf_probe_witness_width_count{relation="S03",witness="W0"}'] == 0


def test_reason_of_a_round_is_one_that_is_counted_from_0() -> None:
    """Those left out are never of a round that was run: they are booked, said, or of requests that we hang up on."""
    counted = {Reason.EQUAL, Reason.DIFFERENT, *(reason for reasons in INCONCLUSIVE.values() for reason in reasons)}
    assert set(Reason) - counted == {
        *(Reason.CANCELLED, Reason.NOT_APPLICABLE, Reason.APPLIES, Reason.NOT_COMPARABLE, Reason.BUSY),
    }


@pytest.mark.parametrize("kind", ["counter", "gauge"])
def test_what_only_grows_is_a_counter_and_what_does_not_is_none(kind: str) -> None:
    page = generate_latest(Exported().registry).decode()
    named = set(re.findall(rf"^# TYPE (\S+) {kind}$", page, re.MULTILINE)) - set(
        re.findall(r"^# TYPE (\S+_created) gauge$", page, re.MULTILINE)
    )
    counters = {f"detinf_probe_{name}_total" for name in ("runs", "comparisons", "mismatches", "tokens", "skipped")}
    if kind == "counter":
        assert named == counters
    else:
        names = ("cells", "gate_passed", "ready", "attested", "info", "digest48")
        times = ("last_conclusive_timestamp_seconds", "last_pass_timestamp_seconds")
        assert named == {f"detinf_probe_{name}" for name in (*names, *times)}


def test_tokens_of_two_boots_add_up() -> None:
    exported = Exported()
    for _ in range(2):
        client = EngineClient("http://none", "m", boot=None)  # each boot has its own
        client.tokens_sent, client.tokens_received = 7, 3
        exported.count_tokens(client.take_tokens())
        exported.count_tokens(client.take_tokens())  # and what was taken is not taken again
    page = series(exported)
    assert page['detinf_probe_tokens_total{kind="prompt"}'] == 14
    assert page['detinf_probe_tokens_total{kind="generated"}'] == 6


def test_inconclusive_round_compares_nothing_and_proves_no_width() -> None:
    exported = Exported()
    before = series(exported)
    witness = Witness(kind="W0", width=8, detail="")
    outcome = judge(
        "S04", "tokens=257", [Asked(REFERENCE, GOOD, GOOD)], promise=Promise.TOKENS, witness=witness, proven=False
    )
    assert outcome.verdict is Verdict.INCONCLUSIVE
    exported.book(outcome, now=1.0, seconds=1.0)
    after = series(exported)
    changed = {name for name in after if after[name] != before.get(name) and "duration" not in name}
    assert changed == {'detinf_probe_runs_total{reason="NotBatched",relation="S04",verdict="inconclusive"}'}
