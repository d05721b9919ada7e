"""A pod with an engine in it that attests as vLLM-Ascend does, and can be wrong in every way that a test wants.

Guard and plug-in are the real ones, in processes like the engine's own (``tests/unit/detinf/guard/engine``);
``vllm_ascend/batch_invariant.py`` among them is the published package's own file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detinf.probe import attested
from detinf.probe.attested import Attested, present, read_attested

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from published import VLLM_ASCEND, Package, source  # noqa: E402 - found through the line above

ENGINE = ROOT / "tests/unit/detinf/guard/engine"
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
        {
            "name": "vllm_ascend.ascend_config._ASCEND_CONFIG.ascend_compilation_config.fuse_qknorm_rope",
            "values": ["false"],
        },
        {"name": "vllm_ascend.utils.enable_custom_op()", "values": ["false"]},
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
    "failureLines": [
        {"file": "vllm_ascend/batch_invariant.py", "text": "Batch-invariant mode requested but"},
        {"file": "vllm_ascend/utils.py", "text": "HCCL_DETERMINISTIC is set to ["},
    ],
}
VARIABLES = {
    "VLLM_BATCH_INVARIANT": "1",
    "HCCL_DETERMINISTIC": "strict",
    "LCCL_DETERMINISTIC": "1",
    "ATB_MATMUL_SHUFFLE_K_ENABLE": "0",
}
UNRECORDED = ["HOSTNAME", "OLDPWD", "PWD", "SHLVL", "TEST_ENGINE", "_"]
"""What a launcher's shell adds, and what tells the stand-in how to be wrong, which no real engine has."""
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


def write_engine(folder: Path, package: Package = VLLM_ASCEND) -> None:
    """Write the stand-ins, and batch_invariant.py among them as a release has it."""
    shutil.copytree(ENGINE, folder, ignore=shutil.ignore_patterns("__pycache__", "README.md"))
    module = "vllm_ascend/batch_invariant.py"
    shutil.copyfile(source(package) / module, folder / module)


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
    # -S as the guard: in an image both see one set of packages, and these tests' own are none of it.
    place.write_launcher(f'exec {sys.executable} -S {engine}/serve.py "$@"')
    plan = json.loads((place.folder / "plan.json").read_text())
    plan["environment"] = {"set": dict(VARIABLES), "unset": list(UNSET), "unrecorded": list(UNRECORDED)}
    plan["attestation"] = json.loads(json.dumps(ATTESTATION))
    return Stage(place, plan)


def undocumented(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return the rows, of a name and its words, that docs/reference/attested.md does not have."""
    documented = (ROOT / "docs/reference/attested.md").read_text(encoding="utf-8").splitlines()
    return [line for name, words in rows if (line := f"| {name} | `{words.strip()}` |") not in documented]


read = attested._read


def read_or_peer(process: str, shared: Path) -> Any:
    """Read an attestation, or a peer's where there is none to be read: the check of completeness, broken."""
    found = read(process, shared)
    return read("guard", shared) if isinstance(found, str) else found


# Checks of the probe, and what each is replaced by to break it.
NOT_ALIKE = ("_unlike", lambda _found: [])
INCOMPLETE = ("_read", read_or_peer)
