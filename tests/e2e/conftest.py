"""A real node with the operator on it, once for a test run; what the demo installs, under a name of its own."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools" / "cluster"), str(ROOT / "tools" / "demo"), str(Path(__file__).parent)]
sys.path.insert(0, str(ROOT / "tests" / "stand_ins"))

from bad_scene import BadScene  # noqa: E402 - found through the line above
from cann_families import read_families  # noqa: E402 - as above
from detinf_cluster.lifecycle import Cluster  # noqa: E402 - found through the line above
from place import NAMESPACE, OPERATOR_NAMESPACE, Place, engine_named  # noqa: E402 - as above
from scenario import Scene  # noqa: E402 - as above
from story import Story  # noqa: E402 - as above

from detinf.engines.catalogue import SHIPPED  # noqa: E402 - as above

SITE_PROFILES = [
    {"name": name, "inherits": name, "defaultRequests": {"cpu": "10m", "memory": "32Mi"}}
    for name in ("vllm-ascend-0.23", "vllm-ascend-0.26rc", "vllm-cpu-0.32")
]
"""Ours, with requests that the machine of a test has; no plan differs by them."""
FAMILY_PROFILES = [
    SITE_PROFILES[0]
    | {"name": f"vllm-ascend-0.23-cann-{family.name}", "inherits": "vllm-ascend-0.23"}
    | {"packages": SHIPPED["vllm-ascend-0.23"]["packages"] | {"cann": [family.cann]}}
    for family in read_families().values()
    if family.name != "9.1"
]
"""The profile of 0.23 for the other families of released images (``test_families.py``)."""
IMAGES = {"simulated": "localhost/detinf/simulated-engine:dev", "vllm-cpu-0.32": "localhost/detinf/vllm-cpu:dev"}


@pytest.fixture(scope="session")
def node() -> Iterator[Cluster]:
    """A node-size cluster; every checkout has its own, so that two can be tested at once."""
    # Two runs of one checkout, side by side, have a cluster each.
    run = os.environ.get("DETINF_NODE_TESTS", "e2e")
    cluster = Cluster(f"{run}-{hashlib.sha256(bytes(ROOT)).hexdigest()[:6]}")
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def scene(node: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The operator installed with helm, the images in the node, and a model in its folder."""
    story = Story(total=0, output=tmp_path_factory.mktemp("e2e") / "story.json")
    engine = engine_named("simulated")
    place = Place(story, engine, name=node.name)
    place.ready()
    place.install({"profiles": [*SITE_PROFILES, *FAMILY_PROFILES], "images": IMAGES})
    result = Scene(story, place.kubectl(NAMESPACE), engine, place.kubectl(OPERATOR_NAMESPACE))
    result.model()
    return result


@pytest.fixture(scope="module")
def serving(scene: Scene) -> Scene:
    """Two replicas of the simulated engine, Ready."""
    scene.create()
    return scene


@pytest.fixture(scope="module")
def bad_scenes(scene: Scene) -> Iterator[Callable[[str], BadScene]]:
    """What makes small resources in namespaces of their own; all NPUs are free before and after."""
    scene.kubectl("delete", "detinf", "--all", "--wait=true")
    scene.story.wait("all pods to end", lambda: None if engine_pods(scene) else "gone", seconds=120)
    made: list[BadScene] = []

    def make(namespace: str) -> BadScene:
        made.append(BadScene(scene, namespace))
        return made[-1]

    yield make
    for item in made:
        item.end()


@pytest.fixture
def bad_scene(bad_scenes: Callable[[str], BadScene], request: pytest.FixtureRequest) -> Iterator[BadScene]:
    """A namespace of the test's own."""
    made = bad_scenes(f"bad-{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}")
    yield made
    made.end()


@pytest.fixture(scope="module")
def trio(bad_scenes: Callable[[str], BadScene], request: pytest.FixtureRequest) -> BadScene:
    """Three replicas, Ready; who takes them leaves them so."""
    made = bad_scenes(request.module.__name__.rpartition(".")[2].replace("_", "-"))
    made.start(3)
    return made


def engine_pods(scene: Scene) -> list[dict[str, Any]]:
    """Return the engine pods of all resources."""
    return scene.kubectl.objects("pods", "detinf.io/name")


@pytest.fixture
def without_resource(scene: Scene) -> Iterator[Scene]:
    """No resource before and after, so that all NPUs are free."""

    def clear() -> None:
        scene.kubectl("delete", "detinf", "--all", "--wait=true")
        scene.story.wait("all pods to end", lambda: None if engine_pods(scene) else "gone", seconds=120)

    clear()
    yield scene
    clear()
