"""Hooks after imports: the module is the engine's own, and nothing is imported early."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GUARD = "import sys; sys.path.insert(0, sys.argv[1])\nfrom detinf.guard.imports import after_import\nseen = []\n"


def run(folder: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", GUARD + code, str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "engine" / "core.py").write_text("print('core runs')\nVALUE = 1\n", encoding="utf-8")
    return tmp_path


def test_hook_runs_once_when_somebody_imports_the_module_and_not_before(folder: Path) -> None:
    code = (
        "after_import('engine.core', lambda module: print('hooked', module.VALUE))\nprint('engine' in sys.modules)\n"
        "import engine.core\nimport engine.core\nprint(engine.core.__loader__, engine.core.__spec__.loader)\n"
    )
    lines = run(folder, code).splitlines()
    assert lines[:3] == ["False", "core runs", "hooked 1"]
    assert len(lines) == 4
    assert lines[3].count("SourceFileLoader") == 2  # as if nobody had been here


def test_hook_of_a_module_that_is_there_runs_at_once(folder: Path) -> None:
    code = "import engine.core\nafter_import('engine.core', lambda module: print('hooked', module.VALUE))\n"
    assert run(folder, code).splitlines() == ["core runs", "hooked 1"]


def test_several_hooks_of_one_module_all_run(folder: Path) -> None:
    hooks = "".join(f"after_import('engine.core', lambda _: print('{name}'))\n" for name in "ab")
    code = f"{hooks}import engine.core\n"
    assert run(folder, code).splitlines() == ["core runs", "a", "b"]


def test_missing_module_is_missing_as_ever(folder: Path) -> None:
    code = (
        "after_import('engine.other', lambda module: print('hooked'))\n"
        "try:\n    import engine.other\nexcept ModuleNotFoundError as error:\n    print(error)\n"
    )
    assert run(folder, code) == "No module named 'engine.other'\n"


def test_hook_that_raises_is_the_importers_error(folder: Path) -> None:
    code = (
        "def hook(module): raise RuntimeError('partial')\nafter_import('engine.core', hook)\n"
        "try:\n    import engine.core\nexcept RuntimeError as error:\n    print(error, 'engine.core' in sys.modules)\n"
    )
    assert run(folder, code).splitlines() == ["core runs", "partial False"]
