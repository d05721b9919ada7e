"""Images in the shape of the released ones on the real kubelet: what they set gives way, and what is wrong is told.

``tests/stand_ins/cann_families.yaml`` says what each family has. The shipped profile of 0.23 is for CANN 9.1; for the
others a site profile of the test asks for theirs, and is else the shipped one.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from ascend_image import FAMILIES, build_stand_in, image_name
from detinf_cluster.lifecycle import Cluster
from kubectl import KubectlError
from place import NAMESPACE
from scenario import NAME, Scene

from detinf.guard import layout
from published import VLLM_ASCEND

pytestmark = pytest.mark.e2e

OVERRIDDEN = {"ATB_MATMUL_SHUFFLE_K_ENABLE": "1", "LCCL_DETERMINISTIC": "0"}


def manifest(scene: Scene, family: str, **engine: Any) -> dict[str, Any]:
    found = copy.deepcopy(scene.engine.manifest)
    found["spec"] |= {"replicas": 1, "parallelism": {"tensor": 2}}
    profile = "vllm-ascend-0.23" if family == "9.1" else f"vllm-ascend-0.23-cann-{family}"
    found["spec"]["engine"] |= {"profile": profile, "image": image_name(VLLM_ASCEND, family), **engine}
    return found


def report(scene: Scene) -> dict[str, Any]:
    try:
        return dict(
            json.loads(scene.kubectl.get(f"/api/v1/namespaces/{NAMESPACE}/pods/{NAME}-0-0:9400/proxy/v1/report"))
        )
    except (KubectlError, ValueError):
        return {}


@pytest.fixture(scope="module")
def images(node: Cluster) -> None:
    for family in FAMILIES:
        node.load_image(build_stand_in(VLLM_ASCEND, family))


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("family", FAMILIES)
def test_engine_of_every_family_is_ready_and_what_its_image_set_is_told(without_resource: Scene, family: str) -> None:
    scene = without_resource
    scene.kubectl.apply(manifest(scene, family))

    def attested() -> str | None:
        condition = scene.kubectl.condition("detinf", NAME, "BatchInvarianceEffective")
        return str(condition.get("message")) if condition.get("status") == "True" else None

    said = scene.story.wait(f"an attested engine on CANN {family}", attested, seconds=180)
    assert all(f"{name}={value} of the container" in said for name, value in OVERRIDDEN.items())
    assert report(scene)["overridden"]["container"] == OVERRIDDEN
    asked = ("-n", NAMESPACE, "exec", f"{NAME}-0-0", "-c", "engine", "--", "python3", "-c")
    who = "import os, pwd; print(pwd.getpwuid(os.getuid()).pw_name, pwd.getpwnam('nobody').pw_uid, os.getcwd())"
    assert scene.kubectl.run(*asked, who).split() == ["detinf", "65534", layout.WORK_DIR]
    scene.kubectl.run(*asked, "import os; os.makedirs('kernel_meta')")


@pytest.mark.usefixtures("images")
def test_image_of_another_family_than_the_profiles_is_refused_by_its_cann(without_resource: Scene) -> None:
    scene = without_resource
    scene.kubectl.apply(manifest(scene, "9.1", image=image_name(VLLM_ASCEND, "9.0")))

    def said() -> str | None:
        condition = scene.kubectl.condition("detinf", NAME, "BatchInvarianceEffective")
        message = str(condition.get("message"))
        return message if "cann is 9.0.1, the profile is for 9.1.0" in message else None

    scene.story.wait("the guard to name CANN's version", said, seconds=120)
