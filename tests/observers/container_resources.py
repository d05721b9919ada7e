"""What the API server says of a container's resources, rewritten; tests/cluster holds it against the real one."""

from __future__ import annotations

from hypothesis import strategies as st

from detinf.controller.builders.quantity import parse

NAMES = st.sampled_from(
    [
        "cpu",
        "memory",
        "ephemeral-storage",
        "hugepages-2Mi",
        "hugepages-1Gi",
        "example.org/gpu",
        "kubernetes.io/x",
        "gpu",
    ]
)
VALUES = st.sampled_from([0, 1, 2, "1", "2", "500m", "1500m", "2000m", "1.5", "2Mi", "4Mi", "3Mi", "1Gi", "64Gi", "1k"])
AMOUNTS = st.dictionaries(NAMES, VALUES, max_size=4)


def refused_by_kubernetes(resources: dict[str, dict[str, str]]) -> list[str]:  # noqa: C901 - rule after rule
    """Return what ``ValidateContainerResourceRequirements`` of Kubernetes 1.36 says, rewritten rule by rule."""
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    found = []

    def page(name: str) -> str | None:
        return name.removeprefix("hugepages-") if name.startswith("hugepages-") else None

    def native(name: str) -> bool:
        return "/" not in name or "kubernetes.io/" in name

    for amounts in (requests, limits):
        for name, value in amounts.items():
            if "/" not in name and name not in {"cpu", "memory", "ephemeral-storage"} and page(name) is None:
                found.append(f"{name}: must be a standard resource for containers")
            if not native(name) and (name.startswith("requests.") or parse(value).denominator != 1):
                found.append(f"{name}: must be an integer")
            if (size := page(name)) is not None:
                pages = parse(value) / parse(size)
                if pages == 0 or pages.denominator != 1:
                    found.append(f"{name}: must be positive integer multiple of page size")
    for name, value in requests.items():
        shared = native(name) and page(name) is None
        if name not in limits:
            if not shared:
                found.append(f"{name}: Limit must be set for non overcommitable resources")
        elif not shared and parse(value) != parse(limits[name]):
            found.append(f"{name}: must be equal to limit")
        elif parse(value) > parse(limits[name]):
            found.append(f"{name}: must be less than or equal to limit")
    both = {**requests, **limits}
    if any(page(name) for name in both) and not both.keys() & {"cpu", "memory"}:
        found.append("HugePages require cpu or memory")
    return found
