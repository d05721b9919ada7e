"""What is installed: one version, of the module that is imported, of a build that can be told; or nothing is served."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attesting_engine import write_engine
from packages import installed

from detinf.engines.catalogue import PROFILES
from detinf.guard import files
from detinf.guard import packages as module
from detinf.guard.errors import RefusedError
from detinf.guard.packages import MODULES, PROMPTS, Installed, check_packages, read_packages
from published import VLLM_ASCEND, VLLM_ASCEND_30, Package


class Site:
    """Folders on the path of imports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def install(
        self,
        distribution: str,
        version: str,
        site: str = "first",
        *,
        brought: str | None = None,
        record: str = "a,,1\n",
    ) -> Path:
        """Install a package as pip does."""
        metadata = f"{site}/{distribution.replace('-', '_')}-{version}.dist-info"
        self.write(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nWords")
        self.write(f"{metadata}/RECORD", record)
        self.write(f"{site}/{MODULES[distribution] if brought is None else brought}/__init__.py")
        return self.folder / metadata

    @property
    def path(self) -> list[str]:
        return [str(self.folder / name) for name in ("first", "second", "third")]

    def read(self) -> Installed:
        """Read the packages as an interpreter with these folders would."""
        return read_packages(self.path)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path)
    monkeypatch.setattr(sys, "path", made.path)
    for name in MODULES.values():
        monkeypatch.delitem(sys.modules, name, raising=False)
    sys.path_importer_cache.clear()
    yield made
    sys.path_importer_cache.clear()


def refusal(site: Site) -> str:
    with pytest.raises(RefusedError) as caught:
        site.read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_versions_are_those_of_the_distributions_that_would_be_imported(
    tmp_path: Path, interpreter: Callable[[str], str], version: str
) -> None:
    site = Site(tmp_path)
    site.install("torch-npu", "2.10.0")
    site.install("vllm", "0.32.0+cpu").rename(tmp_path / "first" / "Vllm-0.32.0+cpu.dist-info")
    site.install("vllm", "0.1", "second")
    site.write("third/vllm_ascend.egg-info/PKG-INFO", "Name: vllm_ascend\nVersion: 0.23.0\n")  # `setup.py develop`
    site.write("third/vllm_ascend/__init__.py")
    site.write("third/numpy-2.1.egg-info", "Name: numpy\nVersion: 2.1\n")  # distutils
    site.write("first/other-1.dist-info/METADATA", "Name: other\nVersion: 1\n")
    code = (
        "import json, sys; sys.path[:0] = sys.argv[1:]\n"
        "from detinf.guard.packages import read_packages\n"
        "print(json.dumps(read_packages().versions))\n"
    )
    command = [interpreter(version), "-I", "-S", "-c", code, str(Path(module.__file__).parents[2]), *site.path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    versions = {"numpy": "2.1", "torch-npu": "2.10.0", "vllm": "0.32.0+cpu", "vllm-ascend": "0.23.0"}
    assert json.loads(done.stdout) == versions


def test_package_with_two_folders_of_metadata_in_one_place_has_no_version(site: Site) -> None:
    site.install("torch-npu", "2.10.0.post4")
    site.install("torch-npu", "2.10.0.post7")
    assert re.fullmatch(
        r"packages: torch-npu has no version: torch_npu-2.10.0.post4.dist-info and torch_npu-2.10.0.post7.dist-info "
        r"are both in .*/first; use an image in which it is installed once",
        refusal(site),
    )


@pytest.mark.parametrize(
    "other", ["vllm.egg-info/PKG-INFO", "VLLM-0.23.0.dist-info/METADATA", "vllm-0.23.1.egg-info/PKG-INFO"]
)
def test_other_spellings_of_a_second_version_are_seen(site: Site, other: str) -> None:
    site.install("vllm", "0.23.0")
    site.write(f"first/{other}", "Version: 0.23.1\n")
    assert "vllm has no version" in refusal(site)


def test_folder_that_stands_twice_on_the_path_is_one(site: Site) -> None:
    site.install("vllm", "0.23.0")
    (site.folder / "second").symlink_to(site.folder / "first")
    assert site.read().versions == {"vllm": "0.23.0"}


def test_metadata_of_another_folder_than_the_module_is_refused(site: Site) -> None:
    site.install("vllm", "0.23.0", "second")
    site.write("first/vllm/__init__.py")
    words = refusal(site)
    assert re.match(r"packages: vllm 0.23.0 is what .*/second/vllm-0.23.0.dist-info says, and vllm is imported", words)
    assert f"from {site.folder}/first;" in words


def test_leftover_behind_the_installed_package_is_no_version_of_it(site: Site) -> None:
    site.install("numpy", "2.3.5")
    site.install("numpy", "1.26.0", "second")
    assert site.read().versions == {"numpy": "2.3.5"}


def test_metadata_in_front_of_the_module_is_refused(site: Site) -> None:
    site.install("numpy", "1.26.0", brought="elsewhere")
    site.install("numpy", "2.3.5", "second")
    assert "numpy 1.26.0 is what" in refusal(site)


def editable(site: Site, source: Path, **origin: object) -> None:
    metadata = site.install("vllm", "0.23.0+empty", brought="elsewhere")
    document = {"url": source.as_uri(), "dir_info": {"editable": True}, **origin}
    (metadata / "direct_url.json").write_text(json.dumps(document))
    site.write("second/vllm/__init__.py")
    site.write("second/vllm.egg-info/PKG-INFO", "Version: 0.23.0+empty\n")


def test_editable_installation_as_in_the_vendors_image_is_believed(site: Site) -> None:
    editable(site, site.folder / "second")
    assert site.read() == Installed({"vllm": "0.23.0+empty"}, site.read().builds)


@pytest.mark.parametrize(
    "origin",
    [
        {"url": "file:///elsewhere"},
        {"dir_info": {}},
        {"dir_info": {"editable": False}},
        {"url": "https://example.com/second"},
        {"dir_info": 7},
    ],
    ids=str,
)
def test_editable_installation_of_another_source_is_not(site: Site, origin: dict[str, object]) -> None:
    editable(site, site.folder / "second", **origin)
    assert "vllm is imported from" in refusal(site)


def test_module_that_says_another_version_than_its_metadata_is_refused(site: Site) -> None:
    site.install("vllm", "0.23.0")
    site.write("first/vllm/_version.py", "__version__ = version = '0.26.0'\n")
    words = refusal(site)
    assert re.match(r"packages: vllm is 0.23.0 in .*dist-info and 0.26.0 in .*/first/vllm; use an image", words)


def test_build_of_the_same_version_is_no_other_version(site: Site) -> None:
    site.install("torch", "2.10.0")
    site.write("first/torch/version.py", "__all__ = ['__version__']\n__version__ = '2.10.0+cpu'\ncuda = None\n")
    assert site.read().versions == {"torch": "2.10.0"}


@pytest.mark.parametrize("text", ["", "Metadata-Version: 2.1\nName: vllm\n\nVersion: 0.23.0\n", "Version:\n"])
def test_metadata_without_a_version_is_named(site: Site, text: str) -> None:
    (site.install("vllm", "0.23.0") / "METADATA").write_text(text)
    assert re.fullmatch(
        r"packages: .*/vllm-0.23.0.dist-info/METADATA says no version; install that package again", refusal(site)
    )


def test_metadata_that_is_missing_is_named(site: Site) -> None:
    (site.install("torch", "2.10.0") / "METADATA").unlink()
    assert re.fullmatch(
        r"packages: .*/torch-2.10.0.dist-info/METADATA: No such file or directory; install that package again",
        refusal(site),
    )


def changes() -> list[tuple[str, str, str]]:
    """Return files that tell a build, and two contents of each."""
    return [
        ("vllm-0.23.0.dist-info/RECORD", "vllm/a.py,sha256=1,1\n", "vllm/a.py,sha256=2,1\n"),
        ("vllm/_version.py", "__version__ = '0.23.0'\n", "__version__ = '0.23.0'\n__commit_id__ = 'g1'\n"),
        ("vllm/_build_info.py", "", "__soc_version__ = 'ascend910b1'\n"),
    ]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change[0])
def test_two_builds_of_one_version_differ(site: Site, change: tuple[str, str, str]) -> None:
    site.install("vllm", "0.23.0")
    site.write(f"first/{change[0]}", change[1])
    before = site.read()
    assert site.read() == before
    site.write(f"first/{change[0]}", change[2])
    after = site.read()
    assert after.versions == before.versions
    assert after.builds["vllm"] != before.builds["vllm"]


WANTED = {"vllm": ["0.23.0"]}


def words_of(site: Site, wanted: dict[str, list[str]], toolkit: dict[str, str] | None = None) -> str:
    with pytest.raises(RefusedError) as caught:
        check_packages(wanted, site.read(), toolkit or {})
    return str(caught.value)


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_package_that_makes_prompts_or_chooses_tokens_is_recorded_and_held_against_no_module(
    site: Site, name: str
) -> None:
    site.install("vllm", "0.23.0")
    without = site.read()
    site.install(name, "1.0", "second", brought="what_nobody_looks_for")
    first = site.read()
    assert first.versions == without.versions | {name: "1.0"}
    assert (first.without_module, first.without_record) == (without.without_module, without.without_record)
    site.write(f"second/{name.replace('-', '_')}-1.0.dist-info/RECORD", "b,,1\n")
    assert site.read().builds[name] != first.builds[name]


def test_leftover_beside_a_package_that_makes_prompts_is_recorded_with_it(site: Site) -> None:
    site.install("jinja2", "3.1.5", brought="jinja2")
    alone = site.read()
    site.install("jinja2", "3.1.6", brought="jinja2")
    site.install("jinja2", "3.1.7", "second", brought="jinja2")  # behind the first: nobody imports it
    assert site.read().versions == {"jinja2": "3.1.5 and 3.1.6"}
    assert site.read().builds["jinja2"].startswith(alone.builds["jinja2"] + " and sha256:")


def test_other_version_than_the_profiles_is_named_with_the_remedy(site: Site) -> None:
    site.install("vllm", "0.26.0+empty")
    assert words_of(site, {"vllm": ["0.23.0", "0.23.1"], "cann": ["9.1.0"]}, {"cann": "8.5.0"}) == (
        "packages: cann is 8.5.0, the profile is for 9.1.0; use an image of that release, or the profile of this one; "
        "packages: vllm is 0.26.0+empty, the profile is for 0.23.0 or 0.23.1; use an image of that release, or the "
        "profile of this one"
    )
    assert "packages: torch is not installed, the profile is for 2.10.0" in words_of(site, {"torch": ["2.10.0"]})


def test_build_of_the_profiles_version_is_taken_and_a_build_that_it_names_is_the_only_one(site: Site) -> None:
    site.install("triton-ascend", "3.6.0+dev20260923230212")
    check_packages({"triton-ascend": ["3.6.0"]}, site.read(), {})
    check_packages({"triton-ascend": ["3.6.0+dev20260923230212"]}, site.read(), {})
    check_packages({"triton-ascend": ["3.2.2", "3.6.0+*"]}, site.read(), {})
    assert "the profile is for 3.6.0+dev1;" in words_of(site, {"triton-ascend": ["3.6.0+dev1"]})
    assert "the profile is for 3.2.*;" in words_of(site, {"triton-ascend": ["3.2.*"]})


@pytest.mark.parametrize("record", ["", "\n"])
def test_package_of_the_promise_without_a_record_is_refused_and_another_is_not(site: Site, record: str) -> None:
    site.install("vllm", "0.23.0", record=record)
    check_packages({}, site.read(), {})
    assert words_of(site, WANTED) == (
        "packages: vllm 0.23.0 has no RECORD of its files, so which build it is cannot be told; install it with pip"
    )
    (site.folder / "first/vllm-0.23.0.dist-info/RECORD").unlink()
    assert "has no RECORD" in words_of(site, WANTED)


def test_package_of_the_promise_without_its_module_is_refused_and_another_is_not(site: Site) -> None:
    site.install("vllm", "0.23.0", brought="elsewhere")
    check_packages({}, site.read(), {})
    assert words_of(site, WANTED) == (
        "packages: vllm 0.23.0 has metadata and no module vllm; use an image in which it is whole"
    )


def test_file_of_a_package_is_found_where_its_module_is(site: Site) -> None:
    site.install("vllm-ascend", "0.28.0rc1", "second")
    site.write("second/vllm_ascend/vllm_ascend_C.cpython-312-x86_64-linux-gnu.so", "operators")
    path = {"operators": "${package:vllm_ascend}/vllm_ascend_C*.so"}
    before = files.digests(path, {})
    assert before == {"operators": "sha256:" + hashlib.sha256(b"operators").hexdigest()}
    site.write("second/vllm_ascend/vllm_ascend_C.abi3.so", "other operators")
    with pytest.raises(RefusedError, match=r"files: operators: 2 files at /.*/second/vllm_ascend/vllm_ascend_C\*\.so"):
        files.digests(path, {})


def test_file_of_a_package_that_is_not_there_is_refused(site: Site) -> None:
    site.write("first/other/__init__.py")
    with pytest.raises(RefusedError, match=r"there is no module vllm_ascend; use an image of the profile's release"):
        files.digests({"operators": "${package:vllm_ascend}/a.so"}, {})


@pytest.mark.parametrize("package", [VLLM_ASCEND, VLLM_ASCEND_30], ids=lambda package: package.version)
def test_packages_of_the_stand_in_image_are_those_of_the_profile(site: Site, package: Package) -> None:
    write_engine(site.folder / "first", package)
    for name, text in installed(package).items():
        site.write(f"first/{name}", text)
    (profile,) = (item for item in PROFILES.values() if package.version in item.packages.get(package.name, ()))
    (toolkit,) = profile.packages["cann"]
    check_packages(profile.packages, site.read(), {"cann": toolkit.rstrip("*")})
