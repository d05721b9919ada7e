"""What is not proven inside the engine does not serve: the real guard and plug-in, in processes like the engine's own.

Each scenario is shown twice: as it is, and with the one check broken that stands against it, whereupon the engine
serves. What the probe takes of a set is in ``test_attested_sets.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from attesting_engine import (
    ATTESTATION,
    INCOMPLETE,
    LIBRARY,
    NOT_ALIKE,
    TOOLKIT,
    VARIABLES,
    WAIT_SECONDS,
    Stage,
    run,
    undocumented,
)

from detinf.guard.layout import REFUSED_EXIT_CODE
from detinf.probe import attested
from detinf.probe.attested import Attested


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


SET_BY_THE_IMAGE = {
    "the switch is 'true' in the container": {"VLLM_BATCH_INVARIANT": "true"},
    "the switch is off in the container": {"VLLM_BATCH_INVARIANT": "0"},
    "the switch is empty in the container": {"VLLM_BATCH_INVARIANT": ""},
    "collectives are reproducible for one size only": {"HCCL_DETERMINISTIC": "true"},
    "an algorithm is chosen by hand": {"HCCL_ALGO": "level0:NA;level1:ring"},
    "a variable that must be unset is empty": {"HCCL_ALGO": ""},
    "collectives are expanded on the vector cores": {"HCCL_OP_EXPANSION_MODE": "AIV"},
    "CANN's image": {"ATB_MATMUL_SHUFFLE_K_ENABLE": "1", "LCCL_DETERMINISTIC": "0"},
}


@pytest.mark.parametrize("case", SET_BY_THE_IMAGE)
def test_variables_of_the_image_give_way_to_the_plans_and_are_told(stage: Stage, case: str) -> None:
    stage.place.environment |= SET_BY_THE_IMAGE[case]
    outcome = run(stage)
    assert outcome.served
    assert isinstance(outcome.attested, Attested), outcome
    assert outcome.attested.overridden == {"container": SET_BY_THE_IMAGE[case]}
    said = (stage.folder / "errors").read_text()
    assert all(f"{name} was {value!r} in the container" in said for name, value in SET_BY_THE_IMAGE[case].items())


def test_variables_of_the_image_that_give_way_are_no_part_of_the_fingerprint(stage: Stage) -> None:
    prints = set()
    for container in ({}, SET_BY_THE_IMAGE["CANN's image"]):
        stage.place.environment |= container
        (stage.folder / "serving").unlink(missing_ok=True)
        outcome = run(stage)
        assert isinstance(outcome.attested, Attested), outcome
        prints.add(outcome.attested.fingerprint)
    assert len(prints) == 1


def test_variable_of_the_image_that_does_not_give_way_ends_the_engine(stage: Stage) -> None:
    stage.break_check("environment", "name not in plan.unset} | plan.variables", "name not in plan.unset}")
    stage.place.environment |= SET_BY_THE_IMAGE["CANN's image"] | VARIABLES | {"LCCL_DETERMINISTIC": "0"}
    outcome = run(stage)
    assert not outcome.served
    assert outcome.code == REFUSED_EXIT_CODE
    assert "LCCL_DETERMINISTIC is '0', the plan says '1'" in outcome.words


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
NO_ENVIRONMENT = ("environment", "    return found\n\n\ndef otherwise", "    return []\n\n\ndef otherwise")
NO_PACKAGES = ("launch", "    packages.check_packages(plan.packages, installed, toolkit)\n", "")


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
        "graphs fuse norm and rotation into another kernel",
        "_ASCEND_CONFIG.ascend_compilation_config.fuse_qknorm_rope is true, it must be false",
        wrong={"fuse_qknorm_rope": True},
        broken=(NO_SYMBOLS,),
    ),
    Scenario(
        "layers call operators that batch invariance does not replace",
        "symbol: vllm_ascend.utils.enable_custom_op() is true, it must be false",
        wrong={"custom_op": True},
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
    scenario.plan(stage.plan)
    scenario.place(stage.place)
    if scenario.launcher is not None:
        engine = stage.environment["PYTHONPATH"]
        stage.place.write_launcher(f'{scenario.launcher}\nexec {sys.executable} -S {engine}/serve.py "$@"')


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


def test_every_scenario_is_documented_with_its_words() -> None:
    assert undocumented((scenario.name, scenario.words) for scenario in SCENARIOS) == []


def test_engine_that_was_started_around_the_guard_is_not_attested(stage: Stage) -> None:
    stage.write()
    environment = stage.environment | VARIABLES | {"TEST_FOLDER": str(stage.folder)}
    environment["PYTHONPATH"] = f"{stage.folder / 'guard'}:{environment['PYTHONPATH']}"
    engine = f"{stage.environment['PYTHONPATH']}/serve.py"
    process = subprocess.Popen(
        [sys.executable, "-S", engine, *stage.place.command[1:]], env=environment, process_group=0
    )
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
LOGS_IT = "vllm_ascend/batch_invariant.py"
FORGED = f"WARNING 11-29 12:00:00 [batch_invariant.py:161] {FAILURE}"
COLOURED = f"\x1b[33mWARNING\x1b[0m \x1b[90m11-29 12:00:00\x1b[0m \x1b[90m[batch_invariant.py:161]\x1b[0m {FAILURE}"


@pytest.mark.parametrize(
    "call",
    [
        f"logger.warning({FAILURE!r})",
        f"logger.error({FAILURE!r} + ' rank %d', 3)",
        f"import logging; logging.getLogger('vllm_ascend').warning({FAILURE!r})",
        # As vLLM's warning_once: the record is its caller's.
        f"def once(): logger.warning({FAILURE!r}, stacklevel=2)\nonce()",
    ],
)
def test_failure_line_that_the_engine_logs_ends_it_while_it_serves(stage: Stage, call: str) -> None:
    stage.wrong = {"logged": [(LOGS_IT, call)]}
    outcome = run(stage, log=True)
    assert outcome.code == REFUSED_EXIT_CODE
    assert f"log: the engine said '{FAILURE}" in outcome.words
    assert isinstance(outcome.attested, list)
    assert FAILURE in (stage.folder / "errors").read_text()  # it is written before the engine ends


def test_failure_line_ends_the_engine_whatever_handlers_it_has(stage: Stage) -> None:
    stage.wrong = {"logged": [(LOGS_IT, f"logger.handlers.clear(); logger.warning({FAILURE!r})")]}
    assert f"log: the engine said '{FAILURE}" in run(stage, log=True).words


@pytest.mark.parametrize(
    "call",
    [
        f"logger.setLevel('ERROR'); logger.warning({FAILURE!r})",
        f"import logging; logging.disable(logging.CRITICAL); logger.error({FAILURE!r} + ' rank %d', 3)",
        f"logger.disabled = True; logger.warning({FAILURE!r})",
        f"import logging; logger.setLevel('ERROR'); logger.log(logging.WARNING, {FAILURE!r})",
        f"logger.setLevel(41)\ndef once(): logger.warning({FAILURE!r}, stacklevel=2)\nonce()",
    ],
)
def test_failure_line_that_a_level_keeps_back_ends_the_engine_all_the_same(stage: Stage, call: str) -> None:
    stage.wrong = {"logged": [(LOGS_IT, call)]}
    outcome = run(stage, log=True)
    assert outcome.code == REFUSED_EXIT_CODE
    assert f"log: the engine said '{FAILURE}" in outcome.words


def wait_until_said(stage: Stage) -> None:
    """Wait until the engine has logged everything; the limit only turns a hang into a failure."""
    limit = time.monotonic() + 60
    while not (stage.folder / "said").exists():
        assert time.monotonic() < limit, (stage.folder / "errors").read_text()
        signal.sigtimedwait([], 0.02)


def test_failure_line_that_no_process_hears_ends_nothing(stage: Stage) -> None:
    stage.wrong = {"logged": [(LOGS_IT, f"logger.warning({FAILURE!r})")]}
    stage.break_check("said", "                self.heard(record)\n", "                pass\n")
    outcome = run(stage, wait_until_said)
    assert outcome.served
    assert isinstance(outcome.attested, Attested)


ELSEWHERE = "vllm/entrypoints/logger.py"
USERS = [
    (ELSEWHERE, "logger.info('Received request %s: prompt: %r', user, user)"),
    (ELSEWHERE, "logger.info('Received request ' + user)"),
    (ELSEWHERE, "logger.warning('The model `%s` does not exist.', user)"),
    (ELSEWHERE, "try:\n  raise ValueError(user)\nexcept ValueError:\n  logger.exception('Error in a request')"),
    (ELSEWHERE, "import logging; logging.getLogger('vllm_ascend.batch_invariant').warning(user)"),
    (ELSEWHERE, "import logging; logging.getLogger(user).warning('a header names a logger')"),
    (ELSEWHERE, "print(user, flush=True)"),
    (ELSEWHERE, "import sys; sys.stderr.write(user + chr(10))"),
    (LOGS_IT, "logger.info('asked by %s', user)"),
    (ELSEWHERE, "logger.setLevel('ERROR'); logger.warning(user)"),
    (LOGS_IT, "logger.warning('asked by %s', user); logger.setLevel('INFO')"),
]
"""How what a user wrote comes into an engine's output."""


@pytest.mark.parametrize(
    "user", [FAILURE, FORGED, f"x\n{FORGED}", f"x\r\n(Worker_TP0 pid=1) {FORGED}", f"\n{COLOURED}\n", f"%s {FAILURE}"]
)
def test_failure_line_in_what_a_user_wrote_ends_nothing(stage: Stage, user: str) -> None:
    stage.wrong = {"logged": USERS, "user": user}
    outcome = run(stage, wait_until_said)
    assert (stage.folder / "errors").read_text().count(FAILURE) >= len(USERS) - 3
    assert outcome.served, outcome.words
    assert isinstance(outcome.attested, Attested)


def test_engine_whose_log_nobody_reads_any_more_goes_on(stage: Stage) -> None:
    # More than a pipe holds: who waits for a reader never gets to its end.
    stage.wrong = {"lines": 20_000}
    stage.write()
    reader, writer = os.pipe()
    process = subprocess.Popen(stage.place.arguments(), env=stage.environment, stdout=writer, stderr=writer)
    os.close(writer)
    os.close(reader)
    try:
        limit = time.monotonic() + 60
        while not (stage.folder / "said").exists():
            assert process.poll() is None, (stage.folder / "log").read_text()
            assert time.monotonic() < limit
            signal.sigtimedwait([], 0.02)
        assert isinstance(stage.attested(), Attested)
    finally:
        for child in stage.place.children(process.pid):
            os.killpg(child, signal.SIGKILL)
        process.wait(60)


def test_refusal_whose_reader_is_gone_is_in_the_termination_log(stage: Stage) -> None:
    stage.plan["model"]["path"] = "/models/nowhere"
    stage.write()
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(stage.place.arguments(), env=stage.environment, stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(60) == REFUSED_EXIT_CODE
    assert "refused: " in (stage.folder / "log").read_text()


def test_image_of_another_release_is_told_before_what_is_another_in_it(stage: Stage) -> None:
    stage.plan["attestation"]["packages"] = ATTESTATION["packages"] | {"vllm": ["0.23.0"]}
    (stage.folder / "root" / LIBRARY).unlink()
    site = stage.folder / "site"  # its own: the engine's folder is every test's
    shutil.copytree(stage.environment["PYTHONPATH"], site)
    stage.place.environment["PYTHONPATH"] = str(site)
    (site / "vllm-0.26.0.dist-info").mkdir()
    (site / "vllm-0.26.0.dist-info/METADATA").write_text("Name: vllm\nVersion: 0.26.0\n")
    outcome = run(stage)
    assert outcome.code == REFUSED_EXIT_CODE
    release, library = (
        outcome.words.index(part) for part in ("packages: vllm is ", "files: batch_invariant_ops: no file")
    )
    assert release < library
    assert "the profile is for 0.23.0; use an image of that release, or the profile of this one" in outcome.words


def test_profile_of_another_engine_is_told_as_that_with_what_the_image_has(stage: Stage) -> None:
    stage.plan["profile"] = "simulated"
    stage.plan["attestation"]["processes"] = ["guard"]
    outcome = run(stage)
    assert outcome.code == REFUSED_EXIT_CODE
    assert re.search(
        r"(worker-\d|engine-core|api-server): process: \1 is of another engine than profile simulated's, which has "
        r"guard alone: this image has .+; use the profile of that release, or the profile's image",
        outcome.words,
    )
    assert "is not in the plan" not in outcome.words


def test_one_worker_more_than_the_plan_has_is_told_as_that(stage: Stage) -> None:
    stage.plan["attestation"]["processes"] = [item for item in ATTESTATION["processes"] if item != "worker-1"]
    outcome = run(stage)
    assert outcome.code == REFUSED_EXIT_CODE
    assert "worker-1: process: worker-1 is one more than the plan has (" in outcome.words
