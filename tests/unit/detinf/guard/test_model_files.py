"""A model's files: the manifest that refuses other weights, and templates that read the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from detinf.cli.main import app
from detinf.guard import manifest, templates
from detinf.guard.errors import RefusedError
from detinf.guard.layout import REFUSED_EXIT_CODE

CLOCKED = "{{ strftime_now('%d %b %Y') }}"
PIN = ["--default-chat-template-kwargs", '{"date_string": "1 Jan 2026"}']


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "onnx").mkdir(parents=True)
    (folder / "config.json").write_text('{"vocab_size": 100}')
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "onnx" / "model.onnx").write_bytes(b"more weights")
    return folder


def test_manifest_is_the_same_for_the_same_files_wherever_they_lie(model: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "blobs"
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    for path in (item for item in model.rglob("*") if item.is_file()):
        link = snapshot / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        (blobs / path.name).write_bytes(path.read_bytes())
        link.symlink_to(blobs / path.name)
    (snapshot / ".cache").mkdir()
    (snapshot / ".cache" / "note").write_text("when it was downloaded")
    assert manifest.digest(snapshot) == manifest.digest(model)
    assert sorted(manifest.manifest(model)) == ["config.json", "model.safetensors", "onnx/model.onnx"]


@pytest.mark.parametrize("change", ["one bit", "another name", "one file more", "one file less"])
def test_any_change_of_a_file_is_another_manifest(model: Path, change: str) -> None:
    before = manifest.digest(model)
    weights = model / "model.safetensors"
    if change == "one bit":
        weights.write_bytes(b"veights")
    elif change == "another name":
        weights.rename(model / "model-1.safetensors")
    elif change == "one file more":
        (model / "adapter.safetensors").write_bytes(b"")
    else:
        weights.unlink()
    assert manifest.digest(model) != before
    with pytest.raises(RefusedError, match=r"the plan says sha256:.*`detinf manifest`"):
        manifest.check(model, before)


def test_model_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"model: .*No such file or directory; restore"):
        manifest.check(tmp_path / "nothing", "sha256:" + "0" * 64)


def test_command_line_prints_what_the_resource_asks_for(model: Path) -> None:
    done = CliRunner().invoke(app, ["manifest", str(model)])
    assert (done.exit_code, done.output.strip()) == (0, manifest.digest(model))
    listed = CliRunner().invoke(app, ["manifest", str(model), "--files"])
    assert len(listed.output.splitlines()) == 4
    wrong = CliRunner().invoke(app, ["manifest", str(model / "onnx")])
    assert wrong.exit_code == 2


def test_other_weights_than_the_manifest_do_not_start(place: Any) -> None:
    folder = place.folder / "root/models/m"
    (folder / "model.safetensors").write_bytes(b"weights")
    digest = manifest.digest(folder)
    place.write_plan(lambda plan: plan["model"].update(manifestDigest=digest))
    place.lifetime()  # the ones that are meant
    (folder / "model.safetensors").write_bytes(b"veights")
    (place.folder / "ran").unlink()
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE
    assert not place.engine_ran
    assert f"the plan says {digest}" in (place.folder / "log").read_text()
    place.break_check("manifest", "    if seen != expected:\n", "    if False:\n")
    place.lifetime()  # with that one check broken they serve


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chat_template.jinja", CLOCKED),
        ("chat_template.json", json.dumps({"chat_template": CLOCKED})),
        ("tokenizer_config.json", json.dumps({"chat_template": CLOCKED})),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "tool_use", "template": CLOCKED}]})),
    ],
)
def test_template_that_reads_the_clock_is_refused_unless_the_date_is_pinned(
    place: Any, model: Path, name: str, text: str
) -> None:
    templates.check(model, [])
    (model / name).write_text(text)
    with pytest.raises(RefusedError, match=f"{name} reads the clock.*--default-chat-template-kwargs"):
        templates.check(model, ["--default-chat-template-kwargs", '{"enable_thinking": false}'])
    templates.check(model, PIN)
    templates.check(model, ["=".join(PIN)])
    (place.folder / "root/models/m" / name).write_text(text)
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE
    assert not place.engine_ran


def test_guard_attests_what_kind_of_model_it_is(place: Any) -> None:
    config = {"vocab_size": 100, "hidden_size": 2**70, "text_config": {"num_experts": 8}, "hidden_act": "\ud800" * 99}
    (place.folder / "root/models/m/config.json").write_text(json.dumps(config))
    assert place.lifetime().model == {
        "vocab_size": 100,
        "hidden_size": str(2**70),
        "hidden_act": "\\ud800" * 64,
        "num_experts": 8,
    }
