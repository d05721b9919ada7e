"""What does not verify does not start: exit code 78, one line that names value and remedy, and no attestation."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attesting_engine import undocumented

from detinf.guard.layout import REFUSED_EXIT_CODE
from detinf.probe.attested import Attested, read_attested

WHOLE = {
    "devices": 2,
    "chip": "910B3",
    "hbmGiB": 64,
    "driverVersion": "25.5.1",
    "firmwareVersion": "7.8.0.6.201",
    "link": "HCCS",
}
DEEP = "[" * 100_000


def refuses(place: Any, words: str) -> None:
    """Run the guard, and hold everything that a refusal is."""
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    assert re.fullmatch(rf"detinf guard: refused: (?=.*{words})[^\n]+; [^\n]+\n", done.stderr), done.stderr
    assert (place.folder / "log").read_text() == done.stderr
    assert not place.engine_ran
    assert not place.attestation.exists()


def file(path: str, text: str) -> Callable[[Any], Any]:
    return lambda place: (place.folder / path).write_text(text)


def argument(index: int, *words: str) -> Callable[[Any], Any]:
    return lambda place: place.command.__setitem__(slice(index, index + 1), words)


def planned(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
    return lambda place: place.write_plan(change)


def planned_variable(name: str, value: str) -> Callable[[Any], Any]:
    return planned(lambda plan: plan["environment"]["set"].update({name: value}))


def script(text: str) -> Callable[[Any], Any]:
    """Return what gives the plan a set-up script."""

    def sourced(place: Any) -> None:
        (place.folder / "root/set_env.sh").write_text(text)
        place.write_plan(lambda plan: plan["environment"].update(scripts=["/set_env.sh"]))

    return sourced


def door(*words: str) -> Any:
    """Return what asks for a middleware in the plan, and adds words to the command line."""

    def added(place: Any) -> None:
        place.write_plan(lambda plan: plan.update(requests={"middleware": "a.b", "routes": [], "fields": []}))
        place.command += words

    return added


def hanging_script(place: Any) -> None:
    script("exec sleep 600\n")(place)
    place.break_check("scripts", "SECONDS = 120\n", "SECONDS = 1\n")


def no_shared(place: Any) -> None:
    shutil.rmtree(place.folder / "shared")


def file_for_shared(place: Any) -> None:
    no_shared(place)
    (place.folder / "shared").write_text("a file")


CONFIG = "root/models/m/config.json"
TOKENIZER = "root/models/m/tokenizer_config.json"
CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no plan": (lambda place: (place.folder / "plan.json").unlink(), "plan: .*No such file.*ConfigMap"),
    "torn plan": (file("plan.json", '{"schema":1,'), "plan.json is no JSON"),
    "plan that is no text": (
        lambda place: (place.folder / "plan.json").write_bytes(b'{"schema":1,"image":"\xff\xfe"}'),
        "plan.json is no JSON",
    ),
    "bottomless plan": (file("plan.json", DEEP), "plan.json is no JSON"),
    "plan that is a list": (file("plan.json", "[]"), "it is no object"),
    "plan of another schema": (planned(lambda plan: plan.update(schema=2)), "schema is 2, this guard reads 1"),
    "plan of schema true": (planned(lambda plan: plan.update(schema=True)), "schema is True, this guard reads 1"),
    "plan without a schema": (planned(lambda plan: plan.pop("schema")), "schema is None"),
    "plan without a model": (planned(lambda plan: plan.pop("model")), "model.path is missing"),
    "plan with other arguments": (planned(lambda plan: plan.update(arguments=[1])), "arguments is no list of strings"),
    "plan without variables": (planned(lambda plan: plan.update(environment={})), "environment.set is missing"),
    "plan with a number as a value": (planned_variable("A", 1), "environment holds something that is no string"),  # type: ignore[arg-type]
    "plan with a variable without a name": (planned_variable("", "1"), "environment.set: '' = '1'"),
    "plan with an impossible name": (planned_variable("A=B", "1"), "environment.set: 'A=B' = '1'"),
    "plan with an impossible value": (planned_variable("A", "1\0"), r"environment.set: 'A' = '1\\x00'"),
    "plan without devices": (planned(lambda plan: plan.update(topology={})), "topology.devices"),
    "plan with half a device": (planned(lambda plan: plan.update(topology={"devices": 0.5})), "topology.devices"),
    "plan with a float": (planned(lambda plan: plan.update(share=0.9)), r"\$.share: 0.9 is a float"),
    "plan with half a character": (planned(lambda plan: plan.update(image="\ud800")), r"\$.image: '\\ud800'"),
    "other program": (argument(0, "sh"), "'sh serve /models/m', expected 'vllm serve /models/m'"),
    "program by its path": (argument(0, "/usr/bin/vllm"), "expected 'vllm serve /models/m'"),
    "other model": (argument(2, "/models/other"), "/models/other"),
    "other argument": (argument(4, "1"), "argument 2 is '1', the plan says '0'"),
    "missing argument": (lambda place: place.command.__delitem__(slice(5, None)), "is 'nothing', the plan says"),
    "arguments in another order": (
        lambda place: place.command.__setitem__(slice(3, 7), ["--max-model-len", "64", "--seed", "0"]),
        "argument 1 is '--max-model-len', the plan says '--seed'",
    ),
    "added flag": (argument(9, "--port=8000", "--enable-lora"), "'--enable-lora' is not in the plan"),
    "flag added behind a serving flag": (argument(9, "--port", "8000", "--seed=1"), "'--seed=1' is not in the plan"),
    "added word": (argument(9, "--port=8000", "more"), "'more' is not in the plan"),
    "missing set-up script": (
        planned(lambda plan: plan["environment"].update(scripts=["/nowhere/set_env.sh"])),
        "scripts: .*/nowhere/set_env.sh is missing or unreadable; use an image that has the toolkit",
    ),
    "no middleware where the plan needs one": (door(), "--middleware is not there, the plan says a.b"),
    "another middleware": (door("--middleware", "c.d"), "--middleware is c.d, the plan says a.b"),
    "one middleware more": (door("--middleware=a.b", "--middleware", "c.d"), "--middleware is a.b and c.d, the plan"),
    "lists of requests that are none": (
        lambda place: place.write_plan(lambda plan: plan.update(requests={"routes": [7], "fields": []})),
        "plan: .*requests: .*no lists of routes and fields",
    ),
    "set-up script that ends the shell": (
        script("echo no toolkit >&2; exit 3\n"),
        "line 1: it ended the shell with 3: no toolkit; mend",
    ),
    "set-up script that hangs": (hanging_script, "scripts: bash: .*timed out"),
    "no model folder": (lambda place: shutil.rmtree(place.folder / "root/models/m"), "config.json: No such file"),
    "no config": (lambda place: (place.folder / CONFIG).unlink(), "config.json: No such file.*spec.model.source"),
    "torn config": (file(CONFIG, "{"), "config.json is no JSON"),
    "bottomless config": (file(CONFIG, DEEP), "config.json is no JSON"),
    "config that is a list": (file(CONFIG, "[]"), "config.json is no object"),
    "config without a vocabulary": (file(CONFIG, "{}"), "vocab_size is None"),
    "config with a vocabulary of true": (file(CONFIG, '{"vocab_size": true}'), "vocab_size is True"),
    "torn generation config": (file("root/models/m/generation_config.json", "{"), "generation_config.json is no JSON"),
    "torn tokenizer": (file(TOKENIZER, "{"), "tokenizer_config.json is no JSON"),
    "device that the plan does not name": (lambda place: place.give_devices(range(1)), "1 NPUs in /dev, .*says 0"),
    "no engine": (lambda place: (place.folder / "bin/vllm").unlink(), "command: vllm: No such file.*on PATH"),
    "engine that cannot be run": (lambda place: (place.folder / "bin/vllm").chmod(0o644), "vllm: Permission denied"),
    "no shared folder": (no_shared, "attestation: .*shared.*emptyDir"),
    "file for a shared folder": (file_for_shared, "attestation: .*shared.*emptyDir"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_verify_does_not_start(place: Any, case: str) -> None:
    breaks, words = CASES[case]
    place.attestation.write_text('{"boot": "of an earlier life"}')
    breaks(place)
    refuses(place, words)


def test_shared_folder_of_another_user_is_refused_before_the_start(foreign_place: Any) -> None:
    shared = foreign_place.folder / "shared"
    shutil.rmtree(shared)
    shared.mkdir(0o755)
    (foreign_place.folder / "log").touch(0o666)
    (foreign_place.folder / "log").chmod(0o666)
    refuses(foreign_place, "shared.*Permission denied.*writable emptyDir")


def test_several_problems_are_told_in_one_line(place: Any) -> None:
    place.write_plan(lambda plan: plan.update(topology=WHOLE))
    place.give_devices(range(2), chip="910B4", hbm_gib=32)
    refuses(place, "chip is '910B4'.*hbmGiB is 32")


def test_refusal_longer_than_the_kubelet_keeps_is_cut_in_the_log_alone(place: Any) -> None:
    place.command[9] = "--" + "x" * 5000
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE
    assert len(done.stderr) > 5000
    assert (place.folder / "log").read_text() == done.stderr[:4096]


def test_termination_log_that_cannot_be_written_costs_nothing_but_the_log(place: Any) -> None:
    (place.folder / "log").mkdir()
    place.command[9] = "--enable-lora"
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE
    assert done.stderr.startswith("detinf guard: refused: command: '--enable-lora' is not in the plan")


@pytest.mark.parametrize(
    "arguments", [[], ["vllm"], ["--skip", "x", "--", "vllm"], ["--plan", "--", "vllm"], ["install"]]
)
def test_command_line_that_is_no_guards_is_answered_with_its_usage(place: Any, arguments: list[str]) -> None:
    place.arguments = lambda: [place.python, "-I", "-S", str(place.folder / "guard"), *arguments]
    done = place.run()
    assert done.returncode == 64, done
    usage = "usage: guard install DIRECTORY | guard users DIRECTORY | guard [--plan FILE] -- vllm serve MODEL ..."
    assert usage in done.stderr
    assert not place.engine_ran


def health(place: Any) -> None:
    facts = place.folder / "root/usr/local/dcmi/simulated.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"health": {"1": "Alarm"}}))


VERSION = "root/usr/local/Ascend/driver/version.info"


def folder_for_version(place: Any) -> None:
    (place.folder / VERSION).unlink()
    (place.folder / VERSION).mkdir()


def no_npu_smi(place: Any) -> None:
    (place.folder / "bin/npu-smi").unlink()


def smi(source: str) -> Callable[[Any], Any]:
    return lambda place: place.write_npu_smi(f"#!/bin/sh\n{source}\n")


def tree(ids: range = range(2), **facts: Any) -> Callable[[Any], Any]:
    return lambda place: place.give_devices(ids, **facts)


def seven_of_eight(place: Any) -> None:
    place.write_plan(lambda plan: plan.update(topology=WHOLE | {"devices": 8}))
    place.give_devices(range(7))


SAID = "run it on the node, and look at the driver there.*"
UNKNOWN = "chip is unknown, the plan says '910B3'.*firmware version is unknown.*link is unknown"
DEVICE_CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "none": (tree(range(0)), "0 NPUs in /dev, the plan says 2; request whole NPUs of one node"),
    "seven of eight": (seven_of_eight, "7 NPUs in /dev, the plan says 8"),
    "more": (tree(range(3)), "3 NPUs in /dev, the plan says 2"),
    "slices": (tree(range(100, 102)), "/dev/davinci100 is a slice of an NPU, .*/dev/davinci101 is a slice"),
    "other chip": (tree(chip="910B4"), "chip is '910B4', the plan says '910B3'; use a node"),
    "other memory": (tree(hbm_gib=32), "hbmGiB is 32, the plan says 64"),
    "other driver": (tree(driver="25.3.1"), "driver version is '25.3.1', the plan says '25.5.1'"),
    "other firmware": (tree(firmware="7.1"), "firmware version is '7.1', the plan says '7.8.0.6.201'"),
    "PCIe between the NPUs": (tree(link="SYS"), "link is 'SYS', the plan says 'HCCS'"),
    "sick": (health, "NPU 1 is Alarm; drain the node"),
    "no npu-smi": (no_npu_smi, "npu-smi: not on PATH; .*" + UNKNOWN),
    "npu-smi that fails": (smi("exit 1"), f"npu-smi info ended with exit code 1; {SAID}{UNKNOWN}"),
    "npu-smi that prints something else": (
        smi("head -c 4096 /dev/urandom; echo '| 0 910B3'"),
        "printed no table of NPUs, but .*" + UNKNOWN,
    ),
    "npu-smi that refuses": (
        smi("echo 'This device does not support querying topo.'"),
        "but 'This device does not support querying topo.'; .*" + UNKNOWN,
    ),
    "no driver version": (lambda place: (place.folder / VERSION).unlink(), "driver version is unknown"),
    "driver version that cannot be read": (folder_for_version, "driver version is unknown"),
    "empty driver version": (file(VERSION, "\n"), "driver version is unknown"),
}
COUNTED = ("    if len(devices.physical_ids) != wanted:\n", "    if False:\n")
DEVICE_CHECKS: dict[str, tuple[str, str]] = {
    # The one check of guard/devices.py that stands against it, and what it is replaced by.
    "seven of eight": COUNTED,
    "more": COUNTED,
    "slices": ("        if identifier >= FIRST_SLICE\n", "        if False\n"),
    "other chip": ('        ("chip", "chip", devices.chip),\n', ""),
    "other memory": ('        ("hbmGiB", "hbmGiB", devices.hbm_gib),\n', ""),
    "other driver": ('        ("driver version", "driverVersion", devices.driver),\n', ""),
    "other firmware": ('        ("firmware version", "firmwareVersion", devices.firmware),\n', ""),
    "PCIe between the NPUs": (
        '        ("link", "link", topology.get("link") if wanted == 1 else devices.link),\n',
        "",
    ),
    "sick": ("    elif wanted:\n", "    elif False:\n"),
    "no driver version": ('        ("driver version", "driverVersion", devices.driver),\n', ""),
}


def test_every_device_scenario_is_documented_with_its_words() -> None:
    rows = ((f"NPUs: {case}", DEVICE_CASES[case][1].replace(".*", "...")) for case in DEVICE_CHECKS)
    assert undocumented(rows) == []


def place_with_devices(place: Any, case: str) -> None:
    place.write_plan(lambda plan: plan.update(topology=WHOLE))
    place.give_devices(range(2))
    DEVICE_CASES[case][0](place)


@pytest.mark.parametrize("case", DEVICE_CASES)
def test_device_tree_that_is_not_the_plans_does_not_start(place: Any, case: str) -> None:
    place_with_devices(place, case)
    refuses(place, DEVICE_CASES[case][1])


@pytest.mark.parametrize("case", DEVICE_CHECKS)
def test_device_tree_that_is_not_the_plans_serves_where_the_one_check_is_broken(place: Any, case: str) -> None:
    place_with_devices(place, case)
    place.break_check("devices", *DEVICE_CHECKS[case])
    place.lifetime(lambda: serves(place))


def serves(place: Any) -> None:
    """Hold that the probe would take what is attested now."""
    assert isinstance(read_attested(place.folder / "plan.json", place.folder / "shared"), Attested)


def test_driver_version_of_another_user_is_unknown_and_refused(foreign_place: Any) -> None:
    foreign_place.write_plan(lambda plan: plan.update(topology=WHOLE))
    foreign_place.give_devices(range(2))
    (foreign_place.folder / VERSION).chmod(0o400)
    (foreign_place.folder / "log").touch()
    (foreign_place.folder / "log").chmod(0o666)
    refuses(foreign_place, "driver version is unknown, the plan says '25.5.1'")
    (foreign_place.folder / VERSION).parent.chmod(0o700)
    refuses(foreign_place, "driver version is unknown, the plan says '25.5.1'")


def test_whole_device_tree_starts_and_is_attested(place: Any) -> None:
    place.write_plan(lambda plan: plan.update(topology=WHOLE))
    place.give_devices(range(2))
    seen = place.lifetime()
    assert seen.identity["hardware"] == {
        "devices": 2,
        "chip": "910B3",
        "hbmGiB": 64,
        "driver": "25.5.1",
        "firmware": "7.8.0.6.201",
        "link": "HCCS",
    }
    assert seen.placement["physicalIds"] == [0, 1]
    assert seen.placement["busIds"][0] == "0000:C1:00.0"
    assert seen.counters is not None
    assert sorted(seen.counters) == ["0", "1"]
    assert seen.counters["0"]["HBM Double Bit Error Count"] == "0"
    assert seen.counters["1"]["hccs health status"] == "OK"
    assert "HBM" not in json.dumps(seen.identity)  # what counts on is no identity
    assert seen.boards is not None
    assert sorted(seen.boards) == ["0", "1"]
    assert seen.boards["1"]["PCIe Bus Info"] == "0000:C2:00.0"


def test_engine_with_another_environment_than_the_plans_is_ended_and_not_attested(place: Any, tmp_path: Path) -> None:
    # What a shell on the way would do: the process that runs has not the value that it was given.
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(place.folder / 'guard')!r})\n"
        "from detinf.guard import cli, supervise\n"
        "start = supervise.start\n"
        "supervise.start = lambda command, wanted: start(command, wanted | {'HCCL_ALGO': 'ring'})\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    (tmp_path / "other.py").write_text(script)
    options = place.arguments()[4:]
    place.arguments = lambda: [place.python, "-I", "-S", str(tmp_path / "other.py"), *options]
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    assert "HCCL_ALGO is 'ring', the plan says unset" in done.stderr
    assert not place.attestation.exists()
    assert not (place.folder / "engine.json").exists()


BROKEN: dict[str, tuple[str, str, str]] = {
    # A step, and an error that nobody foresaw in it.
    "before the plan is read": ("launch", "    plan = read_plan(places.plan)\n", "ZeroDivisionError"),
    "while the model is read": ("launch", "    vocabulary, model_config = read_vocabulary(folder)\n", "UnicodeError"),
    "once the engine runs": ("launch", "        model_files.check_same(", "RecursionError"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_error_that_nobody_foresaw_is_one_line_with_its_step_and_no_traceback(place: Any, case: str) -> None:
    module, before, error = BROKEN[case]
    indent = before[: len(before) - len(before.lstrip())]
    place.break_check(module, before, f'{indent}raise {error}("first\\nsecond")\n{before}')
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    words = (
        rf"guard: launch\.\w+, line [0-9]+, of launch\.launch: {error}: first second; this is a fault of the guard's"
    )
    assert re.fullmatch(rf"detinf guard: refused: {words} own: report this line, [^\n]+\n", done.stderr), done.stderr
    assert (place.folder / "log").read_text() == done.stderr
    assert not place.attestation.exists()


def test_guard_that_cannot_be_installed_says_where(tmp_path: Path, place: Any) -> None:
    (tmp_path / "file").write_text("")
    place.arguments = lambda: [
        place.python,
        "-I",
        "-S",
        str(place.folder / "guard"),
        "install",
        str(tmp_path / "file/x"),
    ]
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    assert re.fullmatch(r"detinf guard: refused: install: .*/file/x.*: Not a directory; mount [^\n]+\n", done.stderr)


NUMBERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "huge vocabulary": (file(CONFIG, f'{{"vocab_size": {2**60}}}'), f"vocab_size is {2**60}, expected .* up to"),
    "vocabulary beyond everything": (file(CONFIG, f'{{"vocab_size": {"9" * 4000}}}'), "vocab_size is 9{60}, expected"),
    "vocabulary of 5000 digits": (file(CONFIG, f'{{"vocab_size": {"9" * 5000}}}'), "config.json is no JSON"),
    "endless vocabulary": (file(CONFIG, '{"vocab_size": Infinity}'), "vocab_size is inf, expected"),
    "plan with a huge integer": (
        planned(lambda plan: plan["topology"].update(hbmGiB=2**60)),
        r"hbmGiB: an integer of [0-9]+ bits is beyond",
    ),
    "plan with a bottomless setting": (
        planned(lambda plan: plan["attestation"].update(configuration={"a": DEEP})),
        "is no JSON text",
    ),
    "plan with a pattern that is none": (
        planned(lambda plan: plan["attestation"].update(files={"x": "/"})),
        "files: x: ",
    ),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_what_no_reader_can_hold_is_refused_with_file_and_value(place: Any, case: str) -> None:
    breaks, words = NUMBERS[case]
    breaks(place)
    refuses(place, words)


def test_huge_integers_that_decide_nothing_stand_in_nobodys_way(place: Any) -> None:
    config = {"vocab_size": 100, "eos_token_id": [2**70, 2], "num_attention_heads": 2**70, "hidden_size": 2**70}
    (place.folder / CONFIG).write_text(json.dumps(config))
    (place.folder / TOKENIZER).write_text(json.dumps({"added_tokens_decoder": {str(2**70): {"special": True}}}))
    seen = place.lifetime()
    assert seen.vocabulary.special_ids == [2]
