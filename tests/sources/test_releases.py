"""``detinf profile check`` over every release of vLLM-Ascend that the package index lists."""

from __future__ import annotations

import functools
import re
import sys
import urllib.parse
from pathlib import Path

import pytest
from typer.testing import CliRunner

from detinf.cli.main import app
from detinf.engines.admission import UNKNOWN, Decision, admission, nearest
from detinf.engines.catalogue import PROFILES

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from published import VLLM_ASCEND, VLLM_ASCEND_30, listed, source  # noqa: E402 - through the line above

NEWEST_KNOWN = "0.30.0rc2"


@functools.cache
def versions() -> tuple[str, ...]:
    """Return every version that the index has a file of."""
    names = (urllib.parse.urlsplit(link).path.rpartition("/")[2] for link in listed("vllm-ascend"))
    found = {match[1] for name in names if (match := re.match(r"vllm_ascend-([0-9][^-]*?)(?:\.tar\.gz|-cp)", name))}
    return tuple(sorted(found))


def test_every_release_of_the_index_is_told_something() -> None:
    assert len(versions()) >= 45
    runner = CliRunner()
    for version in versions():
        entry = admission(version)
        result = runner.invoke(app, ["profile", "check", version], env={"COLUMNS": "500"})
        assert result.exit_code == (0 if entry.profile else 1), version
        assert entry.reason in result.output, version
        if entry.decision is Decision.NO_PROFILE:
            assert f"the nearest profile is {nearest(version)}" in result.output, version


def test_every_release_that_was_published_before_this_one_is_known_by_more_than_nothing() -> None:
    """A release that comes after is told that nobody looked it up, which is true of it."""
    known = [version for version in versions() if nearest(version) and not _is_newer(version)]
    assert [version for version in known if admission(version) is UNKNOWN] == []
    assert {version for version in known if admission(version).profile} == {
        version for profile in PROFILES.values() for version in profile.packages.get("vllm-ascend", ())
    }


def _is_newer(version: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)]

    return numbers(version) > numbers(NEWEST_KNOWN)


def test_newest_stable_release_is_the_one_that_is_supported() -> None:
    stable = [version for version in versions() if "rc" not in version and not _is_newer(version)]
    newest = max(stable, key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
    assert newest == VLLM_ASCEND.version
    assert admission(newest).decision is Decision.SUPPORTED


def test_reason_against_the_first_candidate_of_0_30_is_the_vendors() -> None:
    notes = (source(VLLM_ASCEND_30) / "docs/source/user_guide/release_notes.md").read_text(encoding="utf-8")
    assert "There is no code change in this release." in notes
    assert "If you're using v0.30.0rc1 official docker image, please upgrade to v0.30.0rc2 instead." in notes
    assert "0.30.0rc2" in admission("0.30.0rc1").reason


@pytest.mark.parametrize("version", ["0.26.0rc2"])
def test_release_that_is_an_image_alone_is_on_no_index(version: str) -> None:
    assert version not in versions()
