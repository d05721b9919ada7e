"""The table of releases in the docs is that of the profiles."""

import os
from pathlib import Path

import pytest

from detinf.engines.catalogue import PROFILES
from detinf.engines.profile import Profile

PAGE = Path(__file__).resolve().parents[4] / "docs" / "reference" / "releases.md"


def row(profile: Profile) -> str:
    packages = {name: versions for name, versions in profile.packages.items() if name != "vllm-ascend"}
    asked = ", ".join(f"{name} {' or '.join(versions)}" for name, versions in packages.items())
    still_open = ", ".join(gap.name for gap in profile.gaps if gap.closure is None)
    unknown = ", ".join(item.name for item in profile.unresolved)
    versions = ", ".join(profile.packages["vllm-ascend"])
    release = " (pre-release)" if profile.pre_release else ""
    return f"| {versions}{release} | `{profile.name}` | {asked} | {still_open} | {unknown} |"


def test_table_has_a_row_for_each_profile_of_a_release_and_none_else() -> None:
    rows = [row(profile) for profile in PROFILES.values() if "vllm-ascend" in profile.packages]
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("|---|---|---|---|---|") + 1
    if os.environ.get("DETINF_WRITE_GOLDEN"):
        PAGE.write_text("\n".join([*lines[:start], *rows]) + "\n", encoding="utf-8")
        pytest.fail(f"wrote {PAGE}: read the difference, and run again without DETINF_WRITE_GOLDEN")
    assert lines[start:] == rows
