"""The guard as a process: what runs is attested until it ends, its signals are its own, and so is its exit code."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detinf.documents import Attestation
from detinf.guard import attestation, environment
from detinf.guard.errors import RefusedError
from detinf.guard.install import install
from detinf.guard.layout import REFUSED_EXIT_CODE

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(params=["child", "process 1"])
def anywhere(place: Any, request: pytest.FixtureRequest) -> Any:
    """A guard as a child of the test, and as process 1 of a pid namespace, where signals have no default."""
    if request.param == "process 1":
        place.in_pid_namespace()
    return place


def test_running_engine_is_attested_and_an_ended_one_is_not(place: Any) -> None:
    with place.started() as process:
        engine = place.wait_for_engine(process)
        place.wait_for(place.attestation, process)
        seen = Attestation.parse(place.attestation.read_bytes())
        assert place.attestation.stat().st_mode & 0o777 == 0o644
        left = {path.name for path in (place.folder / "shared").iterdir()}
        assert left == {"attestation-guard.json", "start.json"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 7
    assert re.fullmatch("[0-9a-f]{32}", seen.boot)
    assert seen.boot == engine["env"]["DETINF_BOOT"]
    assert seen.process == "guard"
    assert seen.fingerprint == seen.expected_fingerprint
    assert seen.plan_digest == subprocess_digest(place.folder / "plan.json")
    assert (seen.vocabulary.size, seen.vocabulary.special_ids) == (100, [1, 2, 3])
    assert {"plan", "command", "environment", "devices", "model", "process-environment"} <= set(seen.checks)
    assert engine["env"]["VLLM_BATCH_INVARIANT"] == "1"
    assert engine["argv"] == place.command[1:]
    assert not place.attestation.exists()
    assert not (place.folder / "log").exists()


def subprocess_digest(path: Path) -> str:
    """Return a file's digest, by another program than the guard's own."""
    done = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True)
    return "sha256:" + done.stdout.split()[0]


def test_signals_reach_the_engine_and_none_other(anywhere: Any) -> None:
    with anywhere.started() as process:
        anywhere.wait_for_engine(process)
        guard = anywhere.guard(process)
        told: list[str] = []
        for number in (*(number for number in FORWARDED if number != signal.SIGTERM), signal.SIGTERM):
            os.kill(guard, number)
            told.append(str(int(number)))
            while (anywhere.folder / "signals").exists() is False or read_words(anywhere, "signals") != told:
                assert process.poll() is None or number == signal.SIGTERM
                signal.sigtimedwait([], 0.02)
        assert process.wait(60) == 7
    assert not anywhere.attestation.exists()


def read_words(place: Any, name: str) -> list[str]:
    return (place.folder / name).read_text().split()


@pytest.mark.parametrize("code", [0, 3, 78, 255])
def test_exit_code_of_the_engine_is_passed_on(anywhere: Any, code: int) -> None:
    anywhere.write_launcher(f"exit {code}")
    done = anywhere.run()
    assert (done.returncode, done.stderr) == (code, "")
    assert anywhere.engine_ran
    assert not anywhere.attestation.exists()
    assert not (anywhere.folder / "log").exists()


def test_engine_that_ended_before_it_was_verified_passes_its_exit_code_on(place: Any, tmp_path: Path) -> None:
    place.write_launcher("exit 3")
    script = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(place.folder / 'guard')!r})\n"
        "from detinf.guard import cli, environment\n"
        "read = environment.read_environ\n"
        "def late(process):\n"
        "    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)\n"
        "    return read(process)\n"
        "environment.read_environ = late\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    (tmp_path / "late.py").write_text(script)
    options = place.arguments()[4:]
    place.arguments = lambda: [place.python, "-I", "-S", str(tmp_path / "late.py"), *options]
    done = place.run()
    assert (done.returncode, done.stderr) == (3, "")
    assert not place.attestation.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_engine_ends_the_guard_with_its_signal(anywhere: Any, number: signal.Signals) -> None:
    with anywhere.started() as process:
        anywhere.wait_for_engine(process)
        os.kill(anywhere.children(anywhere.guard(process))[0], number)
        assert process.wait(60) == 128 + number
    assert not anywhere.attestation.exists()


def test_guard_that_is_killed_leaves_an_attestation_that_the_next_start_removes(place: Any) -> None:
    with place.started() as process:
        engine = place.wait_for_engine(process)
        place.wait_for(place.attestation, process)
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        os.kill(engine["pid"], signal.SIGKILL)
    assert place.attestation.exists()
    (place.folder / "shared/attestation-worker-0.json").write_text("{}")
    (place.folder / "plan.json").unlink()
    assert place.run().returncode == REFUSED_EXIT_CODE
    assert list((place.folder / "shared").iterdir()) == []


def test_signal_while_nothing_runs_yet_ends_the_guard_and_starts_nothing(anywhere: Any) -> None:
    anywhere.give_devices()
    anywhere.write_npu_smi(f"#!/bin/sh\n: > {anywhere.folder}/asked\nexec sleep 600\n")
    with anywhere.started() as process:
        anywhere.wait_for(anywhere.folder / "asked", process)
        os.kill(anywhere.guard(process), signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not anywhere.engine_ran


def supervised(place: Any, code: str) -> str:
    """Run code with the installed ``supervise``, which has to end by itself; return what it prints."""
    head = (
        f"import os, signal, sys, threading; sys.path.insert(0, {str(place.folder / 'guard')!r})\n"
        "from detinf.guard import supervise\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", head + code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done
    return done.stdout


def test_signal_between_start_and_forwarding_is_not_lost(place: Any) -> None:
    code = (
        "supervise.end_on_signals()\n"
        "with supervise.held_signals():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    child = supervise.start(['sleep', '600'], dict(os.environ))\n"
        "    supervise.forward_signals(child)\n"
        "print(supervise.wait(child))\n"
    )
    assert supervised(place, code) == f"{128 + signal.SIGTERM}\n"  # of the engine: the guard goes on


def test_signal_that_another_thread_takes_is_passed_on_while_the_engine_runs(place: Any) -> None:
    # A signal that comes right before the wait is the same and cannot be timed: noticed, and interrupting nothing.
    # That another thread sleeps in its system call makes no event: looked for until it has for ten looks.
    code = (
        "child = supervise.start(['sleep', '600'], dict(os.environ))\n"
        "supervise.forward_signals(child)\n"
        "def asleep():\n"
        "    return open(f'/proc/{os.getpid()}/stat').read().rpartition(') ')[2][0] == 'S'\n"
        "def take():\n"
        "    looks = 0\n"
        "    while looks < 10:\n"
        "        signal.sigtimedwait([], 0.02)\n"
        "        looks = looks + 1 if asleep() else 0\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "threading.Thread(target=take, daemon=True).start()\n"
        "print(supervise.wait(child))\n"
    )
    assert supervised(place, code) == f"{128 + signal.SIGTERM}\n"


def test_engine_starts_with_the_signals_that_a_shell_would_give_it(place: Any) -> None:
    place.write_launcher('grep -E "^Sig(Blk|Ign)" /proc/self/status > "$TEST_FOLDER/status"')
    assert place.run().returncode == 0
    seen = dict(line.split(":\t") for line in (place.folder / "status").read_text().splitlines())
    # The C library keeps signals 32 and 33 to itself: if who started us ignores them, nobody can change it.
    settable = sum(1 << (number - 1) for number in signal.valid_signals())
    assert {name: int(mask, 16) & settable for name, mask in seen.items()} == {"SigBlk": 0, "SigIgn": 0}


def test_worker_that_outlives_its_engine_is_killed(place: Any) -> None:
    place.environment["TEST_MODE"] = "worker"
    with place.started() as process:
        worker = os.pidfd_open(place.wait_for_engine(process)["worker"])
        try:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 7
            assert select.select([worker], [], [], 60)[0] == [worker]
        finally:
            os.close(worker)


def test_process_1_reaps_orphans_while_the_engine_runs(place: Any) -> None:
    place.environment["TEST_MODE"] = "orphan"
    place.in_pid_namespace()
    with place.started() as process:
        place.wait_for_engine(process)  # it waits until its orphan is gone


def test_environment_that_the_kernel_does_not_show_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([b"", b"", b"A=1\0B=x=y\0C=\0"])
    monkeypatch.setattr(environment, "read_environ", lambda _process: next(seen))
    assert environment.process_environment(1, lambda: False) == {"A": "1", "B": "x=y", "C": ""}


def test_process_that_threw_its_environment_away_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "EXEC_SECONDS", 0)
    process = subprocess.Popen(["cat"], env={}, stdin=subprocess.PIPE)
    assert process.stdin is not None
    with process, process.stdin, pytest.raises(RefusedError, match="environ is empty; use a vllm that keeps"):
        environment.process_environment(process.pid, lambda: process.poll() is not None)


def test_environment_of_a_process_that_is_no_more_is_refused() -> None:
    process = subprocess.Popen(["true"])
    process.wait(60)
    with pytest.raises(RefusedError, match="the engine has ended"):
        environment.process_environment(process.pid, lambda: True)


def test_each_start_has_a_boot_of_its_own_and_the_same_fingerprint(place: Any) -> None:
    place.environment["NODE_NAME"] = "node-a"
    first = place.lifetime()
    place.environment["NODE_NAME"] = "node-b"
    second = place.lifetime()
    assert first.boot != second.boot
    assert first.boot_started_unix_ms < second.boot_started_unix_ms
    assert first.fingerprint == second.fingerprint
    assert (first.placement["node"], second.placement["node"]) == ("node-a", "node-b")


def test_replicas_on_different_boards_have_the_same_fingerprint(place: Any) -> None:
    place.write_plan(lambda plan: plan.update(topology={"devices": 2}))
    seen = []
    for serial in ("2102A", "2102B"):
        place.give_devices(range(2))
        source = (place.folder / "bin/npu-smi").read_text()
        assert source.count('key("Model", "NA")') == 1
        place.write_npu_smi(source.replace('key("Model", "NA")', f'key("Serial Number", "{serial}%d" % npu)'))
        seen.append(place.lifetime())
    assert [item.boards["1"]["Serial Number"] for item in seen] == ["2102A1", "2102B1"]
    assert seen[0].fingerprint == seen[1].fingerprint
    assert all("2102" not in json.dumps(item.identity) for item in seen)


def test_what_can_change_a_number_changes_the_attested_fingerprint_and_where_it_runs_does_not(place: Any) -> None:
    def planned(**change: Any) -> None:
        place.write_plan(lambda plan: plan.update(topology={"devices": 4}, **change))

    planned()
    place.give_devices(range(4))
    prints = {"": place.lifetime().fingerprint}
    place.give_devices(range(4, 8))
    moved = place.lifetime()
    assert moved.placement["physicalIds"] == [4, 5, 6, 7]
    assert moved.fingerprint == prints[""]
    for name, value in (("chip", "910B4"), ("hbm_gib", 32), ("driver", "25.6"), ("firmware", "7.9"), ("link", "SYS")):
        place.give_devices(range(4), **{name: value})
        prints[name] = place.lifetime().fingerprint
    place.give_devices(range(4))
    planned(image="another")
    prints["plan"] = place.lifetime().fingerprint
    planned()
    config = place.folder / "root/models/m/config.json"
    config.write_text(config.read_text() + "\n")
    prints["model"] = place.lifetime().fingerprint
    assert len(set(prints.values())) == len(prints)


def test_device_tree_that_changes_during_the_start_is_attested_as_another(place: Any) -> None:
    place.write_plan(lambda plan: plan.update(topology={"devices": 1}))
    place.give_devices(range(1))
    source = (place.folder / "bin/npu-smi").read_text()
    place.write_npu_smi(
        source.replace(
            "def main(arguments):\n",
            f'if pathlib.Path("{place.folder}/ran").exists():\n    FACTS["firmware"] = "7.9"\n\n\n'
            "def main(arguments):\n",
        )
    )
    # The engine leaves its trace as it starts; the guard reads the devices again when it is there.
    module = place.folder / "guard/detinf/guard/environment.py"
    module.write_text(
        f"{module.read_text()}\n\n_check = check_process\n\n\n"
        "def check_process(*arguments):\n    seen = _check(*arguments)\n"
        f"    while not os.path.exists('{place.folder}/ran'):\n        time.sleep(0.001)\n    return seen\n"
    )
    seen = place.lifetime()
    assert seen.identity["hardware"]["firmware"] == "7.9"
    assert seen.fingerprint != seen.expected_fingerprint


SET_ENV = """\
echo "said by a script"
export ATB_MATMUL_SHUFFLE_K_ENABLE=1 HCCL_ALGO=level0:NA
export LD_LIBRARY_PATH=/nnal/atb/lib:${LD_LIBRARY_PATH}
export LINES_OF_TWO=$'one\\ntwo'
unset GOES_AWAY
"""


def test_setup_scripts_are_sourced_in_order_and_the_plans_values_come_after_them(place: Any) -> None:
    toolkit, atb = place.folder / "root/toolkit.sh", place.folder / "root/set_env.sh"
    toolkit.write_text("export LD_LIBRARY_PATH=/toolkit/lib ASCEND_TOOLKIT_HOME=/toolkit\n")
    atb.write_text(SET_ENV)

    def planned(plan: dict[str, Any]) -> None:
        plan["environment"]["scripts"] = ["/toolkit.sh", "/set_env.sh"]
        plan["environment"]["set"]["ATB_MATMUL_SHUFFLE_K_ENABLE"] = "0"

    place.write_plan(planned)
    place.environment |= {"GOES_AWAY": "1", "STAYS": "1", "VLLM_BATCH_INVARIANT": "x" * 300}
    with place.started() as process:
        seen = place.wait_for_engine(process)["env"]
        place.wait_for(place.attestation, process)
        assert Attestation.parse(place.attestation.read_bytes()).overridden == {
            "container": {"VLLM_BATCH_INVARIANT": "x" * 200},
            "scripts": {"ATB_MATMUL_SHUFFLE_K_ENABLE": "1", "HCCL_ALGO": "level0:NA"},
        }
    assert seen["VLLM_BATCH_INVARIANT"] == "1"
    assert "HCCL_ALGO" not in seen
    assert seen["ATB_MATMUL_SHUFFLE_K_ENABLE"] == "0"
    assert seen["LD_LIBRARY_PATH"] == "/nnal/atb/lib:/toolkit/lib"
    assert seen["LINES_OF_TWO"] == "one\ntwo"
    assert "GOES_AWAY" not in seen
    assert seen["STAYS"] == "1"
    # Without that order the script's value stands, and the engine is ended.
    place.break_check("environment", "    wanted = planned(plan, after)", "    wanted = after")
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE
    assert "ATB_MATMUL_SHUFFLE_K_ENABLE is '1', the plan says '0'" in done.stderr


def test_engine_imports_the_middleware_and_keeps_its_own_path(place: Any) -> None:
    place.environment |= {"TEST_MODE": "middleware", "PYTHONPATH": "/somebody/elses"}
    with place.started() as process:
        engine = place.wait_for_engine(process)
    guard = place.folder / "guard"
    assert engine["env"]["PYTHONPATH"] == f"{guard}:/somebody/elses"
    assert engine["middleware"] == [str(guard / "detinf/guard/middleware.py"), engine["env"]["DETINF_BOOT"]]


def test_guard_of_another_user_runs_and_attests(foreign_place: Any) -> None:
    seen = foreign_place.lifetime()
    assert seen.fingerprint == seen.expected_fingerprint


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_guard_runs_on_the_standard_library_alone(place: Any, interpreter: Callable[[str], str], version: str) -> None:
    place.python = interpreter(version)
    code = (
        "import sys; before = set(sys.modules)\n"
        f"sys.path.insert(0, {str(place.folder / 'guard')!r})\n"
        "import detinf.guard.cli, detinf.guard.fetch, detinf.guard.middleware, detinf.guard.plugin\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "outside = names - set(sys.stdlib_module_names) - {'detinf'}\n"
        "assert not outside, outside\n"
        "assert sys.version_info[:2] == tuple(map(int, sys.argv[1].split('.')))\n"
    )
    done = subprocess.run(
        [place.python, "-I", "-S", "-c", code, version], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    seen = place.lifetime()
    assert seen.identity["python"] == version
    (place.folder / "plan.json").unlink()
    assert place.run().returncode == REFUSED_EXIT_CODE


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return modes and bytes of the installed files; what an interpreter caches beside them is not installed."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): (path.stat().st_mode & 0o777, path.read_bytes()) for path in files}


def test_installed_twice_is_installed_once(place: Any) -> None:
    guard = place.folder / "guard"
    before = contents(guard)
    (guard / "detinf/guard/of_an_older_release.py").touch()
    (guard / ".draft").mkdir()
    (guard / ".draft/torn").touch()
    command = [sys.executable, "-m", "detinf.guard", "install", str(guard)]
    subprocess.run(command, check=True, timeout=60, umask=0o077)
    assert contents(guard) == before
    assert {mode for mode, _ in before.values()} == {0o644}
    assert all(path.stat().st_mode & 0o777 == 0o755 for path in guard.rglob("*") if path.is_dir())
    assert "__main__.py" in before


@pytest.mark.parametrize("path", ["/cann/tbe:", ":/cann/tbe", "/cann/tbe::", ":/cann/tbe:"])
def test_engine_imports_nothing_from_its_working_folder(place: Any, path: str) -> None:
    place.environment["PYTHONPATH"] = path
    with place.started() as process:
        engine = place.wait_for_engine(process)
    assert engine["env"]["PYTHONPATH"] == f"{place.folder / 'guard'}:/cann/tbe"


def test_install_into_a_missing_folder_makes_it(tmp_path: Path) -> None:
    install(tmp_path / "volume/guard")
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / "volume/guard")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 64
    assert done.stderr.startswith("usage: guard install")


def test_shared_attestation_is_canonical(place: Any) -> None:
    with place.started() as process:
        place.wait_for(place.attestation, process)
        data = place.attestation.read_bytes()
    assert json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data


def test_guard_that_runs_holds_the_shared_folder_and_its_engine_does_not(place: Any) -> None:
    shared = place.folder / "shared"
    assert not attestation.is_held(shared)
    with place.started() as process:
        engine = place.wait_for_engine(process)
        place.wait_for(place.attestation, process)
        assert attestation.is_held(shared)
        assert attestation.is_held(shared)  # asking takes nothing
        os.kill(place.guard(process), signal.SIGKILL)
        process.wait(60)
        assert not attestation.is_held(shared)
        os.kill(engine["pid"], signal.SIGKILL)
    assert not attestation.is_held(shared / "none")
