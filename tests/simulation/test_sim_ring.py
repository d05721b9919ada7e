"""The simulator's step trace in the ring, read as the probe reads it, against what its scheduler really did."""

from __future__ import annotations

from pathlib import Path

from detinf.guard.trace import own_id
from detinf.probe.trace import Trace
from detinf_sim.faults import Active
from detinf_sim.limits import Limits
from detinf_sim.model import HashModel
from detinf_sim.ring import Ring
from detinf_sim.scheduler import SimEngine
from detinf_sim.sequences import Request

BOOT = "a" * 32
COHORT = b"01234567"


def test_ring_holds_prefills_decodes_preemptions_and_cached_tokens_as_they_were(tmp_path: Path) -> None:
    limits = Limits(8, 32, 64, chunked_prefill=True, prefix_caching=True, block_size=4, kv_blocks=30)
    engine = SimEngine(HashModel(500, b"test"), limits, Active(["preempt:5"]))
    ring = Ring(tmp_path / "ring", BOOT)
    prompts = {number: [number % 3] * (20 + number) for number in range(12)}
    for number, prompt in prompts.items():
        name = f"cmpl-{own_id(COHORT, number)}-0-{number:08x}" if number % 2 else f"cmpl-tenant-{number}"
        engine.submit(Request(name, prompt, max_tokens=20))
    now = 0.0
    while engine.has_work:
        before = engine.steps
        now += engine.step(now)[1]
        if engine.steps > before:
            ring.record(engine.trace[-1])
    window = Trace(tmp_path / "ring", BOOT).since(0)
    assert window is not None
    assert window.complete
    steps, records = window.steps, list(engine.trace)
    assert [
        (step.step, step.tokens, step.width, step.prefills, step.decodes, step.waiting, step.preemptions)
        for step in steps
    ] == [
        (
            record.step,
            record.tokens,
            record.width,
            record.prefills,
            record.decodes,
            record.waiting,
            record.preemptions,
        )
        for record in records
    ]
    # By sums that nothing of the trace's own goes into.
    assert sum(step.preemptions for step in steps) == engine.counters.preemptions > 0
    assert sum(step.cached_tokens for step in steps) == engine.counters.prefix_hits > 0
    assert any(step.prefills and step.decodes for step in steps)
    own = [entry for step in steps for entry in step.own]
    assert {entry.number for entry in own} == {1, 3, 5, 7, 9, 11}
    for number in (1, 11):
        entries = [entry for entry in own if entry.number == number]
        # Where it was not preempted each part of its reading begins where the one before ended.
        reads = [entry for entry in entries if entry.prefill]
        ends = [entry.computed + entry.tokens for entry in reads]
        restarts = sum(entry.computed != end for entry, end in zip(reads[1:], ends, strict=False))
        assert restarts <= engine.counters.preemptions
        # Each decode computes one token and gives one, and so does the end of each reading.
        decodes = [entry for entry in entries if not entry.prefill]
        assert all((entry.tokens, entry.computed) == (1, 0) for entry in decodes)
        following = [*entries[1:], None]
        read_out = sum(
            entry.prefill and (then is None or not then.prefill or then.computed < entry.computed)
            for entry, then in zip(entries, following, strict=True)
        )
        assert len(decodes) + read_out == 20
        assert ends[0] <= len(prompts[number])
        assert entries[0].prefill
