"""A set of attestations that is not complete, fresh and right is not taken: the probe, over a set that was real."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attesting_engine import ATTESTATION, INCOMPLETE, NOT_ALIKE, Stage, make_stage, run, undocumented
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detinf.documents import PodIdentity
from detinf.probe import attested
from detinf.probe.app import Probe
from detinf.probe.attested import Attested, present, read_attested
from detinf.probe.readiness import Files, GatePass, not_ready, write_pass


@pytest.fixture(scope="module")
def whole(new_place: Callable[[Path], Any], engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan and the complete set of a boot, as guard and plug-in wrote it for an engine that served."""
    made = make_stage(new_place(tmp_path_factory.mktemp("whole")), engine)
    kept = tmp_path_factory.mktemp("kept")

    def keep(stage: Stage) -> None:
        shutil.copytree(stage.folder / "shared", kept / "shared")
        shutil.copyfile(stage.folder / "plan.json", kept / "plan.json")

    assert run(made, keep).served
    return kept


def path_of(folder: Path, process: str) -> Path:
    return folder / "shared" / f"attestation-{process}.json"


def rewrite(process: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    """Return what changes an attestation as a stale or foreign one would be."""

    def rewritten(folder: Path) -> None:
        document = json.loads(path_of(folder, process).read_bytes())
        change(document)
        path_of(folder, process).write_text(json.dumps(document))

    return rewritten


def truncate(folder: Path) -> None:
    path = path_of(folder, "worker-1")
    path.write_bytes(path.read_bytes()[:-40])


OTHER = "sha256:" + "0" * 64
NO_PROBLEMS = ("_problems", lambda *_arguments: [])

# (name, what happens to the set, what the probe says, the probe's check and what it is replaced by)
SETS: tuple[tuple[str, Callable[[Path], Any], str, tuple[str, Any]], ...] = (
    (
        "of another boot",
        rewrite("worker-1", lambda document: document.update(boot="f" * 32)),
        "attestation of worker-1: boot ffffffffffffffffffffffffffffffff is not",
        NO_PROBLEMS,
    ),
    (
        "stale: for another plan",
        rewrite("engine-core", lambda document: document.update(planDigest=OTHER)),
        f"attestation of engine-core: it is for plan {OTHER}",
        NO_PROBLEMS,
    ),
    (
        "of another fingerprint than expected",
        rewrite("api-server", lambda document: document.update(fingerprint=OTHER)),
        f"attestation of api-server: fingerprint {OTHER}, expected",
        NO_PROBLEMS,
    ),
    (
        "of an identity that its fingerprint is not of",
        rewrite("api-server", lambda document: document["identity"].update(python="2.7")),
        "is not its identity's",
        NO_PROBLEMS,
    ),
    (
        "of an identity that no fingerprint can be of",
        rewrite("api-server", lambda document: document["identity"].update(python=3.11)),
        "attestation: $.identity.python: 3.11 is a float",
        INCOMPLETE,
    ),
    (
        "of a rank that found something else than its peers",
        rewrite("worker-1", lambda document: document["observed"].update({"torch.sum": "1"})),
        "attestation of worker-1: torch.sum is 1, worker-0 has",
        NOT_ALIKE,
    ),
    (
        "missing for one rank",
        lambda folder: path_of(folder, "worker-1").unlink(),
        "no attestation of worker-1 yet",
        INCOMPLETE,
    ),
    ("truncated", truncate, "attestation: document: Invalid JSON", INCOMPLETE),
    (
        "malformed: no boot",
        rewrite("worker-1", lambda document: document.pop("boot")),
        "attestation: boot: Field required",
        INCOMPLETE,
    ),
    (
        "malformed: no object",
        lambda folder: path_of(folder, "worker-1").write_text("[]"),
        "attestation: document: ",
        INCOMPLETE,
    ),
    ("empty", lambda folder: path_of(folder, "worker-1").write_bytes(b""), "attestation: document: ", INCOMPLETE),
)


@pytest.mark.parametrize("case", SETS, ids=lambda case: case[0])
def test_set_that_is_not_complete_and_right_is_not_attested_unless_the_one_check_is_broken(
    whole: Path, tmp_path: Path, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, change, words, check = case
    folder = tmp_path / "pod"
    shutil.copytree(whole, folder)
    plan, shared = folder / "plan.json", folder / "shared"
    assert isinstance(read_attested(plan, shared), Attested)
    change(folder)
    seen = read_attested(plan, shared)
    assert isinstance(seen, list), seen
    assert any(words in line for line in seen), seen
    assert (list(present(plan, shared).values()).count(False) == 1) == (check is not NOT_ALIKE)
    monkeypatch.setattr(attested, *check)
    assert isinstance(read_attested(plan, shared), Attested)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_attestation_is_told_and_never_a_crash(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "pod"
    if not folder.exists():
        shutil.copytree(whole, folder)
    process = data.draw(st.sampled_from(ATTESTATION["processes"]))
    before = path_of(whole, process).read_bytes()
    if data.draw(st.booleans()):
        document = json.loads(before)
        holder = document
        key = data.draw(st.sampled_from(sorted(holder)))
        if key == "identity" and data.draw(st.booleans()):
            holder = holder["identity"]
            key = data.draw(st.sampled_from(sorted(holder)))
        holder[key] = data.draw(ANY_JSON)
        damaged = json.dumps(document).encode()
    else:
        start = data.draw(st.integers(0, len(before)))
        damaged = (
            before[:start] + data.draw(st.binary(max_size=5)) + before[data.draw(st.integers(start, len(before))) :]
        )
    path_of(folder, process).write_bytes(damaged)
    seen = read_attested(folder / "plan.json", folder / "shared")
    there = present(folder / "plan.json", folder / "shared")
    path_of(folder, process).write_bytes(before)
    assert isinstance(seen, Attested) or all(seen), seen
    assert set(there) == set(ATTESTATION["processes"])


def test_probe_says_everywhere_what_of_the_set_is_missing(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pod"
    shutil.copytree(whole, folder)
    for name in ("state", "podinfo"):
        (folder / name).mkdir()
    files = Files(folder / "plan.json", folder / "shared", folder / "state", folder / "podinfo")
    pod = PodIdentity(namespace="n", name="a-0-0", uid="u")
    probe = Probe(files=files, settings=folder, delivery=folder, engine_url="http://127.0.0.1:1", pod=pod)
    found = read_attested(files.plan, files.shared)
    assert isinstance(found, Attested)
    assert not_ready(files) == [f"boot {found.boot} has not passed the gate"]
    write_pass(files.state, GatePass("f" * 32, found.plan_digest, found.fingerprint, OTHER))
    assert not_ready(files) == [f"boot {found.boot} has not passed the gate"]
    write_pass(files.state, GatePass(found.boot, found.plan_digest, OTHER, OTHER))
    assert not_ready(files) == ["the gate was passed under another fingerprint or plan"]
    write_pass(files.state, GatePass(found.boot, found.plan_digest, found.fingerprint, OTHER))
    assert not_ready(files) == []
    assert probe.report().ready
    assert b'detinf_probe_attested{process="worker-1"} 1.0' in probe.metrics(0)
    path_of(folder, "worker-1").unlink()  # the pass of the gate is still there
    (reason,) = not_ready(files)
    assert reason.startswith("no attestation of worker-1 yet")
    report = probe.report()
    assert (report.ready, report.reasons) == (False, [reason])
    page = probe.metrics(0).decode()
    assert 'detinf_probe_attested{process="worker-1"} 0.0' in page
    shown = [line for line in page.splitlines() if line.startswith("detinf_probe_attested{")]
    assert sorted(line.rpartition(" ")[2] for line in shown) == ["0.0", *["1.0"] * (len(ATTESTATION["processes"]) - 1)]


def test_every_set_is_documented_with_its_words() -> None:
    shown = ((name, words.replace(OTHER, "sha256:...").replace("f" * 32, "...")) for name, _, words, _ in SETS)
    assert undocumented(shown) == []
