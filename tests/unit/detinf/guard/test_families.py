"""The guard starts an engine in a root in the shape of every released image family, and says what the image had."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from attesting_engine import Stage, run
from cann_families import LIBRARY, Family, read_families, write_toolkit

from detinf.engines.catalogue import read, shipped
from detinf.guard.layout import REFUSED_EXIT_CODE
from detinf.probe.attested import Attested

FAMILIES = read_families()
PROFILE = read(shipped())["vllm-ascend-0.23"]
OURS = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
"""Lists of folders, of which the test needs its own."""


def in_image(stage: Stage, family: Family) -> Stage:
    """Make the stage a container of the family's image, under the plan that the shipped profile makes."""
    root = stage.folder / "root"
    write_toolkit(root, family)
    for name, value in family.environment.items():
        own = stage.environment.get(name) if name in OURS else None
        stage.place.environment[name] = f"{own}:{value}" if own else value
    stage.plan["environment"] |= {
        "set": {item.name: item.value for item in PROFILE.variables},
        "unset": [item.name for item in PROFILE.unset],
        "scripts": list(PROFILE.scripts),
    }
    stage.plan["attestation"]["packages"] = {"cann": [family.cann]}
    stage.plan["attestation"]["files"] = {"batch_invariant_ops": "${ASCEND_OPP_PATH}/" + LIBRARY.removeprefix("opp/")}
    return stage


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def test_engine_starts_in_the_image_of_every_family_and_what_gave_way_is_told(stage: Stage, family: Family) -> None:
    seen: list[dict[str, Any]] = []

    def note(stage: Stage) -> None:
        seen.append(json.loads((stage.folder / "shared/attestation-guard.json").read_bytes()))

    outcome = run(in_image(stage, family), note)
    assert isinstance(outcome.attested, Attested), outcome
    (guard,) = seen
    assert guard["identity"]["toolkit"]["cann"] == family.cann
    assert "batch_invariant_ops" in guard["identity"]["files"]
    assert guard["overridden"]["container"] == {"ATB_MATMUL_SHUFFLE_K_ENABLE": "1", "LCCL_DETERMINISTIC": "0"}


def test_compiler_of_the_third_script_is_on_the_path_of_the_engine(stage: Stage, family: Family) -> None:
    in_image(stage, family)
    engine = stage.environment["PYTHONPATH"].partition(":")[0]
    launch = f'exec {stage.place.python} -S {engine}/serve.py "$@"'
    stage.place.write_launcher(f'printf %s "$PATH" > {stage.folder}/path\n{launch}')
    assert run(stage).served
    assert f"{family.home}/share/info/ascendnpu-ir/bin" in (stage.folder / "path").read_text().split(":")


@pytest.mark.parametrize("index", range(3), ids=["toolkit", "compiler", "ATB"])
def test_family_without_one_of_its_scripts_is_refused(stage: Stage, family: Family, index: int) -> None:
    in_image(stage, family)
    (stage.folder / "root" / family.scripts[index].lstrip("/")).unlink()
    outcome = run(stage)
    assert outcome.code == REFUSED_EXIT_CODE
    assert f"{family.scripts[index]} is missing or unreadable; use an image that has the toolkit" in outcome.words


INFO = ("ascend_toolkit_install.info", "ascend_all_cann_install.info")


@pytest.mark.parametrize(
    ("infos", "seen"),
    [
        ({INFO[0]: "version=9.1.0\n"}, None),
        ({INFO[1]: "version=9.1.0\n"}, None),
        ({INFO[0]: "version=9.1.0\n", INFO[1]: "version=9.1.0\n"}, None),
        ({INFO[0]: "version=8.5.1\n", INFO[1]: "version=9.1.0\n"}, "cann is 8.5.1 and 9.1.0"),
        ({INFO[1]: "version=9.0.1\n"}, "cann is 9.0.1"),
        ({INFO[1]: "innerversion=V100\n"}, "cann is not installed"),
        ({INFO[0]: "version=9.1.0\n", INFO[1]: ""}, "cann is not installed"),
        ({}, "cann is not installed"),
    ],
    ids=["8's name", "9's name", "both", "both, and they differ", "another", "no version", "one is empty", "none"],
)
def test_version_of_cann_is_read_under_either_name(stage: Stage, infos: dict[str, str], seen: str | None) -> None:
    family = FAMILIES["9.1"]
    in_image(stage, family)
    folder = stage.folder / "root" / family.home.lstrip("/") / f"{platform.machine()}-linux"
    for name in INFO:
        (folder / name).unlink(missing_ok=True)
    for name, text in infos.items():
        (folder / name).write_text(text)
    outcome = run(stage)
    if seen is None:
        assert isinstance(outcome.attested, Attested), outcome
    else:
        assert outcome.code == REFUSED_EXIT_CODE
        assert f"packages: {seen}" in outcome.words


def test_every_family_has_its_sources_and_says_what_is_not_known() -> None:
    assert sorted(FAMILIES) == ["8.5", "9.0", "9.1", "9.2"]
    assert all(family.sources for family in FAMILIES.values())
    assert all(FAMILIES[name].unknown for name in ("9.1", "9.2"))
    documented = (Path(__file__).parents[4] / "docs/reference/images.md").read_text(encoding="utf-8")
    assert all(family.cann in documented for family in FAMILIES.values())
