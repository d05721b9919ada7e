"""Sets of variables that the published packages read: none outside what is allowed goes unnoticed, whoever sets it.

Noticed is: another identity, or put over by the plan and recorded as such. The names are ``variable_names.txt``, which
``tools/variable_names.py`` collects, and others that look like them.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, find, given
from hypothesis import strategies as st

from detinf.api.types import Spec
from detinf.documents import PlanTopology
from detinf.engines.catalogue import PROFILES
from detinf.engines.plan import build_plan
from detinf.guard.canonical import digest
from detinf.guard.environment import engine_environment
from detinf.guard.plan import Plan
from detinf.guard.variables import OWN, recorded, unrecorded

ROOT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ROOT / "tools"))

import variable_names  # noqa: E402 - found through the line above

NAMES = [line for line in variable_names.TARGET.read_text().splitlines() if line and not line.startswith("#")]
ALLOWED = sorted({item.rstrip("*") for profile in PROFILES.values() for item in profile.unrecorded if "=" not in item})
LIKE = st.sampled_from(NAMES) | st.sampled_from(ALLOWED) | st.sampled_from(sorted(OWN))
MUTATED = st.builds(
    lambda form, name: form.format(name=name, shorter=name[:-1], lower=name.lower()),
    st.sampled_from(["{name}_X", "X_{name}", "X{shorter}", "{lower}"]),
    LIKE,
)
VALUES = st.sampled_from(["", "0", "1", "true", "/tmp", "strict"]) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20
)
SETS = st.dictionaries(LIKE | MUTATED, VALUES, max_size=8)
CONTAINER = {"PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
OURS = {"DETINF_BOOT": "f" * 32, "DETINF_PLAN": "/plan", "DETINF_SHARED": "/shared", "DETINF_TRACE": "/shared/trace"}
each_profile = pytest.mark.parametrize("name", sorted(PROFILES))


@functools.cache
def plan_of(name: str) -> Plan:
    """Return the plan of a profile as the guard has it, without the scripts, which are no part of this machine."""
    example_spec = yaml.safe_load((ROOT / "examples/vllm-ascend.yaml").read_text())["spec"]
    spec = Spec.model_validate(example_spec | {"topology": {}})
    document = build_plan(spec, PROFILES[name], "image", PlanTopology(devices=0)).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    document["environment"].pop("scripts", None)
    return Plan("sha256:0", document)


def seen_by_guard(plan: Plan, container: dict[str, str]) -> tuple[str, dict[str, str], set[str]]:
    """Return (what stands for the fingerprint, the engine's environment, names that the plan was put over)."""
    prepared = engine_environment(plan, container, OURS, "/guard")
    over = {name for found in prepared.overridden.values() for name in found}
    return digest(recorded(prepared.variables, plan.variables, plan.unrecorded)), prepared.variables, over


def unnoticed(plan: Plan, changed: dict[str, str], allowed: list[str]) -> list[str]:
    """Return the variables of a set, each put into the container alone and all at once, that nobody would notice."""
    usual = seen_by_guard(plan, CONTAINER)[0]
    together = seen_by_guard(plan, CONTAINER | changed)
    found = []
    for name, value in changed.items():
        alone = seen_by_guard(plan, CONTAINER | {name: value})
        same = CONTAINER.get(name) == value or plan.variables.get(name) == value
        mine = name in OWN or unrecorded(name, value, allowed)
        told = (alone[0] != usual or name in alone[2]) and (name in together[2] or together[0] != usual)
        if not (same or mine or told):
            found.append(name)
    return found


@each_profile
@given(changed=SETS)
@example(changed={"LCCL_PARALLEL": "1"})
@example(changed={"HOME": "/elsewhere", "TMPDIR": ""})
@example(changed={"HCCL_ALGO": "level0:ring", "VLLM_BATCH_INVARIANT": "0"})
@example(changed={"PYTHONPATH": "/else", "LD_PRELOAD": "/lib/x.so"})
def test_nothing_outside_what_is_allowed_goes_unnoticed(name: str, changed: dict[str, str]) -> None:
    plan = plan_of(name)
    assert unnoticed(plan, changed, plan.unrecorded) == []


@each_profile
@given(first=SETS, second=SETS)
def test_two_containers_are_told_apart_by_all_that_an_engine_would_see(
    name: str, first: dict[str, str], second: dict[str, str]
) -> None:
    plan = plan_of(name)
    seen = [seen_by_guard(plan, CONTAINER | changed) for changed in (first, second)]
    effective = [
        {key: value for key, value in item[1].items() if key not in OWN and not unrecorded(key, value, plan.unrecorded)}
        for item in seen
    ]
    assert (seen[0][0] == seen[1][0]) == (effective[0] == effective[1])


@each_profile
def test_each_name_that_the_packages_read_is_noticed_by_itself(name: str) -> None:
    plan = plan_of(name)
    assert len(NAMES) > 1000
    assert unnoticed(plan, dict.fromkeys(NAMES, "4711"), plan.unrecorded) == []


def test_a_family_that_is_let_pass_is_found() -> None:
    plan = plan_of("vllm-ascend-0.23")
    document = {**plan.document, "environment": {**plan.document["environment"]}}
    document["environment"]["unrecorded"] = [*plan.unrecorded, "TORCHINDUCTOR_*"]
    wide = Plan("sha256:0", document)
    assert "TORCHINDUCTOR_MAX_AUTOTUNE" in unnoticed(wide, dict.fromkeys(NAMES, "4711"), plan.unrecorded)
    found = find(SETS, lambda changed: bool(unnoticed(wide, changed, plan.unrecorded)))
    assert all(key.startswith("TORCHINDUCTOR_") for key in found)


def test_variables_that_passed_before_are_among_the_names() -> None:
    tried = {"VLLM_USE_V2_MODEL_RUNNER", "TORCHINDUCTOR_MAX_AUTOTUNE", "ATEN_CPU_CAPABILITY", "VLLM_BATCH_INVARIANT"}
    assert sorted(tried - set(NAMES)) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", 'os.environ.get("ONE_NAME", "0")', ["ONE_NAME"]),
        ("a.py", "os.getenv('TWO_NAME')", ["TWO_NAME"]),
        ("a.py", 'os.environ["THREE"] = "1"', ["THREE"]),
        ("a.py", '"FOUR_NAME" not in os.environ', ["FOUR_NAME"]),
        ("knobs.py", 'x: env_bool = env_bool("TRITON_X")', ["TRITON_X"]),
        ("config.py", 'Config(env_name_force="TORCHINDUCTOR_X")', ["TORCHINDUCTOR_X"]),
        ("envs.py", '"VLLM_X": lambda: 1', ["VLLM_X"]),
        ("a.py", '"VLLM_X": lambda: 1', []),
        ("a.cpp", 'std::getenv("HCCL_X")', ["HCCL_X"]),
        ("set.sh", "export ATB_X=1\n", ["ATB_X"]),
        ("lib/libx.so.1", "\0HCCL_LIBRARY\0OTHER_LIBRARY\0", ["HCCL_LIBRARY"]),
        ("notes.md", 'os.getenv("NO")', []),
    ],
)
def test_tool_finds_the_names_that_a_file_reads(name: str, text: str, expected: list[str]) -> None:
    assert list(variable_names.names_in(name, text.encode(), (b"HCCL_",))) == expected
