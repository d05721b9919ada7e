"""What the controller asks a peer again: asked at once, replied for what was looked at, and never before a user."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from detinf.api.names import ANNOTATION_AGAIN
from detinf.documents import Again, AskedAgain, Phase, Reply, Report, Verdict
from detinf.probe import again, watching
from detinf.probe.readiness import GatePass, write_pass
from detinf_sim.scheduler import Request

BOOT = "b" * 32
WAIT_SECONDS = 120


def annotate(folder: Path, *items: Again, value: str | None = None) -> None:
    """Write the pod's annotations as the kubelet does; of such text Go's quotes are JSON's."""
    text = AskedAgain(items=list(items)).canonical().decode() if value is None else value
    lines = ['detinf.io/delivery="sha256:0"', f"{ANNOTATION_AGAIN}={json.dumps(text)}"]
    draft = folder / "podinfo" / "draft"
    draft.write_text("\n".join(lines), encoding="utf-8")
    draft.replace(folder / "podinfo" / "annotations")


def item(evidence: str, relation: str, condition: str, reference: str = "random-05") -> Again:
    return Again(evidence=evidence, relation=relation, condition=condition, reference=reference)


# A lifetime that is watched -------------------------------------------------------------------------------------------


class Watched:
    """A lifetime after its gate, whose own schedule comes again in so many seconds."""

    def __init__(self, found: Any, folder: Path) -> None:
        self.lifetime = found.lifetime
        self.server = found.server
        self.books = found.lifetime.books
        self.folder = folder
        self.watch = asyncio.create_task(found.lifetime.watch(found.items, found.expected))

    async def until(self, so: Callable[[], bool]) -> None:
        """Wait for something; the limit only turns a hang into a failure."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not so():
                assert not self.watch.done()
                await asyncio.sleep(0.01)

    async def replies(self, verdicts: dict[str, Verdict]) -> dict[str, Reply]:
        """Wait until each piece of evidence has its verdict."""
        await self.until(lambda: {name: reply.verdict for name, reply in self.books.replies.items()} == verdicts)
        return dict(self.books.replies)

    def passes(self, relation: str, condition: str) -> int:
        """How many answers passed in a cell."""
        cell = self.books.ledger.cells.get((relation, condition))
        return cell.passes if cell else 0

    @property
    def skipped(self) -> float:
        """How often it stepped aside for users."""
        return float(self.lifetime.exported.skipped.labels("busy")._value.get())


@pytest.fixture
def watched(gated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what runs a watch; ``before`` happens while nothing is asked yet."""
    monkeypatch.setattr(watching, "POLL_SECONDS", 0.02)
    (tmp_path / "podinfo").mkdir()

    @contextlib.asynccontextmanager
    async def run(before: Callable[[Any], None] = lambda _found: None, interval: int = 3600) -> AsyncIterator[Watched]:
        async with gated(tmp_path, [2], interval=interval) as found:
            write_pass(tmp_path, GatePass(BOOT, "plan", "fingerprint", "baseline"))
            before(found)
            running = Watched(found, tmp_path)
            try:
                yield running
            finally:
                running.watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running.watch

    return run


async def test_item_is_asked_before_its_turn_would_have_come(watched: Any) -> None:
    """The schedule asks one reference alone at its start, and the next one in an hour."""
    async with watched() as running:
        await running.until(lambda: running.passes("S02", "solo") > 0)
        annotate(running.folder, item("e", "S03", "width=2"))
        await running.replies({"e": Verdict.PASS})
        assert running.passes("S03", "width=2") == 2


async def test_nothing_is_asked_while_users_wait_and_at_once_when_they_do_not(watched: Any) -> None:
    def crowd(found: Any) -> None:
        found.server.active.switch(["serialise"])
        for number in range(3):
            found.server.engine.submit(Request(f"tenant-{number}", found.items[0].prompt_ids, max_tokens=3000))
        found.server.work.set()

    async with watched(crowd) as running:
        annotate(running.folder, item("e", "S02", "solo"))
        own = running.lifetime.client.tokens_sent
        await running.until(lambda: running.skipped >= 5)
        assert (running.books.replies, running.lifetime.client.tokens_sent) == ({}, own)
        for number in range(3):
            running.server.engine.abort(f"tenant-{number}")
        await running.replies({"e": Verdict.PASS})


async def test_peer_that_is_wrong_replies_with_the_difference_and_has_evidence_of_its_own(watched: Any) -> None:
    async with watched() as running:
        running.server.active.switch(["F01"])  # from 9 requests up
        annotate(running.folder, item("e-16", "S03", "width=16"), item("e-2", "S03", "width=2"))
        found = await running.replies({"e-16": Verdict.FAIL, "e-2": Verdict.PASS})
        assert "differs at position" in found["e-16"].reason
        assert running.books.evidence is not None
        assert running.books.evidence.relation == "S03"


async def test_what_cannot_be_asked_is_inconclusive_with_its_reason_and_asked_once_more(watched: Any) -> None:
    items = [
        item("e-unknown", "S02", "solo", "of-other-references"),
        item("e-wide", "S03", "width=32"),
        item("e-other", "S07", "chunk=4"),
    ]
    verdicts = {each.evidence: Verdict.INCONCLUSIVE for each in items}
    async with watched() as running:
        with capture_logs() as logs:

            def tried(evidence: str) -> int:
                return sum(entry["event"] == "asked again" and entry["evidence"] == evidence for entry in logs)

            annotate(running.folder, *items)
            found = await running.replies(verdicts)
            await running.until(lambda: tried("e-wide") > 1 and tried("e-other") > 1)
        assert "no reference of-other-references" in found["e-unknown"].reason
        assert found["e-wide"].reason.startswith("it was S03 width=")
        assert "wanted was S03 width=32" in found["e-wide"].reason
        assert found["e-other"].reason.startswith("it was S02 solo, wanted was S07 chunk=4")
        running.server.active.switch(["F20"])
        # A difference is a difference, whatever was asked.
        await running.replies(verdicts | {"e-wide": Verdict.FAIL, "e-other": Verdict.FAIL})


async def test_item_that_is_always_due_again_does_not_keep_the_schedule_from_its_turn(
    watched: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "BACK_OFF_SECONDS", (0,))
    async with watched(interval=0) as running:
        annotate(running.folder, item("e", "S03", "width=32"))
        await running.replies({"e": Verdict.INCONCLUSIVE})
        await running.until(lambda: running.passes("S02", "solo") > 4 and running.passes("S03", "width=2") > 4)
        assert running.books.replies["e"].verdict is Verdict.INCONCLUSIVE


async def test_broken_annotation_is_said_once_and_asks_nothing(watched: Any) -> None:
    async with watched(interval=0) as running:
        with capture_logs() as logs:

            def said() -> int:
                return sum(entry["event"] == "asked again, and not understood" for entry in logs)

            for number, value in enumerate(('{"schema":9}', "nonsense"), 1):
                annotate(running.folder, value=value)
                await running.until(lambda number=number: said() == number)
            passes = running.passes("S02", "solo")
            await running.until(lambda: running.passes("S02", "solo") > passes + 4)
            assert (said(), running.books.replies) == (2, {})
        annotate(running.folder, item("e", "S02", "solo"))
        await running.replies({"e": Verdict.PASS})


# A whole pod ----------------------------------------------------------------------------------------------------------


async def reported(engine_pod: Any, verdicts: dict[str, Verdict]) -> list[Reply]:
    """Wait until the report has these replies."""

    async def ask() -> list[Reply] | None:
        report: Report = await engine_pod.report()
        found = list(report.replies or ())
        return found if {reply.evidence: reply.verdict for reply in found} == verdicts else None

    found: list[Reply] = await engine_pod.until(ask)
    return found


async def test_peer_that_is_right_replies_for_each_relation_and_only_while_it_is_asked(engine_pod: Any) -> None:
    await engine_pod.qualify()
    report = await engine_pod.until_phase(Phase.PASSED)
    assert report.replies is None
    items = [
        item("e-alone", "S02", "solo"),
        item("e-twice", "S01", "solo"),
        item("e-width", "S03", "width=8"),
        item("e-launch", "S04", "tokens=257", "random-08"),
        item("e-mixed", "S05", "prefill=9", "random-01"),
    ]
    annotate(engine_pod.folder, *items)
    await reported(engine_pod, {each.evidence: Verdict.PASS for each in items})
    annotate(engine_pod.folder, items[2])
    (found,) = await reported(engine_pod, {"e-width": Verdict.PASS})
    assert found.reason.startswith("Equal: ")
    (engine_pod.folder / "podinfo" / "annotations").unlink()
    assert (await engine_pod.report()).replies is None


async def test_replies_survive_a_restart_of_the_probe_and_not_one_of_the_engine(engine_pod: Any) -> None:
    await engine_pod.qualify()
    await engine_pod.until_phase(Phase.PASSED)
    annotate(engine_pod.folder, item("e", "S02", "solo"))
    before = await reported(engine_pod, {"e": Verdict.PASS})
    await engine_pod.end_probe()
    await engine_pod.switch("F20")  # it is wrong now: a reply that is given once more would say so
    async with engine_pod.another_probe() as url:
        engine_pod.probe_url = url
        assert (await engine_pod.report()).replies == before
        await engine_pod.until_phase(Phase.PASSED)

        async def diverged() -> Report | None:
            report: Report = await engine_pod.report()
            return report if report.evidence else None

        report = await engine_pod.until(diverged)
        assert report.replies == before
        boot = report.boot
        await engine_pod.end_engine()
        await engine_pod.start_engine()

        async def other_boot() -> Report | None:
            report: Report = await engine_pod.report()
            return report if report.boot not in {None, boot} else None

        report = await engine_pod.until(other_boot)
        assert report.replies is None
        await reported(engine_pod, {"e": Verdict.PASS})  # and is asked anew
