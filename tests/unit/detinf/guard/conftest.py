"""A pod without Kubernetes: the installed guard, a stub of ``vllm`` and folders in which everything verifies."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from attesting_engine import UNRECORDED, Stage, make_stage, write_engine

from detinf.documents import Attestation, Plan, PlanAttestation, PlanEnvironment, PlanModel, PlanTopology
from detinf.guard.install import install

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tools" / "cluster"))

from detinf_cluster.npu import write_tree  # noqa: E402 - found through the line above

WAIT_SECONDS = 60
NOBODY = 65534

ENGINE = """\
import json, os, signal, subprocess, sys, pathlib
folder = pathlib.Path(os.environ["TEST_FOLDER"])
mode = os.environ.get("TEST_MODE", "wait")
seen = {"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()}
if mode == "middleware":
    import detinf.guard.middleware
    door = detinf.guard.middleware.RequestFilter(None)
    seen["middleware"] = [detinf.guard.middleware.__file__, door.header[1].decode()]
def term(number, frame):
    folder.joinpath("signals").open("a").write(f"{number} ")
    if number == signal.SIGTERM:
        sys.exit(7)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
    signal.signal(number, term)
if mode == "worker":
    seen["worker"] = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
if mode == "orphan":
    grandchild = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'pass'], stdout=2).pid)"
    orphan = int(subprocess.run([sys.executable, "-c", grandchild], capture_output=True, check=True).stdout)
    while os.path.exists(f"/proc/{orphan}"):  # whoever is its parent now has to reap it
        signal.sigtimedwait([], 0.02)
folder.joinpath("engine.draft").write_text(json.dumps(seen))
folder.joinpath("engine.draft").replace(folder / "engine.json")
while True:
    signal.sigtimedwait([], 0.1)  # pause() would sleep through a signal that comes just before it
"""


def plan() -> Plan:
    """Return the plan that the folders of a pod fit."""
    return Plan(
        profile="simulated",
        image="image",
        model=PlanModel(path="/models/m", dtype="bfloat16", max_model_len=64, max_num_seqs=2),
        arguments=["--seed", "0", "--max-model-len", "64"],
        environment=PlanEnvironment(
            set_variables={"VLLM_BATCH_INVARIANT": "1"}, unset=["HCCL_ALGO"], unrecorded=list(UNRECORDED)
        ),
        topology=PlanTopology(devices=0),
        attestation=PlanAttestation(processes=["guard"]),
    )


@dataclass
class Place:
    """A pod's folders, and what runs in them."""

    folder: Path
    environment: dict[str, str]
    command: list[str]
    python: str = sys.executable
    wrapper: list[str] = field(default_factory=list)
    user: dict[str, Any] = field(default_factory=dict)

    def write_plan(self, change: Callable[[dict[str, Any]], Any] = lambda _plan: None) -> None:
        """Write the plan, changed by hand or not."""
        document = json.loads(plan().canonical())
        change(document)
        (self.folder / "plan.json").write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))

    def write_launcher(self, script: str) -> None:
        """Write what is found as ``vllm``; the first thing that it does is to leave a trace."""
        launcher = self.folder / "bin" / "vllm"
        launcher.write_text(f'#!/bin/sh\n: > "$TEST_FOLDER/ran"\n{script}\n')
        launcher.chmod(0o755)

    def give_devices(self, ids: range = range(8), **tree: Any) -> None:
        """Put NPUs, the driver's files and an npu-smi there; ``tree`` is that of ``write_tree``."""
        write_tree(self.folder / "root", **tree)
        for path in (self.folder / "root/dev").glob("davinci*"):
            path.unlink()
        for identifier in ids:
            (self.folder / "root/dev" / f"davinci{identifier}").touch()
        (self.folder / "root/dev/davinci_manager").touch()
        source = (self.folder / "root/usr/local/bin/npu-smi").read_text()
        for told, here in (
            ("#!/usr/bin/env python3", f"#!{self.python}"),
            ("/usr/local/dcmi", f"{self.folder}/root/usr/local/dcmi"),
            ('Path("/dev")', f'Path("{self.folder}/root/dev")'),
        ):
            assert told in source
            source = source.replace(told, here)
        self.write_npu_smi(source)

    def write_npu_smi(self, source: str) -> None:
        """Write what is found as ``npu-smi``."""
        (self.folder / "bin/npu-smi").write_text(source)
        (self.folder / "bin/npu-smi").chmod(0o755)

    def break_check(self, module: str, old: str, new: str) -> None:
        """Break a check in the installed guard; the product has no switch for it."""
        path = self.folder / "guard" / "detinf" / "guard" / f"{module}.py"
        text = path.read_text()
        assert text.count(old) == 1, f"{module}: {old!r} is there {text.count(old)} times"
        path.write_text(text.replace(old, new))

    def arguments(self) -> list[str]:
        """Return the guard's command line."""
        return [
            *self.wrapper,
            *(self.python, "-I", "-S", str(self.folder / "guard")),
            *("--plan", str(self.folder / "plan.json"), "--shared", str(self.folder / "shared")),
            *("--root", str(self.folder / "root"), "--termination-log", str(self.folder / "log")),
            *("--", *self.command),
        ]

    def in_pid_namespace(self) -> None:
        """Run the guard as process 1."""
        root = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
        self.wrapper = ["unshare", *root, "--pid", "--fork", "--kill-child", "--mount-proc"]

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the guard to its end."""
        return subprocess.run(
            self.arguments(),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS,
            **self.user,
        )

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[str]]:
        """Run the guard for as long as the block lasts."""
        for name in ("ran", "engine.json", "signals"):
            (self.folder / name).unlink(missing_ok=True)
        process = subprocess.Popen(
            self.arguments(), env=self.environment, stderr=subprocess.PIPE, text=True, **self.user
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                # The engine goes first, and with it the guard; a guard that is gone could not sweep it.
                with contextlib.suppress(OSError, ValueError):
                    os.kill(self.children(self.guard(process))[0], signal.SIGKILL)
                    process.wait(10)
            process.kill()
            process.communicate()

    def lifetime(self, change: Callable[[], Any] = lambda: None) -> Attestation:
        """Start the guard, wait until its engine runs and is attested, end it; return the attestation."""
        with self.started() as process:
            engine = self.wait_for_engine(process)
            self.wait_for(self.attestation, process)
            seen = Attestation.parse(self.attestation.read_bytes())
            assert seen.boot == engine["env"]["DETINF_BOOT"]
            change()
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 7
        return seen

    @staticmethod
    def children(process: int) -> list[int]:
        """Return the children of a process."""
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]

    def guard(self, process: subprocess.Popen[str]) -> int:
        """Return the guard's process id as seen from here."""
        return self.children(process.pid)[0] if self.wrapper else process.pid

    def wait_for(self, path: Path, process: subprocess.Popen[str]) -> None:
        """Wait for a file that a process is to write; the limit only turns a hang into a failure."""
        limit = time.monotonic() + WAIT_SECONDS
        while not path.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit, f"{path} was not written"
            signal.sigtimedwait([], 0.02)

    def wait_for_engine(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for the engine; return what it saw of itself."""
        self.wait_for(self.folder / "engine.json", process)
        return dict(json.loads((self.folder / "engine.json").read_text()))

    @property
    def attestation(self) -> Path:
        """The guard's attestation."""
        return self.folder / "shared" / "attestation-guard.json"

    @property
    def engine_ran(self) -> bool:
        """Whether the engine's program was run at all."""
        return (self.folder / "ran").exists()


def make_place(folder: Path, python: str = sys.executable) -> Place:
    """Make folders in which everything verifies."""
    for name in ("shared", "guard", "bin", "root/models/m", "root/dev"):
        (folder / name).mkdir(parents=True)
    install(folder / "guard")
    config = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": None}
    (folder / "root/models/m/config.json").write_text(json.dumps(config))
    (folder / "engine.py").write_text(ENGINE)
    environment = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "TEST_FOLDER": str(folder)}
    command = ["vllm", "serve", "/models/m", "--seed", "0", "--max-model-len", "64", "--host", "0.0.0.0", "--port=8000"]
    made = Place(folder, environment, command, python)
    made.write_launcher(f'exec {python} {folder}/engine.py "$@"')
    made.write_plan()
    return made


def find_python(version: str) -> str | None:
    """Return an interpreter of a version: this one, pyenv's, or one on PATH."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    candidates = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    named = shutil.which(f"python{version}")
    return str(candidates[-1]) if candidates else named if named and ".pyenv/shims" not in named else None


@pytest.fixture(scope="session")
def interpreter() -> Callable[[str], str]:
    """Find the interpreter of a version, or say that nothing was tested on it."""

    def found(version: str) -> str:
        path = find_python(version)
        if path is None:
            pytest.skip(f"NOT TESTED: guard and plug-in on Python {version}, which is not installed here")
        return path

    return found


@pytest.fixture(scope="session")
def new_place() -> Callable[[Path], Place]:
    """Make folders in which everything verifies, for what several tests share."""
    return make_place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Folders in which everything verifies."""
    return make_place(tmp_path)


@pytest.fixture
def foreign_place() -> Iterator[Place]:
    """The same, with a guard that runs as a user who owns nothing but ``shared``, as in somebody else's image."""
    system = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() != 0 or system is None:
        pytest.skip("NOT TESTED: the guard as another user needs root and a system python3")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)  # the stub leaves its traces there
        made = make_place(folder, system)
        os.chown(folder / "shared", NOBODY, NOBODY)
        made.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        yield made


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine like vLLM-Ascend (``attesting_engine``)."""
    folder = tmp_path_factory.mktemp("site") / "engine"
    write_engine(folder)
    return folder


@pytest.fixture
def stage(place: Place, engine: Path) -> Stage:
    """A pod in which everything is as the plan says."""
    return make_stage(place, engine)
