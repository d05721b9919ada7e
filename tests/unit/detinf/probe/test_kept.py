"""Books that are kept: read back by a probe of the same boot, and by nobody else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import Gauge
from structlog.testing import capture_logs

from detinf.api.types import Promise
from detinf.documents import (
    Plan,
    PlanAttestation,
    PlanEnvironment,
    PlanModel,
    PlanTopology,
    PodIdentity,
    Reference,
    Reply,
    Verdict,
)
from detinf.probe.attested import Attested
from detinf.probe.books import Books
from detinf.probe.excluded import Prefills
from detinf.probe.exported import Exported
from detinf.probe.kept import BOOKS_FILE, read_kept
from detinf.probe.observation import Observation
from detinf.probe.verdict import Asked, Round, judge

PLAN = Plan(
    profile="simulated",
    image="none",
    model=PlanModel(path="/m", dtype="bfloat16", max_model_len=4096, max_num_seqs=32),
    arguments=[],
    environment=PlanEnvironment(set_variables={}),
    topology=PlanTopology(devices=0),
    attestation=PlanAttestation(processes=["guard"]),
)
ATTESTED = Attested("b" * 32, 0, PLAN, PLAN.digest(), "sha256:" + "0" * 64, 1000, ())
TOP = (((1, 0xBF000000), (6, 0xBF800000)), ((2, 0xBF000000), (8, 0xBF800000)))
GOOD = Observation((1, 2), (0xBF000000, 0xBF000000), "length", TOP)
BAD = Observation((1, 9), (0xBF000000, 0xBF000000), "length", (TOP[0], ((9, 0xBF000000), (8, 0xBF800000))))


def samples(gauge: Gauge) -> list[Any]:
    return [sample for family in gauge.collect() for sample in family.samples]


def new_books(state: Path) -> Books:
    pod = PodIdentity(namespace="n", name="p", uid="u")
    return Books(ATTESTED, pod, Exported(), lambda: Promise.TOKENS_AND_LOGPROBS, "node", state)


def round_of(relation: str, condition: str, **observed: Observation) -> Round:
    asked = [
        Asked(Reference(name=name, prompt_ids=[1], max_tokens=2, temperature_milli=0, seed=0), GOOD, answer)
        for name, answer in observed.items()
    ]
    return judge(relation, condition, asked, promise=Promise.TOKENS_AND_LOGPROBS)


def written(state: Path) -> Books:
    """Return books with something of everything in them, as they were written."""
    books = new_books(state)
    books.bind("references", "baseline")
    books.prefills = Prefills(3, 129, "step 2 read a part")
    books.solo_turn, books.turn = 5, 7
    books.replies = {"0a1b": Reply(evidence="0a1b", verdict=Verdict.PASS, reason="Equal")}
    books.keep([round_of("S03", "width=2", mine=GOOD)])
    books.keep([round_of("S03", "width=16", mine=BAD)])
    books.keep([round_of("S01", "solo", mine=GOOD), round_of("S02", "solo", mine=GOOD)])
    books.keep([round_of("S05", "prefill=9", mine=BAD)])
    return books


def test_books_of_the_same_boot_are_read_back_whole(tmp_path: Path) -> None:
    before = written(tmp_path)
    kept = read_kept(tmp_path, ATTESTED)
    assert kept is not None
    after = new_books(tmp_path)
    after.restore(kept)
    for name in ("ledger", "evidence", "further", "looked", "replies", "prefills", "solo_turn", "turn", "gate_failed"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.references_digest, after.baseline_digest) == ("references", "baseline")
    assert after.hint() == before.hint() is not None
    after.save()
    assert read_kept(tmp_path, ATTESTED) == kept
    assert [path.name for path in tmp_path.iterdir()] == [BOOKS_FILE]


def test_probe_that_starts_again_shows_when_relations_held_last(tmp_path: Path) -> None:
    before = written(tmp_path)
    kept = read_kept(tmp_path, ATTESTED)
    assert kept is not None
    after = new_books(tmp_path)
    after.restore(kept)
    cells = {(cell.relation, cell.condition): cell for cell in before.ledger.listed()}
    passed = {sample.labels["relation"]: sample.value for sample in samples(after.exported.last_pass)}
    assert passed == {
        "S01": cells["S01", "solo"].last_pass_unix,
        "S02": cells["S02", "solo"].last_pass_unix,
        "S03": cells["S03", "width=2"].last_pass_unix,
    }
    conclusive = {sample.labels["relation"] for sample in samples(after.exported.last_conclusive)}
    assert conclusive == {"S01", "S02", "S03", "S05"}


@pytest.mark.parametrize("change", [{"boot": "c" * 32}, {"plan_digest": "other"}, {"fingerprint": "other"}])
def test_another_boot_plan_or_fingerprint_inherits_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    written(tmp_path)
    assert read_kept(tmp_path, replace(ATTESTED, **change)) is None


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff\x00", b'{"schema":2}', b"[" * 100_000])
def test_file_that_is_no_books_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / BOOKS_FILE).write_bytes(data)
    assert read_kept(tmp_path, ATTESTED) is None


def test_no_file_or_a_folder_in_its_place_is_none(tmp_path: Path) -> None:
    assert read_kept(tmp_path / "nowhere", ATTESTED) is None
    (tmp_path / BOOKS_FILE).mkdir()
    assert read_kept(tmp_path, ATTESTED) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_damaged_file_is_none_or_can_be_gone_on_with(tmp_path: Path, place: int, damage: bytes) -> None:
    written(tmp_path)
    data = (tmp_path / BOOKS_FILE).read_bytes()
    place %= len(data)
    (tmp_path / BOOKS_FILE).write_bytes(data[:place] + damage + data[place + len(damage) :])
    kept = read_kept(tmp_path, ATTESTED)
    if kept is not None:
        new_books(tmp_path).restore(kept)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000))
def test_torn_file_is_none(tmp_path: Path, length: int) -> None:
    written(tmp_path)
    data = (tmp_path / BOOKS_FILE).read_bytes()
    (tmp_path / BOOKS_FILE).write_bytes(data[: length % len(data)])
    assert read_kept(tmp_path, ATTESTED) is None


def test_folder_that_cannot_be_written_is_said_once_and_nothing_else(tmp_path: Path) -> None:
    books = new_books(tmp_path / "nowhere")
    with capture_logs() as logs:
        for _ in range(3):
            books.keep([round_of("S02", "solo", mine=GOOD)])
    assert [entry["event"] for entry in logs] == ["books not kept"]
    assert books.ledger.listed()[0].passes == 3


def test_gate_that_failed_says_so_in_the_same_file_as_its_evidence(tmp_path: Path) -> None:
    """Between two files a probe might end, and the next one would ask a boot that failed once more."""
    books = new_books(tmp_path)
    books.keep([round_of("S03", "width=8", mine=BAD)], at_gate=True)
    books.keep([round_of("S03", "width=2", mine=BAD)], at_gate=True)
    kept = json.loads((tmp_path / BOOKS_FILE).read_bytes())
    assert kept["gateFailed"] == "gate: S03 width=8: FAIL: mine: token differs at position 1"
    assert kept["evidence"]["condition"] == "width=8"
    watching = new_books(tmp_path)
    watching.keep([round_of("S03", "width=8", mine=BAD)])
    assert watching.gate_failed is None


def test_cells_held_against_another_baseline_do_not_count_and_the_divergence_stays(tmp_path: Path) -> None:
    books = written(tmp_path)
    books.bind("references")
    books.bind("references", "baseline")
    assert books.ledger.cells
    books.bind("references", "another")
    assert (books.ledger.cells, books.replies, books.baseline_digest) == ({}, {}, "another")
    assert books.evidence is not None
    books = written(tmp_path)
    books.bind("others")
    assert (books.ledger.cells, books.baseline_digest) == ({}, None)


def test_first_baseline_leaves_what_was_booked_before_it(tmp_path: Path) -> None:
    books = new_books(tmp_path)
    books.bind("references")
    books.keep([round_of("S01", "solo", mine=GOOD)])
    books.bind("references", "baseline")
    assert books.ledger.cells
