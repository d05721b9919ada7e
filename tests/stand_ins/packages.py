"""The packages of the vendor's image, as pip leaves them: metadata beside a module, for the versions of a profile."""

from __future__ import annotations

from detinf.engines.catalogue import PROFILES
from detinf.guard.packages import MODULES
from published import Package


def installed(package: Package) -> dict[str, str]:
    """Return the files of one folder of packages, by name: those that the profile of a release names."""
    profile = next(item for item in PROFILES.values() if package.version in item.packages.get(package.name, ()))
    files = {}
    for name, versions in profile.packages.items():
        if name not in MODULES:  # the toolkit is no package
            continue
        version = package.version if name == package.name else versions[0].rstrip("*")
        metadata = f"{name.replace('-', '_')}-{version}.dist-info"
        files[f"{metadata}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        files[f"{metadata}/RECORD"] = f"{MODULES[name]}/__init__.py,,\n{metadata}/METADATA,,\n{metadata}/RECORD,,\n"
    return {**files, "triton/__init__.py": ""}
