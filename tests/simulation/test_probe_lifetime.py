"""The real guard, the simulated engine and the real probe, from nothing to serving and through faults."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from detinf.api.names import REFERENCES_KEY
from detinf.api.types import ProbeMode
from detinf.documents import NotApplicable, Phase, ProbeSettings, Report, StimulusWitness, Verdict
from detinf.probe.books import MOST_FURTHER
from detinf.probe.kept import BOOKS_FILE, Kept
from detinf.probe.readiness import read_pass


async def test_first_lifetime_is_gated_and_then_ready(engine_pod: Any) -> None:
    ready, reasons = await engine_pod.ready()
    assert not ready
    assert reasons
    await engine_pod.qualify()
    report = await engine_pod.until_phase(Phase.PASSED)
    assert report.ready
    assert (await engine_pod.ready()) == (True, [])
    cells = {(cell.relation, cell.condition): cell.verdict for cell in report.cells}
    wanted = {
        *(("S01", "solo"), ("S02", "solo")),
        *(("S03", "width=2"), ("S03", "width=8"), ("S03", "width=16")),
        *(("S04", "tokens=255"), ("S04", "tokens=256"), ("S04", "tokens=257")),
        *(("S05", "prefill=9"), ("S05", "prefill=129")),
    }
    assert wanted <= cells.keys()
    # On a busy machine a cell came together otherwise at first: it is there as what it was, too, and nothing else is.
    otherwise = cells.keys() - wanted
    assert all(condition.startswith({"S03": "width=", "S04": "tokens>"}[relation]) for relation, condition in otherwise)
    assert set(cells.values()) == {Verdict.PASS}
    assert report.evidence is None
    witnessed = [cell.reason for cell in report.cells if cell.relation == "S03"]
    assert all("own decode tokens in steps of" in reason for reason in witnessed), witnessed  # W0, the step trace


CHUNKS = NotApplicable(relations=["S06"], witness=StimulusWitness.NO_PARTIAL_PREFILL, reason="chunking is off")
CACHE = NotApplicable(
    relations=["S07", "S08"], witness=StimulusWitness.NO_PREFIX_CACHE_QUERIES, reason="prefix caching is off"
)


def exclude(engine_pod: Any, *items: NotApplicable) -> None:
    path = engine_pod.folder / "settings.json"
    settings = ProbeSettings.parse(path.read_bytes()).model_copy(update={"not_applicable": list(items)})
    path.write_bytes(settings.canonical())


async def test_stimuli_that_cannot_apply_are_told_with_their_witness_and_are_no_pass(engine_pod: Any) -> None:
    await engine_pod.end_engine()
    plan = engine_pod.plan()
    changed = plan.model_copy(update={"arguments": [*plan.arguments, "--no-enable-prefix-caching"]})
    (engine_pod.folder / "plan.json").write_bytes(changed.canonical())
    exclude(engine_pod, CHUNKS, CACHE)
    await engine_pod.start_engine()
    await engine_pod.qualify()
    report = await engine_pod.until_phase(Phase.PASSED)
    assert report.ready
    told = {cell.relation: cell for cell in report.cells if cell.condition == "not applicable"}
    assert told.keys() == {"S06", "S07", "S08"}
    assert {(cell.verdict, cell.passes) for cell in told.values()} == {(Verdict.INCONCLUSIVE, 0)}
    assert told["S06"].reason.startswith("NotApplicable: chunking is off: the step trace holds ")
    assert told["S07"].reason.startswith("NotApplicable: prefix caching is off: of ")
    async with engine_pod.session.get(f"{engine_pod.probe_url}/metrics") as response:
        assert 'detinf_probe_cells{state="notApplicable"} 3.0' in await response.text()


async def test_stimulus_that_takes_place_although_it_cannot_keeps_the_gate_closed(engine_pod: Any) -> None:
    exclude(engine_pod, CACHE)  # and the engine caches prefixes: its plan does not say otherwise
    await engine_pod.qualify()

    async def told() -> Report | None:
        report: Report = await engine_pod.report()
        return report if any("INCONCLUSIVE(Applies)" in reason for reason in report.reasons) else None

    report = await engine_pod.until(told)
    assert report.phase is Phase.GATING
    assert not report.ready
    assert "tokens were looked up in the prefix cache" in report.reasons[0]


async def test_engine_killed_is_unready_at_once_and_the_new_boot_is_gated_again(engine_pod: Any) -> None:
    await engine_pod.qualify()
    first = await engine_pod.until_phase(Phase.PASSED)
    os.kill(engine_pod.engine_process(), signal.SIGKILL)
    assert await engine_pod.guard.wait() == 128 + signal.SIGKILL
    ready, reasons = await engine_pod.ready()
    assert not ready
    assert "no attestation" in reasons[0]
    await engine_pod.start_engine()

    async def other_boot_passed() -> Report | None:
        report: Report = await engine_pod.report()
        assert not report.ready or report.phase is Phase.PASSED
        return report if report.ready and report.boot != first.boot else None

    from_again = await engine_pod.until(other_boot_passed)
    assert from_again.fingerprint == first.fingerprint
    assert (await engine_pod.ready())[0]


async def test_label_serving_false_is_not_ready_though_the_gate_was_passed(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    labels = engine_pod.folder / "podinfo" / "labels"
    labels.write_text('app="x"\ndetinf.io/serving="false"\n', encoding="utf-8")
    ready, reasons = await engine_pod.ready()
    assert not ready
    assert "isolated" in reasons[0]
    labels.write_text('detinf.io/serving="true"\n', encoding="utf-8")
    assert (await engine_pod.ready())[0]


FROM_NINE = {"width=8", "width=16"}
"""Where a fault from 9 requests up is seen: 8 and the plug before them are 9, where the plug was late."""


@pytest.mark.parametrize(
    ("fault", "relations", "conditions"),
    [
        # S01 where the switch fell between an answer and its repeat.
        ("F20", {"S01", "S02"}, {"solo"}),
        ("F01", {"S03"}, FROM_NINE),
        # A plug that a cohort joined, references of 256 tokens and more, and three that begin together have them, too.
        (
            "F03",
            {"S01", "S02", "S03", "S04", "S05"},
            {
                *("solo", "width=2", "width=8", "width=16", "tokens=255", "tokens=256", "tokens=257"),
                *("prefill=9", "prefill=129"),
            },
        ),
        (
            "F22",
            {"S03", "S04", "S05"},
            {
                *("width=2", "width=8", "width=16", "tokens=255", "tokens=256", "tokens=257"),
                *("prefill=9", "prefill=129"),
            },
        ),
    ],
)
async def test_fault_while_serving_becomes_evidence(
    engine_pod: Any, fault: str, relations: set[str], conditions: set[str]
) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.switch(fault)

    async def evidence() -> Report | None:
        report: Report = await engine_pod.report()
        return report if report.evidence else None

    report = await engine_pod.until(evidence)
    assert report.evidence.relation in relations
    assert report.evidence.condition in conditions
    assert report.evidence.observable == "logprob"
    assert report.evidence.max_ulps >= 1
    assert report.evidence.boot == report.boot
    # Isolation is the controller's decision: a fault that all replicas share must not take them all away.
    assert report.ready


@pytest.mark.parametrize(
    ("fault", "start", "words"),
    [
        ("F20", "drift", ["baseline when it is alone"]),  # alone, too
        ("F01", "batch width", ["alone it is right", "clean since at width=2"]),  # from 9 requests up
    ],
)
async def test_hint_comes_to_say_what_the_fault_is_by_what_was_looked_at_since(
    engine_pod: Any, fault: str, start: str, words: list[str]
) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.switch(fault)

    async def told() -> Report | None:
        report: Report = await engine_pod.report()
        if report.evidence is None:
            return None
        hint = report.hint or report.evidence.hint
        return report if hint.startswith(start) and all(item in hint for item in words) else None

    report = await engine_pod.until(told)
    assert report.hint != report.evidence.hint


async def test_divergences_of_other_cells_are_reported_beside_the_first(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.switch("F22")  # whatever runs together

    async def all_of_them() -> Report | None:
        report: Report = await engine_pod.report()
        return report if len(report.further or ()) == MOST_FURTHER else None

    report = await engine_pod.until(all_of_them)
    listed = [report.evidence, *report.further]
    assert len({(item.relation, item.condition) for item in listed}) == 1 + MOST_FURTHER
    assert [item.detected_unix for item in listed] == sorted(item.detected_unix for item in listed)
    assert {item.boot for item in listed} == {report.boot}


async def test_fault_at_the_gate_never_serves(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.end_engine()
    engine_pod.environment["DETINF_SIM_FAULTS"] = "F01"
    await engine_pod.start_engine()
    report = await engine_pod.until_phase(Phase.GATE_FAILED)
    assert not report.ready
    assert report.evidence is not None
    assert report.evidence.relation == "S03"
    assert report.evidence.condition in FROM_NINE
    assert "FAIL" in report.reasons[0]


def set_mode(engine_pod: Any, mode: ProbeMode) -> None:
    path = engine_pod.folder / "settings.json"
    path.write_bytes(ProbeSettings.parse(path.read_bytes()).model_copy(update={"mode": mode}).canonical())


def kept_mode(engine_pod: Any) -> str:
    kept = read_pass(engine_pod.folder / "state")
    assert kept is not None
    return kept.mode


async def test_fault_at_an_observed_gate_serves_and_is_reported_and_an_enforced_one_takes_that_back(
    engine_pod: Any,
) -> None:
    set_mode(engine_pod, ProbeMode.OBSERVE)
    await engine_pod.qualify()
    first = await engine_pod.until_phase(Phase.PASSED)
    assert first.evidence is None
    assert kept_mode(engine_pod) == ProbeMode.ENFORCE  # it was passed, whatever the mode
    await engine_pod.end_engine()
    engine_pod.environment["DETINF_SIM_FAULTS"] = "F01"
    await engine_pod.start_engine()

    async def other_boot_serves() -> Report | None:
        found: Report = await engine_pod.report()
        return found if found.ready and found.boot != first.boot else None

    report = await engine_pod.until(other_boot_serves)
    assert report.evidence is not None
    assert report.evidence.relation == "S03"
    assert report.evidence.condition in FROM_NINE
    assert kept_mode(engine_pod) == ProbeMode.OBSERVE
    set_mode(engine_pod, ProbeMode.ENFORCE)
    taken_back = await engine_pod.until_phase(Phase.GATE_FAILED)
    assert not taken_back.ready
    # It is known late, by what the engine attested, that it is to be observed: a gate that failed lets it serve then.
    set_mode(engine_pod, ProbeMode.OBSERVE)
    observed = await engine_pod.until_phase(Phase.PASSED)
    assert observed.ready
    assert observed.boot == taken_back.boot
    assert kept_mode(engine_pod) == ProbeMode.OBSERVE


async def test_observed_engine_is_not_ready_without_its_attestation(engine_pod: Any) -> None:
    set_mode(engine_pod, ProbeMode.OBSERVE)
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.end_engine()
    ready, reasons = await engine_pod.ready()
    assert not ready
    assert "no attestation" in reasons[0]


async def test_tampered_delivery_is_not_used_and_says_so(engine_pod: Any) -> None:
    proposal = await engine_pod.until_proposal()
    engine_pod.deliver(REFERENCES_KEY, proposal.canonical())
    path = engine_pod.folder / "baselines" / REFERENCES_KEY
    path.write_text(path.read_text().replace('"seed":1,', '"seed":2,', 1))

    async def complains() -> Report | None:
        report: Report = await engine_pod.report()
        return report if any("the seal says" in reason for reason in report.reasons) else None

    report = await engine_pod.until(complains)
    assert report.phase is Phase.WAITING_FOR_REFERENCES


async def test_restarted_probe_repeats_no_gate_for_the_same_boot(engine_pod: Any, tmp_path: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    gate = (tmp_path / "state" / "gate.json").stat().st_mtime_ns
    async with engine_pod.session.get(f"{engine_pod.probe_url}/metrics") as response:
        page = await response.text()
    assert "detinf_probe_gate_passed 1.0" in page
    async with engine_pod.another_probe() as url:
        engine_pod.probe_url = url
        report = await engine_pod.until_phase(Phase.PASSED)
    assert report.ready
    assert (tmp_path / "state" / "gate.json").stat().st_mtime_ns == gate


async def test_restarted_probe_goes_on_with_the_books_of_its_boot_and_another_boot_begins_anew(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.switch("F22")

    async def diverged() -> Report | None:
        report: Report = await engine_pod.report()
        return report if report.evidence and report.further else None

    await engine_pod.until(diverged)
    await engine_pod.switch()  # it is well again: what is not remembered now is lost
    await engine_pod.end_probe()
    last = Kept.parse((engine_pod.folder / "state" / BOOKS_FILE).read_bytes())
    async with engine_pod.another_probe() as url:
        engine_pod.probe_url = url
        report = await engine_pod.report()  # the very first
        assert report.ready
        assert (report.boot, report.baseline_digest) == (last.boot, last.baseline_digest)
        assert (report.evidence, report.further) == (last.evidence, last.further)
        assert report.cells == last.cells
        await engine_pod.until_phase(Phase.PASSED)

        async def goes_on() -> Report | None:
            report: Report = await engine_pod.report()
            passes = {(cell.relation, cell.condition): cell.passes for cell in report.cells}
            before = {(cell.relation, cell.condition): cell.passes for cell in last.cells}
            return report if passes["S02", "solo"] > before["S02", "solo"] else None

        report = await engine_pod.until(goes_on)
        assert report.evidence == last.evidence
        await engine_pod.end_engine()
        await engine_pod.start_engine()

        async def other_boot() -> Report | None:
            report: Report = await engine_pod.report()
            return report if report.boot not in {None, last.boot} else None

        report = await engine_pod.until(other_boot)
        assert (report.evidence, report.further, report.hint) == (None, None, None)
        assert {cell.fails for cell in report.cells} <= {0}


async def test_restarted_probe_does_not_ask_an_engine_that_failed_its_gate_once_more(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.end_engine()
    engine_pod.environment["DETINF_SIM_FAULTS"] = "F01"
    await engine_pod.start_engine()
    failed = await engine_pod.until_phase(Phase.GATE_FAILED)
    await engine_pod.switch()  # a gate would pass now
    await engine_pod.end_probe()
    async with engine_pod.another_probe() as url:
        engine_pod.probe_url = url
        again = await engine_pod.until_phase(Phase.GATE_FAILED)
        assert not again.ready
        assert (again.evidence, again.cells, again.reasons[0]) == (failed.evidence, failed.cells, failed.reasons[0])


async def test_broken_books_are_none_and_the_gates_pass_stands(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.end_probe()
    (engine_pod.folder / "state" / BOOKS_FILE).write_bytes(b"{")
    async with engine_pod.another_probe() as url:
        engine_pod.probe_url = url
        report = await engine_pod.report()
        assert (report.ready, report.cells) == (True, [])
        await engine_pod.until_phase(Phase.PASSED)


async def test_gate_sees_a_fault_that_only_a_mixed_step_shows(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.end_engine()
    engine_pod.environment["DETINF_SIM_FAULTS"] = "F04"
    await engine_pod.start_engine()
    report = await engine_pod.until_phase(Phase.GATE_FAILED)
    assert report.evidence is not None
    # A cohort that did not come together at once is mixed, too.
    assert report.evidence.relation in {"S03", "S04", "S05"}
    assert not report.ready


async def test_references_that_no_longer_fit_are_not_comparable_and_none_is_replaced(engine_pod: Any) -> None:
    proposal = await engine_pod.until_proposal()
    long = proposal.items[0].model_copy(update={"name": "long", "prompt_ids": [7] * 4090})
    foreign = proposal.items[1].model_copy(update={"name": "foreign", "prompt_ids": [1000]})
    frozen = proposal.model_copy(update={"items": [long, *proposal.items, foreign]})
    engine_pod.deliver(REFERENCES_KEY, frozen.canonical())
    report = await engine_pod.until_phase(Phase.WAITING_FOR_BASELINE)
    assert report.candidate.answers.keys() == {item.name for item in proposal.items}
    (cell,) = (cell for cell in report.cells if cell.verdict is not Verdict.PASS)
    assert (cell.relation, cell.verdict) == ("S02", Verdict.INCONCLUSIVE)
    assert cell.reason.startswith(f"NotComparable: 2 of {len(frozen.items)} references do not fit maxModelLen 4096")
    assert cell.reason.endswith("long, foreign")


async def test_engine_that_can_be_asked_no_reference_never_passes(engine_pod: Any) -> None:
    proposal = await engine_pod.until_proposal()
    foreign = proposal.items[0].model_copy(update={"prompt_ids": [1000]})
    engine_pod.deliver(REFERENCES_KEY, proposal.model_copy(update={"items": [foreign]}).canonical())

    async def complains() -> Report | None:
        report: Report = await engine_pod.report()
        return report if any("NotComparable" in reason for reason in report.reasons) else None

    report = await engine_pod.until(complains)
    assert not report.ready
    assert report.candidate is None
