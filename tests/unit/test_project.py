"""The project as a whole: what a reader is told is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READ = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_operator_is_a_source_root_and_no_package() -> None:
    # It would shadow the standard library's operator module.
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_sidecar_imports_no_kubernetes_client_no_controller_and_no_simulator() -> None:
    code = "import detinf.probe.app, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    for unwanted in ("kopf", "kubernetes", "detinf_sim", "detinf.controller", "detinf.cluster"):
        assert unwanted not in loaded


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_make_targets_of_a_document_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in set(re.findall(r"(?:`|^)make ([a-z][a-z0-9-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), name


def test_every_reason_of_a_verdict_is_explained() -> None:
    from detinf.probe.reasons import Reason

    text = (ROOT / "docs/reference/verdicts.md").read_text(encoding="utf-8")
    assert [reason for reason in Reason if f"`{reason}`" not in text] == []


def test_every_fault_is_explained() -> None:
    from detinf_sim.faults import BEHAVIOURS, FAULTS

    text = (ROOT / "docs/reference/faults.md").read_text(encoding="utf-8")
    assert [name for name in (*FAULTS, *BEHAVIOURS) if name not in text] == []


def explained(title: str) -> set[str]:
    """Return the first column of the tables of docs/operations/failures.md, in the sections of a title or of others."""
    text = (ROOT / "docs/operations/failures.md").read_text(encoding="utf-8")
    sections = [part for part in text.split("\n## ") if part.startswith("Events") == (title == "Events")]
    rows = [line.split("|")[1] for part in sections for line in part.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_every_condition_reason_is_explained_and_set_somewhere() -> None:
    from detinf.api.conditions import Reason

    assert explained("conditions") == {str(reason) for reason in Reason}
    controller = ROOT / "operator/detinf/controller"
    source = "".join(path.read_text(encoding="utf-8") for path in controller.glob("*.py"))
    assert [reason.name for reason in Reason if f"Reason.{reason.name}" not in source] == []


def test_every_event_reason_is_explained() -> None:
    controller = ROOT / "operator/detinf/controller"
    source = "".join(path.read_text(encoding="utf-8") for path in controller.glob("*.py"))
    said = set(re.findall(r'(?:Notice\(\s*|reason = |"\): \()"([A-Z]\w+)"', source))
    assert len(said) >= 7
    assert explained("Events") == said


def test_values_of_the_chart_fit_their_own_schema() -> None:
    import json

    import jsonschema
    import yaml

    chart = ROOT / "charts/deterministic-inference"
    values = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(values, json.loads((chart / "values.schema.json").read_text(encoding="utf-8")))


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    pattern = re.compile("/" + "work/[a-z]")
    bad = [
        name for name in listed if (ROOT / name).is_file() and pattern.search((ROOT / name).read_text(errors="replace"))
    ]
    assert bad == []
