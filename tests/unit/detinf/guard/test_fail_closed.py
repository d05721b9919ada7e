"""What is not proven inside the engine does not serve: the real guard and plug-in, in processes like the engine's own.

Each scenario is shown twice: as it is, and with the one check broken that stands against it, whereupon the engine
serves. ``vllm_ascend/batch_invariant.py`` is the published package's own file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detinf.documents import PodIdentity
from detinf.guard.layout import REFUSED_EXIT_CODE
from detinf.probe import attested
from detinf.probe.app import Probe
from detinf.probe.attested import Attested, present, read_attested
from detinf.probe.readiness import Files, GatePass, not_ready, write_pass

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tools"))

from published import VLLM_ASCEND, source  # noqa: E402 - found through the line above

ENGINE = Path(__file__).resolve().parent / "engine"
BI = "vllm_ascend.batch_invariant"
OPS = "torch.ops.batch_invariant_ops"
TOOLKIT = "toolkit/aarch64-linux/ascend_toolkit_install.info"
LIBRARY = "opp/vendors/batch_invariant/op_api/lib/libcust_opapi.so"
WAIT_SECONDS = 120

ATTESTATION = {
    "processes": ["guard", "api-server", "engine-core", "worker-0", "worker-1"],
    "worker": "vllm_ascend.worker.worker:NPUWorker",
    "initialiser": "vllm_ascend.worker.worker:init_batch_invariance",
    "symbols": [
        {"name": f"{BI}.HAS_TRITON", "values": ["true"]},
        {"name": f"{BI}.HAS_ASCENDC_BATCH_INVARIANT", "values": ["true"]},
        {
            "name": "torch_npu.npu_fused_infer_attention_score",
            "sameAs": f"{OPS}.npu_fused_infer_attention_score_batch_invariant",
        },
        {"name": "torch_npu.npu_add_rms_norm", "sameAs": f"{BI}.add_rms_norm"},
        {"name": "torch.sum", "sameAs": f"{BI}.reduce_sum"},
        {"name": "torch.are_deterministic_algorithms_enabled()", "values": ["true"]},
        {"name": "torch_npu.npu.get_soc_version()", "values": ["222", "223"]},
        {"name": "vllm_ascend.ascend_config._ASCEND_CONFIG.weight_nz_mode", "values": ["0"]},
        {"name": "vllm_ascend.ascend_config._ASCEND_CONFIG.enable_flashcomm1", "values": ["false"]},
    ],
    "configuration": {
        "cache_config.enable_prefix_caching": "false",
        "scheduler_config.enable_chunked_prefill": "false",
        "scheduler_config.async_scheduling": "false",
        "compilation_config.cudagraph_mode": '"PIECEWISE"',
        "model_config.quantization": "null",
        "speculative_config": "null",
        "parallel_config.tensor_parallel_size": "2",
        "parallel_config._api_process_count": "1",
        "additional_config.weight_nz_mode": "0",
    },
    "packages": {"cann": ["9.1.0"]},
    "files": {"batch_invariant_ops": "${ASCEND_OPP_PATH}/vendors/batch_invariant/op_api/lib/libcust_opapi.so"},
    "failureLines": ["Batch-invariant mode requested but", "HCCL_DETERMINISTIC is set to ["],
}
VARIABLES = {
    "VLLM_BATCH_INVARIANT": "1",
    "HCCL_DETERMINISTIC": "strict",
    "LCCL_DETERMINISTIC": "1",
    "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
}
UNSET = ["HCCL_ALGO", "HCCL_OP_EXPANSION_MODE", "VLLM_SERVER_DEV_MODE"]


@dataclass
class Stage:
    """A pod with an engine in it that can be wrong."""

    place: Any
    plan: dict[str, Any]
    wrong: dict[str, Any] = field(default_factory=dict)
    """TEST_ENGINE of the stand-in."""

    @property
    def folder(self) -> Path:
        return Path(self.place.folder)

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.place.environment)

    def write(self) -> None:
        (self.folder / "plan.json").write_text(json.dumps(self.plan, sort_keys=True, separators=(",", ":")))
        self.place.environment["TEST_ENGINE"] = json.dumps(self.wrong)

    def attested(self) -> Attested | list[str]:
        """Return what the probe makes of it."""
        return read_attested(self.folder / "plan.json", self.folder / "shared")

    def break_check(self, module: str, old: str, new: str) -> None:
        """Break a check in the installed guard."""
        self.place.break_check(module, old, new)


@dataclass
class Outcome:
    """How a start ended: refused, or serving."""

    code: int | None
    words: str
    served: bool
    attested: Attested | list[str]
    present: dict[str, bool]
    """What the probe's metrics say of each process."""


def run(stage: Stage, then: Callable[[Stage], None] = lambda _stage: None, *, log: bool = False) -> Outcome:
    """Start the guard; wait until it has refused, or its engine would answer users; end it.

    Args:
        stage: the pod.
        then: called while the engine serves, before the probe is asked.
        log: whether the guard is to end after the engine would have served.
    """
    stage.write()
    serving = stage.folder / "serving"
    errors = (stage.folder / "errors").open("w+")
    process = subprocess.Popen(stage.place.arguments(), env=stage.environment, stdout=errors, stderr=errors)
    limit = time.monotonic() + WAIT_SECONDS
    try:
        while process.poll() is None and (log or not serving.exists()):
            assert time.monotonic() < limit, (stage.folder / "errors").read_text()
            signal.sigtimedwait([], 0.02)
        served = serving.exists() and process.poll() is None
        if served:
            then(stage)
        seen = stage.attested()
        there = present(stage.folder / "plan.json", stage.folder / "shared")
    finally:
        if process.poll() is None:
            for child in stage.place.children(process.pid):
                os.killpg(child, signal.SIGKILL)
        process.wait(WAIT_SECONDS)
        errors.close()
    log_file = stage.folder / "log"
    words = log_file.read_text() if log_file.exists() else ""
    return Outcome(process.returncode, words, served, seen, there)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-ins, and the published batch_invariant.py among them."""
    folder = tmp_path_factory.mktemp("site") / "engine"
    shutil.copytree(ENGINE, folder)
    shutil.copyfile(source(VLLM_ASCEND) / "vllm_ascend/batch_invariant.py", folder / "vllm_ascend/batch_invariant.py")
    return folder


def make_stage(place: Any, engine: Path) -> Stage:
    """Return a pod in which everything is as the plan says."""
    library = place.folder / "root" / LIBRARY
    library.parent.mkdir(parents=True)
    library.write_bytes(b"kernels")
    toolkit = place.folder / "root" / TOOLKIT
    toolkit.parent.mkdir(parents=True)
    toolkit.write_text("package_name=Ascend-cann-toolkit\nversion=9.1.0\n")
    place.environment |= {"PYTHONPATH": str(engine), "ASCEND_OPP_PATH": "/opp", "PYTHONDONTWRITEBYTECODE": "1"}
    place.environment["ASCEND_TOOLKIT_HOME"] = "/toolkit"
    place.write_launcher(f'exec {sys.executable} {engine}/serve.py "$@"')
    plan = json.loads((place.folder / "plan.json").read_text())
    plan["environment"] = {"set": dict(VARIABLES), "unset": list(UNSET)}
    plan["attestation"] = json.loads(json.dumps(ATTESTATION))
    return Stage(place, plan)


@pytest.fixture
def stage(place: Any, engine: Path) -> Stage:
    """A pod in which everything is as the plan says."""
    return make_stage(place, engine)


def test_engine_that_is_as_the_plan_says_serves_attested_by_every_process(stage: Stage) -> None:
    observed: dict[str, dict[str, str]] = {}

    def note(stage: Stage) -> None:
        for process in ATTESTATION["processes"]:
            path = stage.folder / "shared" / f"attestation-{process}.json"
            observed[process] = json.loads(path.read_bytes()).get("observed")

    outcome = run(stage, note)
    assert observed["engine-core"]["cache_config.num_gpu_blocks"] == "16"
    assert observed["worker-1"] == observed["worker-0"]
    assert observed["worker-0"]["torch_npu.npu.get_soc_version()"] == "223"
    assert isinstance(outcome.attested, Attested), outcome
    assert outcome.served
    assert outcome.words == ""
    assert outcome.present == dict.fromkeys(ATTESTATION["processes"], True)


@pytest.mark.parametrize("version", ["3.10", "3.12", "3.13"])
def test_guard_and_plugin_attest_on_every_python_that_an_engine_may_have(
    stage: Stage, interpreter: Callable[[str], str], version: str
) -> None:
    stage.place.python = interpreter(version)
    stage.place.write_launcher(f'exec {stage.place.python} -S {stage.environment["PYTHONPATH"]}/serve.py "$@"')
    seen: list[str] = []

    def note(stage: Stage) -> None:
        paths = (stage.folder / "shared").glob("attestation-*.json")
        seen.extend(json.loads(path.read_bytes())["identity"]["python"] for path in paths)

    assert isinstance(run(stage, note).attested, Attested)
    assert seen == [version] * len(ATTESTATION["processes"])


@dataclass(frozen=True)
class Scenario:
    """One way to be wrong, the words that tell it, and the check that stands against it."""

    name: str
    words: str
    wrong: dict[str, Any] = field(default_factory=dict)
    """TEST_ENGINE."""
    container: dict[str, str] = field(default_factory=dict)
    """Variables of the container."""
    launcher: str | None = None
    """Shell lines before the engine."""
    plan: Callable[[dict[str, Any]], None] = lambda _plan: None
    place: Callable[[Any], None] = lambda _place: None
    broken: tuple[tuple[str, str, str], ...] = ()
    """(module, text, text instead) of the guard."""
    uneven: bool = False
    """Whether the ranks differ, which the probe sees, too."""


NO_SYMBOLS = ("expectations", "        elif same_as is None and", "        elif False and same_as is None and")
NO_SAME = ("expectations", "        if same_as is not None and observed", "        if False and observed")
NO_LOOKUP = (
    "expectations",
    '            found.append(f"symbol: {name}: {error}; batch invariance is not in effect")\n',
    "",
)
NO_CONFIGURATION = ("inside", "        found += differing\n", "")
NO_INNER_ENVIRONMENT = ("inside", "        found += environment.problems(self.plan, os.environ)\n", "")
NO_PACKAGES = ("launch", "    identity.check_packages(plan.packages, packages | toolkit)\n", "")
NO_ENVIRONMENT = ("environment", "    return found\n\n\ndef contradictions", "    return []\n\n\ndef contradictions")


def configured(name: str, path: str, value: Any, shown: str) -> Scenario:
    """Return a scenario of an effective configuration that is another than the plan's."""
    return Scenario(
        name,
        f"configuration: {path} is {shown} in effect",
        wrong={"configuration": {path: value}},
        broken=(NO_CONFIGURATION,),
    )


def without_log(plan: dict[str, Any]) -> None:
    plan["attestation"]["failureLines"] = []


def without_workers(plan: dict[str, Any]) -> None:
    plan["attestation"]["processes"] = ["guard", "api-server", "engine-core"]


SCENARIOS = (
    Scenario(
        "the op library is missing from the image",
        "files: batch_invariant_ops: no file at /opp/vendors",
        place=lambda place: (place.folder / "root" / LIBRARY).unlink(),
        broken=(
            ("files", "        if len(matching) != 1:\n", "        if len(matching) != 1:\n            continue\n"),
        ),
    ),
    Scenario(
        "the op library does not load: partial mode",
        "HAS_ASCENDC_BATCH_INVARIANT is false",
        wrong={"ranks_without_ops": [0, 1]},
        broken=(NO_SYMBOLS, NO_SAME, NO_LOOKUP),
    ),
    Scenario(
        "the op library does not load in one worker",
        "HAS_ASCENDC_BATCH_INVARIANT is false",
        wrong={"ranks_without_ops": [1]},
        broken=(NO_SYMBOLS, NO_SAME, NO_LOOKUP),
        uneven=True,
    ),
    Scenario(
        "Triton is missing too: off",
        "HAS_TRITON is false",
        wrong={"ranks_without_ops": [0, 1], "triton": False},
        plan=without_log,
        broken=(NO_SYMBOLS, NO_SAME, NO_LOOKUP),
    ),
    Scenario(
        "a symbol is put back while the model warms up",
        "torch_npu.npu_add_rms_norm is not vllm_ascend.batch_invariant.add_rms_norm",
        wrong={"undone_by_warm_up": True},
        broken=(NO_SAME,),
    ),
    Scenario(
        "the worker's device is of another kind",
        "symbol: torch_npu.npu.get_soc_version() is 250, it must be 222 or 223",
        wrong={"soc": 250},
        broken=(NO_SYMBOLS,),
    ),
    Scenario(
        "the engine has switched a collective on that depends on the tokens in a step",
        "symbol: vllm_ascend.ascend_config._ASCEND_CONFIG.enable_flashcomm1 is true, it must be false",
        wrong={"flashcomm1": True},
        broken=(NO_SYMBOLS,),
    ),
    Scenario(
        "the toolkit is of another release",
        "packages: cann is 8.2.RC1, the profile is for 9.1.0",
        place=lambda place: (place.folder / "root" / TOOLKIT).write_text("version=8.2.RC1\n"),
        broken=(NO_PACKAGES,),
    ),
    Scenario(
        "the toolkit does not tell its release",
        "packages: cann is not installed, the profile is for 9.1.0",
        place=lambda place: (place.folder / "root" / TOOLKIT).unlink(),
        broken=(NO_PACKAGES,),
    ),
    Scenario(
        "the switch is 'true' in the container",
        "VLLM_BATCH_INVARIANT is 'true', the plan says '1'",
        container={"VLLM_BATCH_INVARIANT": "true"},
        broken=(NO_ENVIRONMENT,),
    ),
    Scenario(
        "the switch is off in the container",
        "VLLM_BATCH_INVARIANT is '0', the plan says '1'",
        container={"VLLM_BATCH_INVARIANT": "0"},
        broken=(NO_ENVIRONMENT,),
    ),
    Scenario(
        "the switch is off in one worker",
        "worker: environment: VLLM_BATCH_INVARIANT is '0', the plan says '1'",
        wrong={"environment": {"1": {"VLLM_BATCH_INVARIANT": "0"}}},
        broken=(NO_SYMBOLS, NO_SAME, NO_LOOKUP, NO_INNER_ENVIRONMENT),
        uneven=True,
    ),
    Scenario(
        "the switch is unset in one worker",
        "worker: environment: VLLM_BATCH_INVARIANT is unset, the plan says '1'",
        wrong={"unset": {"0": ["VLLM_BATCH_INVARIANT"]}},
        broken=(NO_SYMBOLS, NO_SAME, NO_LOOKUP, NO_INNER_ENVIRONMENT),
        uneven=True,
    ),
    Scenario(
        "a variable is another one in one worker",
        "worker-1: environment: ATB_MATMUL_SHUFFLE_K_ENABLE is '1', the plan says '0'",
        wrong={"environment": {"1": {"ATB_MATMUL_SHUFFLE_K_ENABLE": "1"}}},
        broken=(NO_INNER_ENVIRONMENT,),
    ),
    Scenario(
        "a variable is unset in one worker",
        "worker-0: environment: ATB_MATMUL_SHUFFLE_K_ENABLE is unset",
        wrong={"unset": {"0": ["ATB_MATMUL_SHUFFLE_K_ENABLE"]}},
        broken=(NO_INNER_ENVIRONMENT,),
    ),
    Scenario(
        "collectives are reproducible for one size only",
        "HCCL_DETERMINISTIC is 'true', the plan says 'strict'",
        container={"HCCL_DETERMINISTIC": "true"},
        broken=(NO_ENVIRONMENT,),
    ),
    Scenario(
        "an algorithm is chosen by hand",
        "HCCL_ALGO is 'level0:NA;level1:ring', the plan says unset",
        container={"HCCL_ALGO": "level0:NA;level1:ring"},
        broken=(NO_ENVIRONMENT,),
    ),
    Scenario(
        "collectives are expanded on the vector cores",
        "HCCL_OP_EXPANSION_MODE is 'AIV', the plan says unset",
        container={"HCCL_OP_EXPANSION_MODE": "AIV"},
        broken=(NO_ENVIRONMENT,),
    ),
    Scenario(
        "the engine's own start script sources set_env.sh once more",
        "ATB_MATMUL_SHUFFLE_K_ENABLE is '1', the plan says '0'",
        launcher="export ATB_MATMUL_SHUFFLE_K_ENABLE=1",
        broken=(NO_ENVIRONMENT,),
    ),
    configured("prefix caching is on", "cache_config.enable_prefix_caching", True, "true"),
    configured("chunked prefill is on", "scheduler_config.enable_chunked_prefill", True, "true"),
    configured("scheduling is asynchronous", "scheduler_config.async_scheduling", True, "true"),
    configured("graphs are FULL", "compilation_config.cudagraph_mode", "FULL", '"FULL"'),
    configured("the weights are quantised", "model_config.quantization", "ascend", '"ascend"'),
    configured("tokens are drafted", "speculative_config", {"method": "ngram"}, '{"method": "ngram"}'),
    configured("there are two API servers", "parallel_config._api_process_count", 2, "2"),
    Scenario(
        # Of which each would write the one step trace.
        "there are two engine cores",
        "engine-core: process: there is attestation-engine-core.json already; the plan has one of each process",
        wrong={"cores": 2},
        plan=without_workers,
        broken=(("attestation", "        os.link(draft, target)\n", "        draft.replace(target)\n"),),
    ),
    Scenario(
        "the KV cache is too small for every request at its full length",
        "engine-core: kv-cache: 120 tokens in 15 blocks, 128 are needed",
        wrong={"configuration": {"cache_config.num_gpu_blocks": 15}},
        broken=(("inside", "[problem] if tokens < needed else []", "[]"),),
    ),
    Scenario(
        "the engine has another vocabulary than config.json",
        "vocabulary: 101 token ids in the engine, 100 in config.json",
        wrong={"configuration": {"model_config.vocab_size": 101}},
        broken=(("inside", 'if size != self.start.vocabulary["size"] and not found:', "if False:"),),
    ),
)


def set_stage(stage: Stage, scenario: Scenario) -> None:
    stage.wrong = scenario.wrong
    stage.place.environment |= scenario.container
    scenario.plan(stage.plan)
    scenario.place(stage.place)
    if scenario.launcher is not None:
        engine = stage.environment["PYTHONPATH"]
        stage.place.write_launcher(f'{scenario.launcher}\nexec {sys.executable} {engine}/serve.py "$@"')


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_engine_that_is_not_as_the_plan_says_never_serves_and_says_why(stage: Stage, scenario: Scenario) -> None:
    set_stage(stage, scenario)
    outcome = run(stage)
    assert not outcome.served, outcome
    assert isinstance(outcome.attested, list)
    assert outcome.code == REFUSED_EXIT_CODE, outcome
    assert scenario.words in outcome.words


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_engine_serves_where_the_one_check_against_it_is_broken(
    stage: Stage, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_stage(stage, scenario)
    if scenario.uneven:
        monkeypatch.setattr(attested, *NOT_ALIKE)
    for module, old, new in scenario.broken:
        stage.break_check(module, old, new)
    outcome = run(stage)
    assert outcome.served, (stage.folder / "errors").read_text()
    assert isinstance(outcome.attested, Attested), outcome.attested


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


read = attested._read


def read_or_peer(process: str, shared: Path) -> Any:
    """Read an attestation, or a peer's where there is none to be read: the check of completeness, broken."""
    found = read(process, shared)
    return read("guard", shared) if isinstance(found, str) else found


OTHER = "sha256:" + "0" * 64
NO_PROBLEMS = ("_problems", lambda *_arguments: [])
NOT_ALIKE = ("_unlike", lambda _found: [])
INCOMPLETE = ("_read", read_or_peer)

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
        "is not its identity's, none ($.python: 3.11 is a float",
        NO_PROBLEMS,
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


def row(name: str, words: str) -> str:
    """Return a row of docs/reference/attested.md."""
    return f"| {name} | `{words.replace(OTHER, 'sha256:...').replace('f' * 32, '...').strip()}` |"


def test_every_scenario_is_documented_with_its_words() -> None:
    documented = (ROOT / "docs/reference/attested.md").read_text(encoding="utf-8").splitlines()
    rows = [row(scenario.name, scenario.words) for scenario in SCENARIOS]
    rows += [row(name, words) for name, _, words, _ in SETS]
    assert [line for line in rows if line not in documented] == []


def test_engine_that_was_started_around_the_guard_is_not_attested(stage: Stage) -> None:
    stage.write()
    environment = stage.environment | VARIABLES | {"TEST_FOLDER": str(stage.folder)}
    environment["PYTHONPATH"] = f"{stage.folder / 'guard'}:{environment['PYTHONPATH']}"
    engine = f"{stage.environment['PYTHONPATH']}/serve.py"
    process = subprocess.Popen([sys.executable, engine, *stage.place.command[1:]], env=environment, process_group=0)
    try:
        limit = time.monotonic() + WAIT_SECONDS
        while not (stage.folder / "serving").exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            signal.sigtimedwait([], 0.02)
        assert "no attestation of guard yet: the engine is starting, or its guard refused" in stage.attested()
        assert list((stage.folder / "shared").iterdir()) == []
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT_SECONDS)


def test_switch_that_vllm_cannot_read_in_one_worker_ends_the_engine_before_it_serves(stage: Stage) -> None:
    stage.wrong = {"environment": {"1": {"VLLM_BATCH_INVARIANT": "true"}}}
    outcome = run(stage)
    assert not outcome.served, outcome
    assert isinstance(outcome.attested, list)
    assert outcome.present["worker-1"] is False
    # No check of ours: vllm.envs reads an integer there, so that there is nothing to be broken.
    assert "invalid literal for int() with base 10: 'true'" in (stage.folder / "errors").read_text()


def test_plugin_that_raises_is_logged_by_the_engine_and_leaves_it_unattested(stage: Stage) -> None:
    stage.break_check("plugin", "    inside.register()\n", "    raise RuntimeError('broken plug-in')\n")
    outcome = run(stage)
    assert outcome.served  # vLLM logs it, and would serve
    assert "Failed to load plugin detinf" in (stage.folder / "errors").read_text()
    assert isinstance(outcome.attested, list)
    assert "no attestation of api-server yet: the engine is starting, or its guard refused" in outcome.attested
    assert outcome.present == dict.fromkeys(ATTESTATION["processes"], False) | {"guard": True}


def test_plugin_that_raises_serves_where_nobody_asks_for_the_whole_set(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.break_check("plugin", "    inside.register()\n", "    raise RuntimeError('broken plug-in')\n")
    monkeypatch.setattr(attested, *INCOMPLETE)
    assert isinstance(run(stage).attested, Attested)


FAILURE = "Batch-invariant mode requested but Triton or AscendC batch-invariant ops is not available."


def test_failure_line_in_the_log_ends_an_engine_that_serves(stage: Stage) -> None:
    stage.wrong = {"log": FAILURE}
    outcome = run(stage, log=True)
    assert outcome.code == REFUSED_EXIT_CODE
    assert f"log: the engine said {FAILURE!r}" in outcome.words
    assert isinstance(outcome.attested, list)
    assert FAILURE in (stage.folder / "errors").read_text()  # and was passed on


def test_failure_line_is_only_a_line_where_nobody_watches(stage: Stage) -> None:
    stage.wrong = {"log": FAILURE}
    stage.break_check("watch", "        if not any(text in line for text in self.texts):", "        if True:")
    outcome = run(stage)
    assert outcome.served
    assert isinstance(outcome.attested, Attested)
