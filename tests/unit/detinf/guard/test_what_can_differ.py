"""Each thing that can differ between two engines is changed by itself in a running stand-in, and is noticed.

The rows are those of ``docs/reference/what-can-differ.md`` (``tools/differences.py``). A change is a generator: what
comes before its ``yield`` makes everything right, and an engine is attested with it; what comes after is the change.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attesting_engine import Stage, run

from detinf.documents import Attestation
from detinf.guard import manifest
from detinf.guard.layout import REFUSED_EXIT_CODE

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tools"))

from differences import BEYOND, FINGERPRINT, INSIDE, OVERRIDDEN, REFUSED, ROWS, Row  # noqa: E402 - through the line above

Change = Callable[[Any], Iterator[None]]
TOPOLOGY = {"devices": 2}
CONFIG = "root/models/m/config.json"
CLOCKED = "{{ strftime_now('%d') }}"


def variable(name: str, value: str) -> Change:
    def change(place: Any) -> Iterator[None]:
        yield
        place.environment[name] = value

    return change


def search_path(place: Any) -> Iterator[None]:
    yield
    place.environment["PATH"] += ":/somewhere"


def pod_value(place: Any) -> Iterator[None]:
    place.write_plan(lambda plan: plan["environment"]["unrecorded"].append("HOME=/tmp"))
    place.environment["HOME"] = "/tmp"
    yield
    place.environment["HOME"] = "/models"


def script(text: str) -> Change:
    def change(place: Any) -> Iterator[None]:
        file = place.folder / "root/set_env.sh"
        file.write_text("export OF_THE_TOOLKIT=1\n")
        place.write_plan(lambda plan: plan["environment"].update(scripts=["/set_env.sh"]))
        yield
        file.write_text(f"export OF_THE_TOOLKIT=1\n{text}\n")

    return change


def other_plan(place: Any) -> Iterator[None]:
    yield
    place.write_plan(lambda plan: plan.update(image="another"))


def command(*words: str) -> Change:
    def change(place: Any) -> Iterator[None]:
        yield
        place.command[4:5] = words

    return change


def added(place: Any) -> Iterator[None]:
    yield
    place.command.append("--enable-lora")


class Site:
    """A folder of packages that the guard's interpreter finds."""

    def __init__(self, place: Any) -> None:
        self.folder = place.folder / "site"
        arguments = place.arguments
        place.arguments = lambda: [word for word in arguments() if word != "-I"]
        place.environment |= {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def install(self, version: str, name: str = "torch") -> None:
        for old in self.folder.glob("*.dist-info"):
            old.rename(old.with_suffix(".gone"))
        metadata = self.folder / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "RECORD").write_text(f"{name}/__init__.py,,\n")
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "__init__.py").write_text("")


def package(place: Any) -> Iterator[None]:
    site = Site(place)
    site.install("2.10.0")
    yield
    site.install("2.10.1")


def prompt_package(place: Any) -> Iterator[None]:
    site = Site(place)
    site.install("3.1.6", "jinja2")
    yield
    site.install("3.1.7", "jinja2")


def promised_package(place: Any) -> Iterator[None]:
    place.write_plan(lambda plan: plan["attestation"].update(packages={"torch": ["2.10.0"]}))
    yield from package(place)


def build(place: Any) -> Iterator[None]:
    site = Site(place)
    site.install("2.10.0")
    yield
    next(site.folder.glob("*.dist-info/RECORD")).write_text("torch/__init__.py,sha256=other,1\n")


def module(place: Any) -> Iterator[None]:
    site = Site(place)
    site.install("2.10.0")
    yield
    front = place.folder / "front"
    (front / "torch").mkdir(parents=True)
    (front / "torch/__init__.py").write_text("")
    place.environment["PYTHONPATH"] = f"{front}:{site.folder}"


def interpreter(place: Any) -> Iterator[None]:
    yield
    place.break_check("identity", '    return f"{sys.version_info[0]}', '    return f"another {sys.version_info[0]}')


def toolkit(place: Any) -> Iterator[None]:
    file = place.folder / "root/toolkit/aarch64-linux/ascend_toolkit_install.info"
    file.parent.mkdir(parents=True)
    file.write_text("version=9.1.0\n")
    place.environment["ASCEND_TOOLKIT_HOME"] = "/toolkit"
    yield
    file.write_text("version=9.2.0\n")


def promised_toolkit(place: Any) -> Iterator[None]:
    place.write_plan(lambda plan: plan["attestation"].update(packages={"cann": ["9.1.0"]}))
    yield from toolkit(place)


def library(place: Any) -> Iterator[None]:
    file = place.folder / "root/opp/libcust_opapi.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"kernels")
    place.write_plan(lambda plan: plan["attestation"].update(files={"kernels": "/opp/libcust_opapi.so"}))
    yield
    file.write_bytes(b"kernelz")


def no_library(place: Any) -> Iterator[None]:
    yield from library(place)
    (place.folder / "root/opp/libcust_opapi.so").unlink()


def tree(ids: range = range(2), **facts: Any) -> Change:
    def change(place: Any) -> Iterator[None]:
        place.write_plan(lambda plan: plan.update(topology=TOPOLOGY))
        place.give_devices(range(2))
        yield
        place.give_devices(ids, **facts)

    return change


def declared_driver(place: Any) -> Iterator[None]:
    place.write_plan(lambda plan: plan.update(topology=TOPOLOGY | {"driverVersion": "25.5.1"}))
    place.give_devices(range(2))
    yield
    place.give_devices(range(2), driver="25.3.1")


def sick(place: Any) -> Iterator[None]:
    yield from tree()(place)
    facts = place.folder / "root/usr/local/dcmi/simulated.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"health": {"1": "Alarm"}}))


def processor(place: Any) -> Iterator[None]:
    cpuinfo = place.folder / "cpuinfo"
    cpuinfo.write_text("flags\t: avx2 avx512f\n")
    place.break_check("identity", 'Path("/proc/cpuinfo")', f'Path("{cpuinfo}")')
    yield
    cpuinfo.write_text("flags\t: avx2\n")


def changing_device(place: Any) -> Iterator[None]:
    place.write_plan(lambda plan: plan.update(topology={"devices": 1}))
    place.give_devices(range(1))
    yield
    source = (place.folder / "bin/npu-smi").read_text()
    (place.folder / "ran").unlink()
    once = f'if pathlib.Path("{place.folder}/ran").exists():\n    FACTS["firmware"] = "7.9"\n\n\n'
    place.write_npu_smi(source.replace("def main(arguments):\n", once + "def main(arguments):\n"))
    # The engine leaves its trace as it starts; the guard reads the devices again when it is there.
    place.break_check(
        "launch",
        "        seen = environment.check_process(",
        f'        while not Path("{place.folder}/ran").exists():\n            time.sleep(0.001)\n'
        "        seen = environment.check_process(",
    )


def model_config(place: Any) -> Iterator[None]:
    yield
    (place.folder / CONFIG).write_text((place.folder / CONFIG).read_text() + "\n")


def model_file(name: str, before: str, after: str) -> Change:
    def change(place: Any) -> Iterator[None]:
        file = place.folder / "root/models/m" / name
        file.write_text(before)
        yield
        file.write_text(after)

    return change


def named_file(place: Any) -> Iterator[None]:
    template = place.folder / "root/template.jinja"
    template.write_text("{{ messages }}")
    place.write_plan(lambda plan: plan["arguments"].extend(["--chat-template", "/template.jinja"]))
    place.command[7:7] = ["--chat-template", "/template.jinja"]
    yield
    template.write_text("{{ messages[0] }}")


def weights(place: Any) -> Iterator[None]:
    file = place.folder / "root/models/m/model.safetensors"
    file.write_bytes(b"weights")
    digest = manifest.digest(file.parent)
    place.write_plan(lambda plan: plan["model"].update(manifestDigest=digest))
    yield
    file.write_bytes(b"veights")


def clock(place: Any) -> Iterator[None]:
    arguments = place.arguments
    # The engine's interpreter has jinja2, by which the guard looks through a template that it does not know.
    place.arguments = lambda: [word for word in arguments() if word not in {"-I", "-S"}]
    yield
    (place.folder / "root/models/m/chat_template.jinja").write_text(CLOCKED)


CHANGES: dict[str, Change] = {
    "variable": variable("LCCL_PARALLEL", "1"),
    "preload": variable("LD_PRELOAD", ""),
    "search-path": search_path,
    "secret": variable("SOME_TOKEN", "secret"),
    "pod-value": pod_value,
    "planned-variable": variable("VLLM_BATCH_INVARIANT", "0"),
    "unset-variable": variable("HCCL_ALGO", "ring"),
    "script-variable": script("export LCCL_PARALLEL=1"),
    "script-planned": script("export VLLM_BATCH_INVARIANT=0"),
    "script-fails": script("return 1"),
    "plan": other_plan,
    "argument": command("1"),
    "added-argument": added,
    "package": package,
    "prompt-package": prompt_package,
    "promised-package": promised_package,
    "build": build,
    "module": module,
    "python": interpreter,
    "toolkit": toolkit,
    "promised-toolkit": promised_toolkit,
    "library": library,
    "no-library": no_library,
    "devices": tree(range(1)),
    "chip": tree(chip="910B4"),
    "memory": tree(hbm_gib=32),
    "driver": tree(driver="25.3.1"),
    "firmware": tree(firmware="7.1"),
    "link": tree(link="SYS"),
    "declared-driver": declared_driver,
    "sick": sick,
    "processor": processor,
    "model-config": model_config,
    "tokenizer": model_file("tokenizer_config.json", "{}", '{"a": 1}'),
    "chat-template": model_file("chat_template.jinja", "{{ messages }}", "{{ messages[0] }}"),
    "generation-config": model_file("generation_config.json", "{}", '{"top_k": 1}'),
    "weights-size": model_file("model.safetensors", "weights", "other weights"),
    "named-file": named_file,
    "weights": weights,
    "clock": clock,
    "changing-device": changing_device,
}


def launcher(line: str) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        engine = stage.environment["PYTHONPATH"]
        stage.place.write_launcher(f'{line}\nexec {sys.executable} -S {engine}/serve.py "$@"')

    return change


def wrong(**what: Any) -> Callable[[Stage], None]:
    def change(stage: Stage) -> None:
        stage.wrong = what

    return change


def rewritten(name: str, *arguments: str) -> Callable[[Stage], None]:
    """Change a file once the guard has looked for the second time, while weights would be loaded."""

    def change(stage: Stage) -> None:
        path = stage.folder / "root" / name
        path.write_text("before")
        stage.plan["arguments"] += arguments
        stage.place.command[7:7] = arguments
        stage.wrong = {"written": {str(path): "after"}}

    return change


INSIDE_CHANGES: dict[str, Callable[[Stage], None]] = {
    "launcher": launcher("export LCCL_PARALLEL=1"),
    "launcher-planned": launcher("export ATB_MATMUL_SHUFFLE_K_ENABLE=1"),
    "worker-variable": wrong(environment={"1": {"ATB_MATMUL_SHUFFLE_K_ENABLE": "1"}}),
    "configuration": wrong(configuration={"cache_config.enable_prefix_caching": True}),
    "symbol": wrong(undone_by_warm_up=True),
    "kv-cache": wrong(configuration={"cache_config.num_gpu_blocks": 15}),
    "vocabulary": wrong(configuration={"model_config.vocab_size": 101}),
    "changing-model": rewritten("models/m/tokenizer.json"),
    "changing-template": rewritten("template.jinja", "--chat-template", "/template.jinja"),
}


def noticed(place: Any, before: Attestation) -> tuple[str, str]:
    """Start the guard; return how it took what was changed, and its words or the parts of the identity that differ."""
    (place.folder / "log").unlink(missing_ok=True)
    with place.started() as process:
        while process.poll() is None and not place.attestation.exists():
            signal.sigtimedwait([], 0.02)
        if process.poll() is not None:
            assert process.returncode == REFUSED_EXIT_CODE
            return REFUSED, (place.folder / "log").read_text()
        seen = Attestation.parse(place.attestation.read_bytes())
    if seen.fingerprint != before.fingerprint:
        parts = {*seen.identity, *before.identity}
        return FINGERPRINT, " ".join(part for part in parts if seen.identity.get(part) != before.identity.get(part))
    return (OVERRIDDEN, "") if seen.overridden else ("nothing", "")


@pytest.mark.parametrize("row", [row for row in ROWS if row.layer != INSIDE], ids=lambda row: row.key)
def test_what_differs_is_noticed_by_the_guard(place: Any, row: Row) -> None:
    change = CHANGES[row.key](place)
    next(change)
    before = place.lifetime()
    assert before.overridden is None
    for _ in change:  # one more yield is a change of a change
        pass
    how, words = noticed(place, before)
    assert how == row.noticed, words
    assert row.words in words


@pytest.mark.parametrize("row", [row for row in ROWS if row.layer == INSIDE], ids=lambda row: row.key)
def test_what_differs_inside_the_engine_is_refused(stage: Stage, row: Row) -> None:
    INSIDE_CHANGES[row.key](stage)
    outcome = run(stage)
    assert row.noticed == REFUSED
    assert not outcome.served
    assert outcome.code == REFUSED_EXIT_CODE, outcome
    assert row.words in outcome.words


def test_every_row_has_a_change_and_every_change_a_row() -> None:
    keys = [row.key for row in ROWS]
    assert len(keys) == len(set(keys))
    assert set(keys) == {*CHANGES, *INSIDE_CHANGES}


def test_every_part_of_the_identity_has_a_row(stage: Stage) -> None:
    parts: set[str] = set()

    def note(stage: Stage) -> None:
        parts.update(json.loads((stage.folder / "shared/attestation-guard.json").read_bytes())["identity"])

    run(stage, note)
    rows = {row.words for row in ROWS if row.noticed == FINGERPRINT}
    assert parts - {"schema"} <= rows
    assert rows <= parts | {"packages", "builds", "argumentFiles"}


@pytest.mark.parametrize("test", sorted({test for item in BEYOND for test in item.tests}))
def test_what_others_hold_is_shown_by_a_test_that_there_is(test: str) -> None:
    file, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
