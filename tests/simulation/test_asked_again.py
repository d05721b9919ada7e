"""What the controller asks a peer again: asked at once, replied for what was looked at, and never before a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from detinf.api.names import ANNOTATION_AGAIN
from detinf.documents import Again, AskedAgain, Phase, Reply, Report, Verdict


def annotate(folder: Path, *items: Again, value: str | None = None) -> None:
    """Write the pod's annotations as the kubelet does; of such text Go's quotes are JSON's."""
    text = AskedAgain(items=list(items)).canonical().decode() if value is None else value
    lines = ['detinf.io/delivery="sha256:0"', f"{ANNOTATION_AGAIN}={json.dumps(text)}"]
    draft = folder / "podinfo" / "draft"
    draft.write_text("\n".join(lines), encoding="utf-8")
    draft.replace(folder / "podinfo" / "annotations")


def item(evidence: str, relation: str, condition: str, reference: str) -> Again:
    return Again(evidence=evidence, relation=relation, condition=condition, reference=reference)


async def replies(engine_pod: Any, verdicts: dict[str, Verdict]) -> dict[str, Reply]:
    """Wait until each piece of evidence has its verdict."""

    async def ask() -> dict[str, Reply] | None:
        report: Report = await engine_pod.report()
        found = {reply.evidence: reply for reply in report.replies or ()}
        return found if {name: reply.verdict for name, reply in found.items()} == verdicts else None

    found: dict[str, Reply] = await engine_pod.until(ask)
    return found


async def test_peer_that_is_right_replies_for_each_relation_and_only_while_it_is_asked(engine_pod: Any) -> None:
    await engine_pod.qualify()
    report = await engine_pod.until_phase(Phase.PASSED)
    assert report.replies is None
    items = [
        item("e-alone", "S02", "solo", "random-05"),
        item("e-twice", "S01", "solo", "random-05"),
        item("e-width", "S03", "width=8", "random-05"),
        item("e-launch", "S04", "tokens=257", "random-08"),
        item("e-mixed", "S05", "prefill=9", "random-01"),
    ]
    annotate(engine_pod.folder, *items)
    await replies(engine_pod, dict.fromkeys(("e-alone", "e-twice", "e-width", "e-launch", "e-mixed"), Verdict.PASS))
    annotate(engine_pod.folder, items[2])
    found = await replies(engine_pod, {"e-width": Verdict.PASS})
    assert found["e-width"].reason.startswith("Equal: ")
    (engine_pod.folder / "podinfo" / "annotations").unlink()
    assert (await engine_pod.report()).replies is None


async def test_peer_that_is_wrong_replies_with_the_difference_and_has_evidence_of_its_own(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    await engine_pod.switch("F01")  # from 9 requests up
    annotate(
        engine_pod.folder, item("e-16", "S03", "width=16", "random-05"), item("e-2", "S03", "width=2", "random-05")
    )
    found = await replies(engine_pod, {"e-16": Verdict.FAIL, "e-2": Verdict.PASS})
    assert "differs at position" in found["e-16"].reason
    report = await engine_pod.report()
    assert report.evidence is not None
    assert report.evidence.relation == "S03"


async def test_what_cannot_be_asked_is_inconclusive_with_its_reason_and_asked_once_more(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    with capture_logs() as logs:
        annotate(
            engine_pod.folder,
            item("e-unknown", "S02", "solo", "of-other-references"),
            item("e-wide", "S03", "width=32", "random-05"),
            item("e-other", "S07", "chunk=4", "random-05"),
        )
        verdict = dict.fromkeys(("e-unknown", "e-wide", "e-other"), Verdict.INCONCLUSIVE)
        found = await replies(engine_pod, verdict)

        async def again() -> bool | None:
            tried = [entry["evidence"] for entry in logs if entry["event"] == "asked again"]
            return True if tried.count("e-wide") > 1 and tried.count("e-other") > 1 else None

        await engine_pod.until(again)
    assert "no reference of-other-references" in found["e-unknown"].reason
    assert found["e-wide"].reason.startswith("it was S03 width=")
    assert "wanted was S03 width=32" in found["e-wide"].reason
    assert found["e-other"].reason.startswith("it was S02 solo, wanted was S07 chunk=4")
    await engine_pod.switch("F20")
    # A difference is a difference, whatever was asked.
    await replies(engine_pod, verdict | {"e-wide": Verdict.FAIL, "e-other": Verdict.FAIL})


async def test_broken_annotation_is_said_once_and_asks_nothing(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    with capture_logs() as logs:

        def said() -> int:
            return sum(entry["event"] == "asked again, and not understood" for entry in logs)

        for number, value in enumerate(('{"schema":9}', "nonsense"), 1):
            annotate(engine_pod.folder, value=value)

            async def was_said(number: int = number) -> bool | None:
                return True if said() == number else None

            await engine_pod.until(was_said)
        report = await engine_pod.report()
        assert (report.replies, report.phase) == (None, Phase.PASSED)
        passes = {(cell.relation, cell.condition): cell.passes for cell in report.cells}["S02", "solo"]

        async def watches_on() -> Report | None:
            report: Report = await engine_pod.report()
            found = {(cell.relation, cell.condition): cell.passes for cell in report.cells}
            return report if found["S02", "solo"] > passes + 1 else None

        await engine_pod.until(watches_on)
        assert said() == 2
    annotate(engine_pod.folder, item("e", "S02", "solo", "random-05"))
    await replies(engine_pod, {"e": Verdict.PASS})


async def test_replies_survive_a_restart_of_the_probe_and_not_one_of_the_engine(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    annotate(engine_pod.folder, item("e", "S02", "solo", "random-05"))
    before = await replies(engine_pod, {"e": Verdict.PASS})
    await engine_pod.end_probe()
    await engine_pod.switch("F20")  # it is wrong now: a reply that is given once more would say so
    async with engine_pod.another_probe() as url:
        engine_pod.probe_url = url
        report = await engine_pod.report()
        assert report.replies == list(before.values())
        await engine_pod.until_phase(Phase.PASSED)

        async def diverged() -> Report | None:
            report: Report = await engine_pod.report()
            return report if report.evidence else None

        report = await engine_pod.until(diverged)
        assert report.replies == list(before.values())
        boot = report.boot
        await engine_pod.end_engine()
        await engine_pod.start_engine()

        async def other_boot() -> Report | None:
            report: Report = await engine_pod.report()
            return report if report.boot not in {None, boot} else None

        report = await engine_pod.until(other_boot)
        assert report.replies is None
        await replies(engine_pod, {"e": Verdict.PASS})  # and is asked anew
