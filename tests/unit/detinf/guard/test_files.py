"""A file that has not changed is read once, and one that has is read again, whatever its size and time say."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from detinf.guard import files


class Counted:
    """hashlib's, and how many bytes it was given."""

    def __init__(self) -> None:
        self.bytes = 0

    def sha256(self) -> Any:
        real = hashlib.sha256()
        counted = self

        class State:
            def update(self, data: bytes) -> None:
                counted.bytes += len(data)
                real.update(data)

            def hexdigest(self) -> str:
                return real.hexdigest()

        return State()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setattr(files, "hashlib", made)
    monkeypatch.setattr(files, "_known", {})
    return made


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock be where files have settled."""
    monkeypatch.setattr(files, "SETTLED_NS", -(10**18))


def of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_file_that_has_settled_is_read_once(tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch)
    file = tmp_path / "library.so"
    file.write_bytes(b"kernels")
    assert [files.digest(file) for _ in range(3)] == [of(b"kernels")] * 3
    assert counted.bytes == len(b"kernels")


def test_file_that_was_just_written_is_read_again(tmp_path: Path, counted: Counted) -> None:
    file = tmp_path / "library.so"
    file.write_bytes(b"kernels")
    assert [files.digest(file) for _ in range(2)] == [of(b"kernels")] * 2
    assert counted.bytes == 2 * len(b"kernels")


def test_change_of_the_same_size_and_time_is_seen(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    file = tmp_path / "library.so"
    file.write_bytes(b"kernels")
    seen = file.stat()
    assert files.digest(file) == of(b"kernels")
    while file.stat().st_ctime_ns == seen.st_ctime_ns:  # the kernel's tick
        file.write_bytes(b"kernelz")
        os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert file.stat().st_mtime_ns == seen.st_mtime_ns
    assert files.digest(file) == of(b"kernelz")
    assert counted.bytes == 2 * len(b"kernels")


def test_file_that_takes_anothers_place_is_read(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(monkeypatch)
    file, other = tmp_path / "library.so", tmp_path / "other.so"
    file.write_bytes(b"kernels")
    assert files.digest(file) == of(b"kernels")
    other.write_bytes(b"kernelz")
    other.replace(file)
    assert files.digest(file) == of(b"kernelz")
    assert counted.bytes == 2 * len(b"kernels")


def test_folder_that_the_pods_user_may_not_look_into_is_named_and_not_told_as_missing(foreign_place: Any) -> None:
    folder = foreign_place.folder / "root/opp/vendors/batch_invariant"
    folder.mkdir(parents=True)
    (folder / "lib.so").write_bytes(b"kernels")
    foreign_place.write_plan(lambda plan: plan["attestation"].update(files={"ops": "/opp/vendors/*/lib.so"}))
    foreign_place.lifetime()
    (foreign_place.folder / "root/opp/vendors").chmod(0o700)
    words = "files: ops: /opp/vendors/.*/lib.so: .*/root/opp/vendors cannot be looked into; let user 65534 read it"
    assert re.search(words, foreign_place.run().stderr)


def test_install_info_that_the_pods_user_may_not_read_is_named_and_not_told_as_missing(foreign_place: Any) -> None:
    info = foreign_place.folder / "root/cann/aarch64-linux/ascend_toolkit_install.info"
    info.parent.mkdir(parents=True)
    info.write_text("version=9.1.0\n")
    foreign_place.environment["ASCEND_TOOLKIT_HOME"] = "/cann"
    foreign_place.write_plan(lambda plan: plan["attestation"].update(packages={"cann": ["9.1.0"]}))
    foreign_place.lifetime()
    info.chmod(0o600)
    words = r"packages: cann: .*/ascend_toolkit_install.info: Permission denied; let user 65534 read it"
    assert re.search(words, foreign_place.run().stderr)
