"""A model's files: each is in the fingerprint, and the manifest refuses other weights."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from attesting_engine import undocumented
from typer.testing import CliRunner

from detinf.cli.main import app
from detinf.guard import manifest, model_files
from detinf.guard.errors import RefusedError
from detinf.guard.layout import REFUSED_EXIT_CODE


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


def test_model_whose_template_reads_the_clock_does_not_start(place: Any) -> None:
    template = place.folder / "root/models/m/chat_template.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}")
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE
    assert not place.engine_ran
    place.break_check("clock", "return None  # nearly every", "pass  # nearly every")
    template.write_text("{{ messages }}")
    assert "has no jinja2" in place.run().stderr  # the tests' own interpreter is without packages
    place.break_check("templates", "        _check(where, text, said)\n", "        pass\n")
    place.lifetime()


def test_guard_attests_what_kind_of_model_it_is(place: Any) -> None:
    config = {"vocab_size": 100, "hidden_size": 2**70, "text_config": {"num_experts": 8}, "hidden_act": "\ud800" * 99}
    (place.folder / "root/models/m/config.json").write_text(json.dumps(config))
    assert place.lifetime().model == {
        "vocab_size": 100,
        "hidden_size": str(2**70),
        "hidden_act": "\\ud800" * 64,
        "num_experts": 8,
    }


def write(path: Path, text: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def snapshot(folder: Path) -> Path:
    """Return a model as the cache of Hugging Face keeps it: links to blobs, and notes in hidden folders."""
    blobs, made = folder / "blobs", folder / "snapshots" / "abc"
    for number, name in enumerate(("config.json", "tokenizer.json", "sub/vocab.txt", "model.safetensors")):
        write(blobs / str(number), name)
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).symlink_to(blobs / str(number))
    write(made / ".cache/note", "when")
    write(made / ".gitattributes")
    write(made / "lost+found/x")
    return made


def test_what_is_known_of_each_file_is_its_digest_and_of_weights_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = snapshot(tmp_path)
    write(made / "tokenizer.model", "sentences")
    write(made / "large.json", "x" * 2000)
    monkeypatch.setattr(model_files, "SMALL_BYTES", 1000)
    found = model_files.listed(made)
    assert list(found) == sorted(found)
    assert found == {
        "config.json": "sha256:" + hashlib.sha256(b"config.json").hexdigest(),
        "large.json": "bytes:2000",
        "model.safetensors": "bytes:17",
        "sub/vocab.txt": "sha256:" + hashlib.sha256(b"sub/vocab.txt").hexdigest(),
        "tokenizer.json": "sha256:" + hashlib.sha256(b"tokenizer.json").hexdigest(),
        "tokenizer.model": "sha256:" + hashlib.sha256(b"sentences").hexdigest(),
    }


CHANGES: dict[str, tuple[str, Any]] = {
    "a token of the tokenizer": ("tokenizer.json", lambda folder: write(folder / "tokenizer.json", "other")),
    "the chat template": ("chat_template.jinja", lambda folder: write(folder / "chat_template.jinja", "{{ b }}")),
    "the generation config": (
        "generation_config.json",
        lambda folder: write(folder / "generation_config.json", '{"top_p": 1}'),
    ),
    "a file in a folder": ("sub/merges.txt", lambda folder: write(folder / "sub/merges.txt", "other")),
    "a file more": ("added_tokens.json", lambda folder: write(folder / "added_tokens.json", "{}")),
    "a file less": ("vocab.txt", lambda folder: (folder / "vocab.txt").unlink()),
    "another name": ("vocab.txt", lambda folder: (folder / "vocab.txt").rename(folder / "vocab2.txt")),
    "weights of another size": ("model.safetensors", lambda folder: write(folder / "model.safetensors", "weightss")),
    "a file of weights more": ("more.safetensors", lambda folder: write(folder / "more.safetensors")),
    "code": ("tokenization.py", lambda folder: write(folder / "tokenization.py", "1")),
    "a member of config.json that nothing else tells": (
        "config.json",
        lambda folder: write(folder / "config.json", '{"vocab_size": 100, "rope_theta": 1}'),
    ),
}


def small_model(folder: Path) -> Path:
    for name in ("tokenizer.json", "sub/merges.txt", "vocab.txt", "model.safetensors"):
        write(folder / name, name)
    write(folder / "chat_template.jinja", "{{ a }}")
    write(folder / "generation_config.json", "{}")
    write(folder / "config.json", '{"vocab_size": 100}')
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_small_file_is_another_digest_and_the_file_is_named(tmp_path: Path, change: str) -> None:
    folder = small_model(tmp_path)
    before = model_files.listed(folder)
    name, do = CHANGES[change]
    do(folder)
    after = model_files.listed(folder)
    assert model_files.digest(before) != model_files.digest(after)
    with pytest.raises(RefusedError, match=rf"changed while the engine started: .*{re.escape(name)} (was|is)"):
        model_files.check_same(before, after)


def test_two_engines_with_one_fingerprint_have_the_same_small_files(place: Any) -> None:
    folder = small_model(place.folder / "root/models/m")
    first = place.lifetime()
    assert first.model_files == model_files.listed(folder)
    assert first.identity["modelFiles"] == model_files.digest(first.model_files)
    assert place.lifetime().fingerprint == first.fingerprint
    for name in ("a token of the tokenizer", "weights of another size"):
        CHANGES[name][1](folder)
        changed = place.lifetime()
        assert changed.fingerprint != first.fingerprint
        first = changed


def test_file_that_the_command_line_names_is_in_the_fingerprint(place: Any) -> None:
    write(place.folder / "root/t.jinja", "{{ a }}")
    place.write_plan(lambda plan: plan["arguments"].append("--chat-template=/t.jinja"))
    place.command[7:7] = ["--chat-template=/t.jinja"]
    first = place.lifetime()
    assert first.identity["argumentFiles"] == {"/t.jinja": "sha256:" + hashlib.sha256(b"{{ a }}").hexdigest()}
    write(place.folder / "root/t.jinja", "{{ b }}")
    assert place.lifetime().fingerprint != first.fingerprint


def test_file_that_changes_while_the_engine_starts_ends_it_and_is_named(place: Any) -> None:
    tokenizer = place.folder / "root/models/m/tokenizer.json"
    write(tokenizer, "before")
    engine = f'echo after > "{tokenizer}"; exec sleep 600'
    # It is read again once the engine's program runs, however soon that is.
    place.break_check(
        "launch",
        "        seen = environment.check_process(",
        f"        wait_for(Path({str(tokenizer)!r}))\n        seen = environment.check_process(",
    )
    path = place.folder / "guard/detinf/guard/launch.py"
    waiting = "def wait_for(path):\n    while path.read_text() != 'after\\n':\n        time.sleep(0.01)\n\n\n"
    path.write_text(path.read_text().replace("def stand_by(", waiting + "def stand_by("))
    place.write_launcher(engine)
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    assert re.search("model: files changed while the engine started: tokenizer.json was sha256:.* and is", done.stderr)
    assert not place.attestation.exists()


def dangling(name: str) -> Any:
    return lambda folder: (folder / name).symlink_to("/nowhere/blobs/1")


def pipe(name: str) -> Any:
    return lambda folder: ((folder / name).unlink(missing_ok=True), os.mkfifo(folder / name))


def loop(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub/again").symlink_to(folder)


def many(folder: Path) -> None:
    for number in range(model_files.MOST_FILES + 1):
        (folder / f"{number}.txt").touch()


def no_text(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).touch()


REFUSED: dict[str, tuple[Any, str]] = {
    "dangling tokenizer": (dangling("tokenizer.json"), r"tokenizer\.json is a link to /nowhere/blobs/1, which is not"),
    "dangling config": (
        lambda folder: ((folder / "config.json").unlink(), dangling("config.json")(folder)),
        r"config\.json is a link to /nowhere/blobs/1, which is not there; download the model again",
    ),
    "dangling template": (dangling("chat_template.jinja"), r"chat_template\.jinja is a link to"),
    "dangling generation config": (dangling("generation_config.json"), r"generation_config\.json is a link to"),
    "dangling weights": (dangling("model.safetensors"), r"model\.safetensors is a link to"),
    "dangling folder": (dangling("additional_chat_templates"), r"additional_chat_templates is a link to"),
    "link to itself": (lambda folder: (folder / "x").symlink_to("x"), "x: Too many levels of symbolic links; restore"),
    "folder that leads back": (loop, "sub/again is a link to a folder that it lies in; remove the link"),
    "pipe": (lambda folder: os.mkfifo(folder / "tokenizer.json"), "is neither a file nor a folder; remove it"),
    **{
        f"pipe for {name}": (pipe(name), rf"{re.escape(name)} is neither a file nor a folder; remove it")
        for name in ("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja")
    },
    "device": (lambda folder: (folder / "x").symlink_to("/dev/zero"), "x is neither a file nor a folder"),
    "folder for a config": (
        lambda folder: ((folder / "config.json").unlink(), (folder / "config.json").mkdir()),
        "config.json: Is a directory; restore the model's files",
    ),
    "folder for a template": (lambda folder: (folder / "chat_template.jinja").mkdir(), "Is a directory; restore"),
    "too many files": (many, "holds more than 4096 files; let spec.model.source name the folder of one model"),
    "name that is no text": (no_text, r"caf\\xe9\.txt' is no name in UTF-8; rename the file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_model_folder_that_cannot_be_hashed_is_refused_in_one_line(place: Any, case: str) -> None:
    breaks, words = REFUSED[case]
    breaks(place.folder / "root/models/m")
    done = place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    assert re.fullmatch(rf"detinf guard: refused: model: (?=.*{words})[^\n]+; [^\n]+\n", done.stderr), done.stderr
    assert (place.folder / "log").read_text() == done.stderr
    assert not place.engine_ran


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "chat_template.jinja", "tokenizer_config.json", "config.json", "generation_config.json"]
)
def test_file_of_another_user_is_refused_with_what_to_do(foreign_place: Any, name: str) -> None:
    path = foreign_place.folder / "root/models/m" / name
    write(path, '{"vocab_size": 100}')
    path.chmod(0o600)
    (foreign_place.folder / "log").touch()
    (foreign_place.folder / "log").chmod(0o666)
    done = foreign_place.run()
    assert done.returncode == REFUSED_EXIT_CODE, done
    words = f"{re.escape(name)}: Permission denied; let user 65534 read it .chmod -R a.rX on the model's folder.\n"
    assert re.fullmatch(f"detinf guard: refused: model: .*{words}", done.stderr), done.stderr
    assert (foreign_place.folder / "log").read_text() == done.stderr


def test_folder_of_another_user_is_refused_and_lost_and_found_is_none_of_the_model(foreign_place: Any) -> None:
    folder = foreign_place.folder / "root/models/m"
    (folder / "lost+found").mkdir(0o700)  # what mkfs leaves in a claim whose root is the model
    foreign_place.lifetime()
    (folder / "sub").mkdir(0o700)
    assert "m/sub: Permission denied; let user 65534 read it" in foreign_place.run().stderr


def test_unreadable_template_of_the_command_line_is_refused(foreign_place: Any) -> None:
    write(foreign_place.folder / "root/t.jinja")
    (foreign_place.folder / "root/t.jinja").chmod(0o600)
    foreign_place.write_plan(lambda plan: plan["arguments"].append("--chat-template=/t.jinja"))
    foreign_place.command[7:7] = ["--chat-template=/t.jinja"]
    words = "command: the file /t.jinja: Permission denied; let user 65534 read it, or correct spec.engine.extraArgs"
    assert words in foreign_place.run().stderr


def test_what_is_refused_of_model_files_is_documented_with_its_words() -> None:
    rows = (
        (
            "the model's tokenizer changes while the engine starts",
            "model: files changed while the engine started: tokenizer.json was ... and is ...",
        ),
        ("the chat template reads the clock", "model: the chat template in ... reads the clock (strftime_now)"),
        ("gpt-oss without a date", "model: vLLM renders gpt_oss with Harmony, whose system message holds today's date"),
    )
    assert undocumented(rows) == []
