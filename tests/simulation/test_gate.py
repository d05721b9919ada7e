"""The gate's checks on an engine that cannot do what the gate wants of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from detinf.documents import Plan, PodIdentity, ProbeSettings, Verdict
from detinf.probe.attested import Attested
from detinf.probe.client import EngineClient
from detinf.probe.delivery import Delivery
from detinf.probe.exported import Exported
from detinf.probe.lifetime import Lifetime
from detinf.probe.observation import Observation
from detinf.probe.reasons import Reason
from detinf.probe.references import propose
from detinf.probe.trace import Trace
from detinf_sim.limits import Limits
from detinf_sim.model import HashModel
from detinf_sim.server import Settings, running_server

BOOT = "b" * 32
DOCUMENTS = Path(__file__).resolve().parents[1] / "fixtures" / "documents"
WIDTH = 8


@pytest.fixture
async def lifetime(tmp_path: Path) -> AsyncIterator[Lifetime]:
    """A lifetime whose gate wants a width of 8, of an engine that runs at most 4 requests together."""
    settings = ProbeSettings.parse((DOCUMENTS / "probe-settings.json").read_bytes())
    settings = settings.model_copy(update={"gate": settings.gate.model_copy(update={"widths": [WIDTH]})})
    attested = Attested(BOOT, 0, Plan.parse((DOCUMENTS / "plan.json").read_bytes()), "plan", "fingerprint", 1000, ())
    ring = tmp_path / "trace.ring"
    limits = Limits(4, 8192, attested.plan.model.max_model_len)
    engine = Settings(HashModel(1000, b"test"), served_name="sim", limits=limits, boot=BOOT, trace=ring)
    async with running_server(engine) as (url, _), EngineClient(url, "sim", boot=BOOT) as client:
        yield Lifetime(
            attested=attested,
            pod=PodIdentity(namespace="test", name="sim-0-0", uid="uid-1"),
            client=client,
            delivery=Delivery(tmp_path),
            state=tmp_path,
            trace=Trace(ring, BOOT),
            read_settings=lambda: settings,
            exported=Exported(),
        )


async def test_width_that_never_ran_is_not_passed_by_narrower_ones(lifetime: Lifetime) -> None:
    items = propose(1000, [], lifetime.attested.plan.model.max_model_len, 16).items[:WIDTH]
    expected = {
        item.name: answer for item in items if isinstance(answer := await lifetime.client.ask(item), Observation)
    }
    outcome = await lifetime.gate_once(items, expected)
    assert outcome is not None
    assert (outcome.relation, outcome.condition, outcome.verdict) == ("S03", "width=8", Verdict.INCONCLUSIVE), outcome
    assert outcome.reason is Reason.NOT_BATCHED
    # What took place was compared all the same, and counts as what it was.
    passed = {cell.condition for cell in lifetime.ledger.listed() if cell.relation == "S03" and cell.passes}
    assert passed
    assert passed <= {"width=2", "width=4"}
