"""``install``: copy the guard into a folder that any image's ``python3`` can run."""

from __future__ import annotations

import shutil
from pathlib import Path

ENTRY = """\
import sys

from detinf.guard.cli import main

sys.exit(main(sys.argv[1:]))
"""

DIST_INFO = "detinf_guard-1.dist-info"
METADATA = "Metadata-Version: 2.1\nName: detinf-guard\nVersion: 1\n"
ENTRY_POINTS = "[vllm.general_plugins]\ndetinf = detinf.guard.plugin:register\n"
"""How vLLM finds the plug-in: a dist-info folder anywhere on PYTHONPATH."""


def install(target: Path) -> None:
    """Copy the guard to ``target``: ``__main__.py``, the package beside it, and the plug-in's dist-info folder.

    The copy is made in a folder beside it and moved whole, so that an interrupted install is never run. Files are
    readable for every user: the engine's image decides who runs them.
    """
    source = Path(__file__).resolve().parent
    draft = target / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    package = draft / "detinf" / "guard"
    package.mkdir(parents=True)
    (draft / "__main__.py").write_text(ENTRY, encoding="utf-8")
    (draft / "detinf" / "__init__.py").write_text('"""The guard\'s part of detinf."""\n', encoding="utf-8")
    (draft / DIST_INFO).mkdir()
    (draft / DIST_INFO / "METADATA").write_text(METADATA, encoding="utf-8")
    (draft / DIST_INFO / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    for module in sorted(source.glob("*.py")):
        shutil.copyfile(module, package / module.name)
    for path in [draft, *draft.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    for path in sorted(draft.iterdir()):
        final = target / path.name
        if final.is_dir():
            shutil.rmtree(final)
        path.replace(final)
    draft.rmdir()
