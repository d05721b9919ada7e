"""What the plan was put over is told where batch invariance is said to be in effect."""

from __future__ import annotations

from detinf.controller.identity import OVERRIDDEN_SHOWN, attested_finding
from detinf.controller.observed import Replica
from detinf.documents import Phase, PodIdentity, Report


def replica(index: int, overridden: dict[str, dict[str, str]] | None) -> Replica:
    pod = PodIdentity(namespace="ns", name=f"m-{index}-0", uid=str(index))
    report = Report(
        pod=pod, phase=Phase.PASSED, ready=True, reasons=[], cells=[], fingerprint="sha256:0", overridden=overridden
    )
    return Replica(index, None, None, report)


def words(*overridden: dict[str, dict[str, str]] | None) -> str:
    finding = attested_finding([replica(index, item) for index, item in enumerate(overridden)], [])
    assert finding.status == "True"
    return finding.message


def test_variables_that_gave_way_are_told_with_who_had_set_them() -> None:
    image = {"container": {"LCCL_DETERMINISTIC": "0"}, "scripts": {"ATB_MATMUL_SHUFFLE_K_ENABLE": "1"}}
    said = words(image, image)
    assert said.endswith(
        "; the plan is in effect over ATB_MATMUL_SHUFFLE_K_ENABLE=1 of the scripts (replica 0, 1), "
        "LCCL_DETERMINISTIC=0 of the container (replica 0, 1)"
    )


def test_replica_whose_image_or_webhook_differs_is_named() -> None:
    assert "HCCL_ALGO=ring of the container (replica 1)" in words(None, {"container": {"HCCL_ALGO": "ring"}})


def test_nothing_is_told_where_nothing_gave_way() -> None:
    assert words(None, {}).endswith("all that the plan asks of its processes")


def test_many_variables_are_counted() -> None:
    said = words({"container": {f"A{number:02}": "1" for number in range(OVERRIDDEN_SHOWN + 3)}})
    assert said.endswith("A07=1 of the container (replica 0) and 3 more")
