"""What is written down of the released images is what the Dockerfiles of the published packages say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests/stand_ins")]

from cann_families import Family, read_families  # noqa: E402 - as above

import published  # noqa: E402 - found through the line above
from published import Package, source  # noqa: E402 - as above

FAMILIES = read_families()
RELEASES = {
    item.version: item for item in vars(published).values() if isinstance(item, Package) and item.name == "vllm-ascend"
}


def family_of(version: str) -> Family:
    (family,) = (item for item in FAMILIES.values() if version in item.releases)
    return family


def dockerfile(version: str) -> str:
    """Return the Dockerfile of a release, with its continued lines joined and its arguments' defaults put in."""
    text = (source(RELEASES[version]) / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for name, value in re.findall(r'^ARG (\w+)="?([^"\n]*)"?$', text, re.MULTILINE):
        text = re.sub(rf"\$\{{{name}\}}|\${name}\b", lambda _match, value=value: value, text)
    return text


@pytest.mark.parametrize("version", RELEASES)
def test_release_is_built_on_the_cann_of_its_family(version: str) -> None:
    (base,) = re.findall(r"^FROM \S*/cann:([0-9.]+)\S*-910b-ubuntu22.04-", dockerfile(version), re.MULTILINE)
    assert base == family_of(version).cann


@pytest.mark.parametrize("version", RELEASES)
def test_release_sets_the_variables_of_its_family_and_no_other(version: str) -> None:
    lines = re.findall(r"^ENV (.*)$", dockerfile(version), re.MULTILINE)
    seen = dict(pair.partition("=")[::2] for line in lines for pair in re.findall(r"\w+=\S*", line))
    path = seen.pop("PATH", None)
    assert path in {None, '"/root/.cargo/bin:$PATH"'}
    assert seen
    assert seen.items() <= family_of(version).environment.items()


@pytest.mark.parametrize("version", RELEASES)
def test_release_has_the_users_and_the_folder_of_its_family(version: str) -> None:
    text = dockerfile(version)
    assert not re.search(r"^USER |useradd|adduser|^ENTRYPOINT", text, re.MULTILINE)
    assert re.findall(r"^WORKDIR (\S+)$", text, re.MULTILINE) == [family_of(version).working_dir]


def test_every_release_that_a_profile_is_for_is_of_a_family() -> None:
    from detinf.engines.catalogue import PROFILES

    for profile in PROFILES.values():
        for version in profile.packages.get("vllm-ascend", ()):
            assert any(version in family.releases for family in FAMILIES.values()), (profile.name, version)
