"""The guard as a process: what does not verify does not start, and what runs is attested until it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from detinf.documents import Attestation, Plan, PlanAttestation, PlanEnvironment, PlanModel, PlanTopology
from detinf.guard.install import install
from detinf.guard.layout import REFUSED_EXIT_CODE

ENGINE = """\
import json, os, signal, subprocess, sys, time, pathlib
folder = pathlib.Path(os.environ["TEST_FOLDER"])
seen = {"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()}
folder.joinpath("engine.json").write_text(json.dumps(seen))
mode = os.environ.get("TEST_MODE", "wait")
if mode.startswith("exit:"):
    sys.exit(int(mode[5:]))
if mode == "orphan":
    # A worker that outlives its engine, and an orphan for process 1.
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    folder.joinpath("worker").write_text(str(worker.pid))
    subprocess.run([sys.executable, "-c", "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'pass'])"])
    sys.exit(0)
def term(number, frame):
    folder.joinpath("signals").open("a").write(f"{number} ")
    if number == signal.SIGTERM:
        sys.exit(7)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, term)
folder.joinpath("running").touch()
while True:
    signal.pause()
"""


@dataclass
class Place:
    """A pod's folders."""

    folder: Path
    environment: dict[str, str]
    command: list[str]

    def write_plan(self, change: Callable[[dict[str, Any]], None] = lambda _plan: None) -> None:
        """Write the plan, changed by hand or not."""
        document = json.loads(plan().canonical())
        change(document)
        (self.folder / "plan.json").write_text(json.dumps(document, sort_keys=True, separators=(",", ":")))

    def arguments(self) -> list[str]:
        """Return the guard's command line."""
        return [
            *(sys.executable, "-S", str(self.folder / "guard")),
            *("--plan", str(self.folder / "plan.json"), "--shared", str(self.folder / "shared")),
            *("--root", str(self.folder / "root"), "--termination-log", str(self.folder / "log")),
            *("--", *self.command),
        ]

    def start(self) -> subprocess.Popen[str]:
        """Start the guard."""
        return subprocess.Popen(self.arguments(), env=self.environment, stderr=subprocess.PIPE, text=True)

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the guard to its end."""
        return subprocess.run(
            self.arguments(), env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )

    @property
    def attestation(self) -> Path:
        """The guard's attestation."""
        return self.folder / "shared" / "attestation-guard.json"

    def wait_for(self, path: Path, process: subprocess.Popen[str]) -> None:
        """Wait for a file that a process is to write."""
        while not path.exists():
            assert process.poll() is None, process.communicate()
            signal.sigtimedwait([], 0.02)


def plan() -> Plan:
    return Plan(
        profile="simulated",
        image="image",
        model=PlanModel(path="/models/m", dtype="bfloat16", max_model_len=64, max_num_seqs=2),
        arguments=["--seed", "0", "--max-model-len", "64"],
        environment=PlanEnvironment(set_variables={"VLLM_BATCH_INVARIANT": "1"}, unset=["HCCL_ALGO"]),
        topology=PlanTopology(devices=0),
        attestation=PlanAttestation(processes=["guard"]),
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Folders in which everything verifies."""
    for name in ("shared", "guard", "bin", "root/models/m", "root/dev"):
        (tmp_path / name).mkdir(parents=True)
    install(tmp_path / "guard")
    config = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": None}
    (tmp_path / "root/models/m/config.json").write_text(json.dumps(config))
    (tmp_path / "engine.py").write_text(ENGINE)
    launcher = tmp_path / "bin" / "vllm"
    launcher.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/engine.py "$@"\n')
    launcher.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TEST_FOLDER": str(tmp_path)}
    command = ["vllm", "serve", "/models/m", "--seed", "0", "--max-model-len", "64", "--host", "0.0.0.0", "--port=8000"]
    made = Place(tmp_path, environment, command)
    made.write_plan()
    return made


def refusals() -> list[Any]:  # noqa: C901 - a table, whose rows need a few words of code each
    def drop_model(place: Place) -> None:
        shutil.rmtree(place.folder / "root/models/m")

    def break_config(place: Place) -> None:
        (place.folder / "root/models/m/config.json").write_text("{")

    def no_vocabulary(place: Place) -> None:
        (place.folder / "root/models/m/config.json").write_text("{}")

    def device(place: Place) -> None:
        (place.folder / "root/dev/davinci0").touch()

    def no_engine(place: Place) -> None:
        (place.folder / "bin/vllm").unlink()

    def no_shared(place: Place) -> None:
        shutil.rmtree(place.folder / "shared")
        (place.folder / "shared").write_text("a file")

    def set_variable(name: str, value: str) -> Callable[[Place], None]:
        return lambda place: place.environment.update({name: value})

    def change_command(index: int, *words: str) -> Callable[[Place], None]:
        def change(place: Place) -> None:
            place.command[index : index + 1] = words

        return change

    def change_plan(change: Callable[[dict[str, Any]], Any]) -> Callable[[Place], None]:
        return lambda place: place.write_plan(change)

    cases: list[tuple[str, Callable[[Place], Any], str]] = [
        ("no plan", lambda place: (place.folder / "plan.json").unlink(), "plan: .*No such file"),
        ("torn plan", lambda place: (place.folder / "plan.json").write_text('{"schema":1,'), "is no JSON"),
        ("plan of another schema", change_plan(lambda p: p.update(schema=2)), "schema is 2, this guard reads 1"),
        ("plan without a model", change_plan(lambda p: p.pop("model")), "model.path is missing"),
        ("plan with other arguments", change_plan(lambda p: p.update(arguments=[1])), "arguments is no list"),
        ("plan without devices", change_plan(lambda p: p.update(topology={})), "topology.devices"),
        ("other program", change_command(0, "sh"), "expected 'vllm serve /models/m'"),
        ("other model", change_command(2, "/models/other"), "/models/other"),
        ("other argument", change_command(4, "1"), "argument 2 is '1', the plan says '0'"),
        ("missing argument", lambda place: place.command.__delitem__(slice(5, None)), "'nothing', the plan says"),
        ("added argument", change_command(9, "--port=8000", "--enable-lora"), "'--enable-lora' is not in the plan"),
        ("contradicting variable", set_variable("VLLM_BATCH_INVARIANT", "0"), "VLLM_BATCH_INVARIANT is '0'.*'1'"),
        ("variable that must be unset", set_variable("HCCL_ALGO", "ring"), "HCCL_ALGO is 'ring'.*unset"),
        ("no model folder", drop_model, "config.json: No such file.*spec.model.source"),
        ("torn config", break_config, "config.json is no JSON"),
        ("config without a vocabulary", no_vocabulary, "vocab_size is None"),
        ("device that the plan does not name", device, "1 NPUs in /dev, the plan says 0"),
        ("no engine", no_engine, "vllm: No such file"),
        ("shared folder that is none", no_shared, "attestation: .*emptyDir"),
    ]
    return [pytest.param(breaks, words, id=name) for name, breaks, words in cases]


@pytest.mark.parametrize(("breaks", "words"), refusals())
def test_what_does_not_verify_does_not_start(place: Place, breaks: Callable[[Place], Any], words: str) -> None:
    breaks(place)
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    assert re.fullmatch(rf"detinf guard: refused: .*{words}.*\n", done.stderr), done.stderr
    assert (place.folder / "log").read_text() == done.stderr
    assert not (place.folder / "engine.json").exists()
    assert not place.attestation.exists()


def test_running_engine_is_attested_and_an_ended_one_is_not(place: Place) -> None:
    process = place.start()
    place.wait_for(place.attestation, process)
    place.wait_for(place.folder / "running", process)
    seen = Attestation.parse(place.attestation.read_bytes())
    engine = json.loads((place.folder / "engine.json").read_text())
    assert seen.boot == engine["env"]["DETINF_BOOT"]
    assert re.fullmatch("[0-9a-f]{32}", seen.boot)
    assert seen.fingerprint == seen.expected_fingerprint
    assert seen.plan_digest == plan().digest()
    assert (seen.vocabulary.size, seen.vocabulary.special_ids) == (100, [1, 2, 3])
    assert engine["env"]["VLLM_BATCH_INVARIANT"] == "1"
    assert engine["env"]["PYTHONPATH"] == str(place.folder / "guard")
    assert engine["argv"] == place.command[1:]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 7
    assert process.stderr is not None
    process.stderr.close()
    assert not place.attestation.exists()


def test_signals_reach_the_engine(place: Place) -> None:
    process = place.start()
    place.wait_for(place.folder / "running", process)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        process.send_signal(number)
    while (place.folder / "signals").exists() is False or len((place.folder / "signals").read_text().split()) < 2:
        signal.sigtimedwait([], 0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 7
    assert process.stderr is not None
    process.stderr.close()
    assert set((place.folder / "signals").read_text().split()) == {
        str(int(signal.SIGUSR1)),
        str(int(signal.SIGHUP)),
        "15",
    }


@pytest.mark.parametrize("code", [0, 3])
def test_exit_code_of_the_engine_is_passed_on(place: Place, code: int) -> None:
    place.environment["TEST_MODE"] = f"exit:{code}"
    assert place.run().returncode in {code, REFUSED_EXIT_CODE}  # an engine may end before its environment was read
    assert not place.attestation.exists()


def test_killed_engine_ends_the_guard_with_its_signal(place: Place) -> None:
    process = place.start()
    place.wait_for(place.folder / "running", process)
    os.kill(json.loads((place.folder / "engine.json").read_text())["pid"], signal.SIGKILL)
    assert process.wait(30) == 128 + signal.SIGKILL
    assert process.stderr is not None
    process.stderr.close()
    assert not place.attestation.exists()


def test_two_starts_have_two_boots_and_one_fingerprint(place: Place) -> None:
    seen = []
    for node in ("node-a", "node-b"):
        place.environment["NODE_NAME"] = node
        (place.folder / "running").unlink(missing_ok=True)
        process = place.start()
        place.wait_for(place.attestation, process)
        place.wait_for(place.folder / "running", process)
        seen.append(Attestation.parse(place.attestation.read_bytes()))
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stderr is not None
        process.stderr.close()
    first, second = seen
    assert first.boot != second.boot
    assert first.fingerprint == second.fingerprint
    assert (first.placement["node"], second.placement["node"]) == ("node-a", "node-b")


def test_other_model_configuration_is_another_fingerprint(place: Place) -> None:
    prints = set()
    for size in (100, 101):
        (place.folder / "root/models/m/config.json").write_text(json.dumps({"vocab_size": size}))
        (place.folder / "running").unlink(missing_ok=True)
        process = place.start()
        place.wait_for(place.attestation, process)
        place.wait_for(place.folder / "running", process)
        prints.add(json.loads(place.attestation.read_text())["fingerprint"])
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert process.stderr is not None
        process.stderr.close()
    assert len(prints) == 2


def test_stale_attestation_is_gone_before_anything_is_verified(place: Place) -> None:
    place.attestation.write_text('{"boot": "of an earlier life"}')
    (place.folder / "plan.json").unlink()
    assert place.run().returncode == REFUSED_EXIT_CODE
    assert not place.attestation.exists()


def test_process_1_reaps_orphans_and_ends_what_outlives_the_engine(place: Place) -> None:
    place.environment["TEST_MODE"] = "orphan"
    root = [] if os.geteuid() == 0 else ["--map-root-user", "--user"]
    command = ["unshare", *root, "--pid", "--fork", "--mount-proc", *place.arguments()]
    done = subprocess.run(command, env=place.environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done
    assert (place.folder / "worker").exists()


def interpreters() -> dict[str, str]:
    """Return Pythons that the guard must run on, by version; those that are not here are said aloud."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for version in ("3.10", "3.11", "3.12"):
        candidates = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        named = shutil.which(f"python{version}")
        if candidates:
            found[version] = str(candidates[-1])
        elif named and ".pyenv/shims" not in named:
            found[version] = named
    for version in {"3.10", "3.11", "3.12"} - found.keys():
        print(f"NOT TESTED: the guard on Python {version}, which is not installed here")  # noqa: T201 - loud on purpose
    return found


@pytest.mark.parametrize("version", sorted(interpreters()))
def test_guard_runs_on_the_standard_library_alone(place: Place, version: str) -> None:
    python = interpreters()[version]
    code = (
        f"import sys; sys.path.insert(0, {str(place.folder / 'guard')!r})\n"
        "import detinf.guard.cli, detinf.guard.middleware\n"
        "outside = [n for n, m in sys.modules.items() if 'site-packages' in str(getattr(m, '__file__', ''))]\n"
        "assert not outside, outside\n"
    )
    done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (place.folder / "plan.json").unlink()
    command = [python, *place.arguments()[1:]]
    seen = subprocess.run(command, env=place.environment, capture_output=True, text=True, check=False)
    assert seen.returncode == REFUSED_EXIT_CODE, seen


def test_installed_twice_is_installed_once(place: Place) -> None:
    before = {path: path.stat().st_mode for path in (place.folder / "guard").rglob("*") if path.suffix == ".py"}
    install(place.folder / "guard")
    after = {path: path.stat().st_mode for path in (place.folder / "guard").rglob("*") if path.suffix == ".py"}
    assert before == after
    assert all(mode & 0o444 == 0o444 for mode in after.values())
