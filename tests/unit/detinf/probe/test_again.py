"""What is asked again: what is asked for an item, what is replied, and when it is asked once more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detinf.api.names import ANNOTATION_AGAIN
from detinf.api.types import Promise
from detinf.documents import Again, AskedAgain, Reference, Reply, Verdict, Witness
from detinf.probe.again import Pending, Question, meets, question, read_asked, reply, unknown
from detinf.probe.observation import Observation
from detinf.probe.reasons import BACK_OFF_SECONDS, InconclusiveError, Reason
from detinf.probe.references import propose
from detinf.probe.verdict import Asked, Round, judge

ITEMS = propose(1000, [], 4096, 24).items
BY_LENGTH = {len(item.prompt_ids): item for item in reversed(ITEMS)}
GOOD = Observation((1, 2), (0xBF000000, 0xBF000000), "length")
BAD = Observation((1, 9), (0xBF000000, 0xBF000000), "length")
LATE = InconclusiveError(Reason.TIMEOUT, "late")


def item_of(relation: str, condition: str, reference: str, evidence: str = "0a1b2c3d4e") -> Again:
    return Again(evidence=evidence, relation=relation, condition=condition, reference=reference)


# The annotation -------------------------------------------------------------------------------------------------------


def annotated(folder: Path, value: str) -> Path:
    # Of text without unprintable characters, Go's quotes are JSON's.
    line = f"{ANNOTATION_AGAIN}={json.dumps(value, ensure_ascii=False)}"
    (folder / "annotations").write_text(f'app="x"\n{line}\nz="1"', encoding="utf-8")
    return folder


def test_items_of_the_annotation_are_read_each_evidence_once(tmp_path: Path) -> None:
    items = [item_of("S02", "solo", "a", "e1"), item_of("S03", "width=8", "b", "e2"), item_of("S01", "solo", "a", "e1")]
    document = AskedAgain(items=items).canonical().decode()
    assert read_asked(annotated(tmp_path, document)) == items[:2]


def test_no_annotation_asks_nothing(tmp_path: Path) -> None:
    assert read_asked(tmp_path) == []
    (tmp_path / "annotations").write_text('app="x"', encoding="utf-8")
    assert read_asked(tmp_path) == []
    assert read_asked(annotated(tmp_path, AskedAgain(items=[]).canonical().decode())) == []


@pytest.mark.parametrize("value", ["", "null", "[]", "{}", '{"schema":2,"items":[]}', '{"schema":1,"items":[{}]}'])
def test_annotation_that_is_no_document_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValueError, match="asked-again"):
        read_asked(annotated(tmp_path, value))


# What is asked --------------------------------------------------------------------------------------------------------


def asked(relation: str, condition: str, length: int, *, widest: int = 16, traced: bool = True) -> Question:
    found = question(
        item_of(relation, condition, BY_LENGTH[length].name), ITEMS, {}, widest=widest, traced=traced, turn=3
    )
    assert found is not None
    assert found.reference == BY_LENGTH[length]
    if found.cell is not None:
        assert found.reference in found.cell.references
        assert len(set(map(repr, found.cell.references))) > 1
    return found


@pytest.mark.parametrize("length", [5, 129, 2049])
def test_alone_is_asked_alone_and_a_repeat_twice(length: int) -> None:
    assert asked("S02", "solo", length) == Question(BY_LENGTH[length])
    assert asked("S01", "solo", length) == Question(BY_LENGTH[length], twice=True)


# (relation, condition, length of the reference, the cell that is asked, whether it is the one that was named)
CELLS = (
    ("S03", "width=2", 5, "width=2", True),
    ("S03", "width=16", 5, "width=16", True),
    ("S03", "width>=8", 5, "width=8", True),
    ("S03", "width=8", 2049, "width=8", True),
    ("S03", "width=32", 5, "width=16", False),
    ("S03", "width>=17", 5, "width=16", False),
    ("S04", "tokens=255", 127, "tokens=255", True),
    ("S04", "tokens=257", 129, "tokens=257", True),
    ("S04", "tokens=257", 128, "tokens=257", True),
    ("S04", "tokens=257", 127, "tokens=256", False),  # 127 + 130 there is not; 129 comes nearest
    ("S04", "tokens=14", 5, "tokens=14", True),  # 5 + 9
    ("S04", "tokens>256", 128, "tokens=257", True),  # the smallest above it; in company it is that condition
    ("S04", "tokens>256", 5, "tokens=134", True),  # none is above it: the largest
    ("S05", "prefill=9", 9, "prefill=9", True),
    ("S05", "prefill=9", 17, "prefill=9", True),
    ("S05", "prefill=129", 5, "prefill=129", True),
    ("S05", "prefill=8", 17, "prefill=9", False),
)


@pytest.mark.parametrize(("relation", "condition", "length", "cell", "named"), CELLS)
def test_cell_of_a_condition_holds_the_reference_and_is_the_nearest_that_there_is(
    relation: str, condition: str, length: int, cell: str, named: bool
) -> None:
    found = asked(relation, condition, length)
    assert found.cell is not None
    assert (found.cell.relation, found.cell.condition) == (relation, cell)
    assert (found.instead is None) == named
    if relation == "S05" and length == 9:
        assert found.cell.references[-1] == found.reference


def test_widest_cohort_is_the_engines_own_where_that_is_narrower() -> None:
    found = asked("S03", "width=16", 5, widest=4)
    assert found.cell is not None
    assert (found.cell.condition, found.instead) == (
        "width=4",
        "no cohort above 4 is formed while users are served",
    )


@pytest.mark.parametrize(
    ("relation", "condition", "traced"),
    [
        ("S05", "prefill=9", False),  # nobody can see when the others decode
        ("S03", "width=1", True),
        *(("S03", condition, True) for condition in ("width>8", "tokens=256", "solo", "", "width=x", "width=08")),
        *(("S04", condition, True) for condition in ("tokens>=8", "gate", "width=8")),
        *(("S05", condition, True) for condition in ("prefill>9", "gate")),
        ("S06", "not applicable", True),
        ("S02", "outside the limits", True),
        ("S01", "width=8", True),
    ],
)
def test_what_cannot_be_formed_is_asked_alone_and_says_so(relation: str, condition: str, traced: bool) -> None:
    found = asked(relation, condition, 9, traced=traced)
    assert (found.cell, found.twice) == (None, False)
    assert found.instead is not None


def test_launch_without_a_trace_is_asked_since_a_difference_needs_no_witness() -> None:
    found = asked("S04", "tokens=257", 128, traced=False)
    assert found.cell is not None
    assert found.instead is None


def test_reference_that_is_the_only_one_is_asked_alone() -> None:
    only = ITEMS[0]
    found = question(item_of("S03", "width=8", only.name), [only], {}, widest=16, traced=True)
    assert found is not None
    assert (found.cell, found.instead is None) == (None, False)


def test_reference_that_nobody_can_be_asked_is_none_and_replied_with_its_reason() -> None:
    item = item_of("S02", "solo", "elsewhere")
    assert question(item, ITEMS, {}, widest=16, traced=True) is None
    found = unknown(item)
    assert (found.evidence, found.verdict) == (item.evidence, Verdict.INCONCLUSIVE)
    assert found.reason == "NotComparable: there is no reference elsewhere that this engine can be asked"


# What is replied ------------------------------------------------------------------------------------------------------


def round_of(relation: str, condition: str, **observed: Observation | InconclusiveError) -> Round:
    references = {
        name: Reference(name=name, prompt_ids=[1], max_tokens=2, temperature_milli=0, seed=0) for name in observed
    }
    listed = [Asked(references[name], GOOD, answer) for name, answer in observed.items()]
    witness = Witness(kind="W0", width=1, detail="seen")
    return judge(relation, condition, listed, promise=Promise.TOKENS, witness=witness)


ALONE = Question(ITEMS[0])
INSTEAD = Question(ITEMS[0], instead="no cohort above 16 is formed while users are served")
WIDER = f"it was S03 width=16, wanted was S03 width=32 ({INSTEAD.instead})"

# (wanted, what was asked, what came of it, the reply's verdict and reason)
REPLIES: tuple[tuple[tuple[str, str], Question, list[Round], Verdict, str], ...] = (
    (("S02", "solo"), ALONE, [round_of("S02", "solo", mine=GOOD)], Verdict.PASS, "Equal: seen"),
    (
        ("S02", "solo"),
        ALONE,
        [round_of("S02", "solo", mine=BAD)],
        Verdict.FAIL,
        "Different: mine: token differs at position 1",
    ),
    (("S02", "solo"), ALONE, [round_of("S02", "solo", mine=LATE)], Verdict.INCONCLUSIVE, "Timeout: mine: late"),
    (
        ("S01", "solo"),
        ALONE,
        [round_of("S01", "solo", mine=GOOD), round_of("S02", "solo", mine=GOOD)],
        Verdict.PASS,
        "Equal: seen",
    ),
    # Of the same answers: it is the same twice, and another than agreed.
    (
        ("S01", "solo"),
        ALONE,
        [round_of("S01", "solo", mine=GOOD), round_of("S02", "solo", mine=BAD)],
        Verdict.FAIL,
        "it was S02 solo, wanted was S01 solo: FAIL: Different: mine: token differs at position 1",
    ),
    (("S03", "width=8"), ALONE, [round_of("S03", "width=8", mine=GOOD, x=GOOD)], Verdict.PASS, "Equal: seen"),
    # A difference of another reference of the cohort is a difference.
    (
        ("S03", "width=8"),
        ALONE,
        [round_of("S03", "width=8", mine=GOOD, x=BAD)],
        Verdict.FAIL,
        "Different: x: token differs at position 1",
    ),
    # It ran otherwise than wanted: a PASS of something else is none.
    (
        ("S03", "width=8"),
        ALONE,
        [round_of("S03", "width=4", mine=GOOD)],
        Verdict.INCONCLUSIVE,
        "it was S03 width=4, wanted was S03 width=8: PASS: Equal: seen",
    ),
    (
        ("S03", "width=32"),
        INSTEAD,
        [round_of("S03", "width=16", mine=GOOD)],
        Verdict.INCONCLUSIVE,
        f"{WIDER}: PASS: Equal: seen",
    ),
    (
        ("S03", "width=32"),
        INSTEAD,
        [round_of("S03", "width=16", mine=BAD)],
        Verdict.FAIL,
        f"{WIDER}: FAIL: Different: mine: token differs at position 1",
    ),
    (
        ("S04", "tokens>256"),
        ALONE,
        [round_of("S04", "tokens=257", mine=GOOD)],
        Verdict.INCONCLUSIVE,
        "it was S04 tokens=257, wanted was S04 tokens>256: PASS: Equal: seen",
    ),
    (("S04", "tokens>256"), ALONE, [round_of("S04", "tokens>256", mine=GOOD)], Verdict.PASS, "Equal: seen"),
    # The reference was not among those whose answers were compared.
    (("S03", "width=8"), ALONE, [round_of("S03", "width=8", x=GOOD)], Verdict.INCONCLUSIVE, "Equal: seen"),
)


@pytest.mark.parametrize(("wanted", "asked_for", "rounds", "verdict", "reason"), REPLIES)
def test_reply_claims_no_more_than_was_looked_at(
    wanted: tuple[str, str], asked_for: Question, rounds: list[Round], verdict: Verdict, reason: str
) -> None:
    found = reply(item_of(*wanted, "mine"), asked_for, rounds)
    assert found == Reply(evidence="0a1b2c3d4e", verdict=verdict, reason=reason)


def test_cohort_that_was_wanted_at_a_width_and_ran_wider_by_tenants_is_not_that_width() -> None:
    wider = replace(round_of("S03", "width=32", mine=GOOD), as_wanted=True)
    assert reply(item_of("S03", "width=16", "mine"), ALONE, [wider]).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("ran", "wanted", "met"),
    [
        ("width=8", "width=8", True),
        ("width=9", "width=8", False),
        ("width=8", "width>=8", True),
        ("width=16", "width>=8", True),
        ("width>=9", "width>=8", True),
        ("width=7", "width>=8", False),
        ("width>=7", "width>=8", False),
        ("width>=8", "width=8", False),
        ("tokens=300", "tokens>256", False),
        ("solo", "width>=8", False),
        ("solo", "solo", True),
    ],
)
def test_condition_that_ran_is_the_wanted_one_or_is_not(ran: str, wanted: str, met: bool) -> None:
    assert meets(ran, wanted) == met


# When it is asked -----------------------------------------------------------------------------------------------------


def replied(item: Again, verdict: Verdict) -> dict[str, Reply]:
    return {item.evidence: Reply(evidence=item.evidence, verdict=verdict, reason="")}


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL])
def test_conclusive_reply_is_final(verdict: Verdict) -> None:
    item = item_of("S02", "solo", "a")
    assert Pending().next([item], replied(item, verdict), 0.0) is None


def test_inconclusive_item_is_asked_later_and_later_for_as_long_as_it_stands_there() -> None:
    item, pending, now = item_of("S02", "solo", "a"), Pending(), 100.0
    replies = replied(item, Verdict.INCONCLUSIVE)
    for wait in (*BACK_OFF_SECONDS, BACK_OFF_SECONDS[-1]):
        assert pending.next([item], replies, now) == item
        pending.put_off(item, now)
        assert pending.next([item], replies, now + wait - 0.1) is None
        now += wait
    assert pending.next([], replies, now) is None


def test_items_that_were_never_asked_come_first() -> None:
    old, new, pending = item_of("S02", "solo", "a", "old"), item_of("S02", "solo", "a", "new"), Pending()
    pending.put_off(old, 0.0)
    assert not pending.is_new(old)
    assert pending.is_new(new)
    assert pending.next([old, new], {}, 1000.0) == new
