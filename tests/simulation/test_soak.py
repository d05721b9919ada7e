"""Slices of ``benchmarks/soak.py``: no FAIL without a fault, no PASS without its disturbance, and seldom neither."""

from __future__ import annotations

from dataclasses import replace

import pytest
from soaking import SETTINGS, Known, Setting, know, soak
from virtual_engine import drive

from detinf.documents import Verdict
from detinf.probe.exported import outcomes
from detinf.probe.reasons import INCONCLUSIVE, Reason

COHORTS = ("S03", "S04", "S05")


@pytest.fixture(scope="module")
def known() -> Known:
    return know()


def test_unhelpful_engines_never_fail_and_were_unhelpful_in_every_way(known: Known) -> None:
    tally = soak(replace(SETTINGS["chaos"], chaos=4.0), known, 1, comparisons=3000)
    assert tally.failures == []
    assert all(tally.verdicts(Verdict.PASS, [relation]) for relation in ("S01", "S02", *COHORTS))
    seen = {reason for _, _, reason in tally.rounds}
    assert seen >= {
        *(Reason.TRANSPORT, Reason.TIMEOUT, Reason.RATE_LIMITED, Reason.UNAVAILABLE, Reason.HTTP_STATUS),
        *(Reason.GARBAGE, Reason.FINISH_REASON, Reason.PRECISION_LOST),
        *(Reason.ENGINE_CHANGED, Reason.NOT_BATCHED, Reason.METRICS_MISSING, Reason.TRACE_MISSING),
    }
    # Each of these outcomes has a series that is there with 0 before it happens.
    counted = {(relation, verdict, str(reason)) for relation in INCONCLUSIVE for verdict, reason in outcomes(relation)}
    assert {(relation, verdict.lower(), reason) for relation, verdict, reason in tally.rounds} <= counted


@pytest.mark.parametrize(("name", "share"), [("idle", 0.95), ("loaded", 0.90)])
def test_engines_that_help_are_concluded_upon(known: Known, name: str, share: float) -> None:
    tally = soak(SETTINGS[name], known, 2, comparisons=800)
    assert tally.failures == []
    assert tally.conclusive >= share


def test_serialising_engine_never_passes_what_needs_company(known: Known) -> None:
    tally = soak(SETTINGS["serialising"], known, 3, runs=120, relations=())
    assert tally.verdicts(Verdict.PASS, COHORTS) == 0
    assert tally.runs == 120
    assert tally.failures == []


@pytest.mark.parametrize(
    ("fault", "relation", "clean"),
    [("F01", "S03", {"S01", "S02", "S04"}), ("F03", "S04", {"S01"}), ("F04", "S05", {"S01", "S02"})],
)
def test_same_soak_sees_a_fault_where_it_strikes(known: Known, fault: str, relation: str, clean: set[str]) -> None:
    tally = soak(Setting("faulty", names=(fault,)), known, 4, comparisons=400)
    assert tally.verdicts(Verdict.FAIL, [relation]) > 0
    assert tally.verdicts(Verdict.FAIL, clean) == 0
    assert tally.verdicts(Verdict.PASS, clean) > 0


def test_waiting_for_the_wall_clock_is_an_error_in_virtual_time() -> None:
    import asyncio

    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="wall clock"):
        drive(waits())
