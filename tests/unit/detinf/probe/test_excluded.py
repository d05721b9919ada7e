"""A stimulus does not apply where its witness shows that, and never by anybody's word."""

from __future__ import annotations

import pytest

from detinf.documents import NotApplicable, StimulusWitness, Verdict
from detinf.guard.trace import Own, Step
from detinf.probe.coverage import Ledger
from detinf.probe.excluded import CONDITION, Prefills, excluded
from detinf.probe.metrics import Snapshot
from detinf.probe.reasons import Reason
from detinf.probe.trace import Window

CHUNKS = NotApplicable(relations=["S06"], witness=StimulusWitness.NO_PARTIAL_PREFILL, reason="chunking is off")
CACHE = NotApplicable(
    relations=["S07", "S08"], witness=StimulusWitness.NO_PREFIX_CACHE_QUERIES, reason="caching is off"
)


def window(*own: Own) -> Window:
    steps = (Step(number, number, item.tokens, 1, 1, 0, 0, 0, 0, (item,)) for number, item in enumerate(own, 1))
    return Window(tuple(steps), complete=True)


def prefill(tokens: int, computed: int = 0) -> Own:
    return Own(b"cohort-1", 0, True, tokens, computed)


DECODE = Own(b"cohort-1", 0, False, 1, 0)


@pytest.mark.parametrize(
    ("own", "reason", "words"),
    [
        ([], Reason.TRACE_MISSING, "no step trace"),
        ([DECODE], Reason.TRACE_MISSING, "no step trace"),
        ([prefill(9), DECODE, prefill(129)], Reason.NOT_APPLICABLE, "2 prompts of up to 129 tokens, each read whole"),
        ([prefill(256), prefill(44, 256)], Reason.APPLIES, "step 2 read 44 tokens of a prompt of which 256"),
    ],
)
def test_chunks_do_not_apply_where_every_prompt_was_seen_whole(own: list[Own], reason: Reason, words: str) -> None:
    prefills = Prefills()
    prefills.add(window(*own))
    (outcome,) = excluded(CHUNKS, prefills, None)
    assert (outcome.relation, outcome.condition, outcome.reason) == ("S06", CONDITION, reason)
    assert outcome.verdict is Verdict.INCONCLUSIVE
    assert words in outcome.detail


@pytest.mark.parametrize(
    ("metrics", "reason", "words"),
    [
        (None, Reason.METRICS_MISSING, "/metrics does not tell"),
        (Snapshot(1, 1, 0, 0, None), Reason.METRICS_MISSING, "/metrics does not tell"),
        (Snapshot(1, 1, 0, 0, None, prompts=70, cache_queries=0), Reason.NOT_APPLICABLE, "of 70 prompt tokens none"),
        (Snapshot(1, 1, 0, 0, None, prompts=70, cache_queries=9), Reason.APPLIES, "9 tokens were looked up"),
    ],
)
def test_cache_does_not_apply_where_nothing_was_looked_up(metrics: Snapshot | None, reason: Reason, words: str) -> None:
    rounds = excluded(CACHE, Prefills(), metrics)
    assert [(item.relation, item.reason, item.verdict) for item in rounds] == [
        ("S07", reason, Verdict.INCONCLUSIVE),
        ("S08", reason, Verdict.INCONCLUSIVE),
    ]
    assert words in rounds[0].detail


def test_cell_that_does_not_apply_is_no_pass_and_has_its_witness_in_the_ledger() -> None:
    ledger = Ledger()
    for outcome in excluded(CACHE, Prefills(), Snapshot(1, 1, 0, 0, None, prompts=70, cache_queries=0)):
        ledger.book(outcome, 1000)
    assert ledger.states(1000, 60) == {"fresh": 0, "stale": 0, "failed": 0, "never": 0, "notApplicable": 2}
    for cell in ledger.listed():
        assert (cell.verdict, cell.passes, cell.last_conclusive_unix) == (Verdict.INCONCLUSIVE, 0, None)
        assert cell.reason == (
            "NotApplicable: caching is off: of 70 prompt tokens none was looked up in the prefix cache"
        )
