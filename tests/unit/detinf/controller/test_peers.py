"""Which words of a peer convict a replica that diverged: rows of a table, each a rule of ``controller/peers.py``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleet import FINGERPRINT, answer

from detinf.api import names
from detinf.controller.observed import Replica
from detinf.controller.peers import Rounds, asked_of, heard, question
from detinf.documents import AskedAgain, Cell, Evidence, Phase, PodIdentity, Reply, Report, Verdict, Witness

ROUNDS = Rounds(replies=15, old=60)
DETECTED = 1_800_000_000


def evidence(index: int, relation: str = "S02", condition: str = "solo", **changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "pod": PodIdentity(namespace="ns", name=f"a-{index}-0", uid=f"u{index}"),
        "boot": f"{index:032x}",
        "plan_digest": "sha256:" + "0" * 64,
        "fingerprint": FINGERPRINT,
        "references_digest": "sha256:" + "1" * 64,
        "relation": relation,
        "condition": condition,
        "reference": "r0",
        "observable": "logprob",
        "phase": "decode",
        "position": 1,
        "differing_positions": 1,
        "max_ulps": 1,
        "expected": answer(0),
        "observed": answer(1),
        "witness": Witness(kind="None", width=1, detail=""),
        "hint": "drift",
        "detected_unix": DETECTED,
    }
    return Evidence(**(fields | changes))


def replica(index: int, *, ready: bool = True, serving: str = "true", **report: Any) -> Replica:
    pod = {
        "metadata": {"name": f"a-{index}-0", "uid": f"u{index}", "labels": {names.LABEL_SERVING: serving}},
        "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
    }
    fields: dict[str, Any] = {
        "pod": PodIdentity(namespace="ns", name=f"a-{index}-0", uid=f"u{index}"),
        "boot": f"{index:032x}",
        "fingerprint": FINGERPRINT,
        "phase": Phase.PASSED,
        "ready": True,
        "reasons": [],
        "cells": [],
    }
    return Replica(index, None, pod, Report(**(fields | report)))


WRONG = replica(1, evidence=evidence(1))
ASKED = question(evidence(1)).evidence


def reply(verdict: Verdict, asked: str = ASKED) -> list[Reply]:
    return [Reply(evidence=asked, verdict=verdict, reason="")]


def cell(relation: str = "S02", condition: str = "solo", verdict: Verdict = Verdict.PASS, later: int = 1) -> list[Cell]:
    passed = DETECTED + later
    return [
        Cell(
            relation=relation,
            condition=condition,
            verdict=verdict,
            reason="",
            passes=1,
            fails=0,
            inconclusive=0,
            last_pass_unix=passed,
            last_conclusive_unix=passed,
        )
    ]


PASSES = ([0], [], [])
FAILS = ([], [0], [])
SILENT = ([], [], [0])
NO_PEER: tuple[list[int], list[int], list[int]] = ([], [], [])
ROWS: list[tuple[str, Replica, float, tuple[list[int], list[int], list[int]]]] = [
    ("it passed the same since", replica(0, replies=reply(Verdict.PASS)), 0, PASSES),
    ("it could not tell", replica(0, replies=reply(Verdict.INCONCLUSIVE)), 0, SILENT),
    ("it failed the same, and its evidence is on its way", replica(0, replies=reply(Verdict.FAIL)), 0, SILENT),
    ("it replied to another question", replica(0, replies=reply(Verdict.PASS, "0" * 10)), 0, SILENT),
    ("it replied to nothing", replica(0, replies=[]), 0, SILENT),
    ("it could not tell, and its cell passed later", replica(0, replies=[], cells=cell()), 1000, SILENT),
    (
        "it passed the same, and diverged itself",
        replica(0, replies=reply(Verdict.PASS), evidence=evidence(0)),
        0,
        FAILS,
    ),
    ("it diverged on another cell", replica(0, evidence=evidence(0, "S03", "width=8")), 0, FAILS),
    ("it is of another fingerprint", replica(0, replies=reply(Verdict.PASS), fingerprint="sha256:other"), 0, NO_PEER),
    ("it does not serve", replica(0, ready=False, replies=reply(Verdict.PASS)), 0, NO_PEER),
    ("it leaves the Service", replica(0, serving="false", replies=reply(Verdict.PASS)), 0, NO_PEER),
    ("it reports nothing", replace(replica(0), report=None), 0, NO_PEER),
    ("its probe is old, and its round is not over", replica(0, cells=cell()), 59, SILENT),
    ("its probe is old, and passed later", replica(0, cells=cell()), 60, PASSES),
    ("its probe is old, and passed before", replica(0, cells=cell(later=0)), 1000, SILENT),
    ("its probe is old, and passed another cell", replica(0, cells=cell("S03", "width=2")), 1000, SILENT),
    ("its probe is old, and its cell fails", replica(0, cells=cell(verdict=Verdict.FAIL)), 1000, SILENT),
]


@pytest.mark.parametrize(("peer", "waited", "said"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_peer_counts_as_what_it_said_after_the_divergence(
    peer: Replica, waited: float, said: tuple[list[int], list[int], list[int]]
) -> None:
    found = heard(WRONG, [peer, WRONG], waited=waited, rounds=ROUNDS)
    assert (found.passing, found.failing, found.silent) == said


def test_any_piece_of_its_evidence_that_a_peer_passes_convicts() -> None:
    first, second = evidence(1), evidence(1, "S03", "width=4")
    wrong = replica(1, evidence=first, further=[second])
    peer = replica(0, replies=reply(Verdict.PASS, question(second).evidence))
    assert heard(wrong, [peer, wrong], waited=0, rounds=ROUNDS).passing == [0]


@pytest.mark.parametrize(
    ("passing", "silent", "waited", "alone"),
    [(1, 0, 0, True), (1, 1, 14, False), (1, 1, 15, True), (0, 0, 1000, False), (0, 1, 1000, False)],
)
def test_replica_is_alone_where_a_peer_passes_and_the_others_were_waited_for(
    passing: int, silent: int, waited: float, *, alone: bool
) -> None:
    peers = [replica(2 + number, replies=reply(Verdict.PASS)) for number in range(passing)]
    peers += [replica(10 + number, replies=[]) for number in range(silent)]
    found = heard(WRONG, [WRONG, *peers], waited=waited, rounds=ROUNDS)
    assert found.alone(waited=waited, rounds=ROUNDS) is alone


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (replica(0), True),
        (replica(0, fingerprint="sha256:other"), False),
        (replica(0, evidence=evidence(0)), False),
        (replica(0, ready=False), False),
        (replica(0, serving="false"), False),
        (replace(replica(0), report=None), False),
    ],
    ids=["peer", "other fingerprint", "diverged itself", "not ready", "leaves", "no report"],
)
def test_probe_is_asked_where_its_reply_could_count(asked: Replica, *, expected: bool) -> None:
    said = asked_of(asked, [asked, WRONG])
    assert (said is not None) is expected
    if said is not None:
        assert [item.evidence for item in AskedAgain.parse(said).items] == [ASKED]


def test_nobody_is_asked_about_itself_or_where_nobody_diverged() -> None:
    assert asked_of(replica(0), [replica(0), replica(1)]) is None
    assert asked_of(WRONG, [WRONG]) is None
