"""What nobody validated is observed first, unless its owner says otherwise; what is no NPU is enforced."""

from typing import Any

import pytest

from detinf.api.types import Spec
from detinf.engines.catalogue import PROFILES
from detinf.engines.validated import model_name, observed_because

CHIP = {"chip": "910B3"}


def spec_of(path: str = "Qwen3-8B", **parts: Any) -> Spec:
    source = parts.pop("source", {"persistentVolumeClaim": {"claimName": "models", "path": path}})
    return Spec.model_validate({"model": {"source": source}} | parts)


@pytest.mark.parametrize("path", ["Qwen3-8B", "a/b/Qwen3-30B-A3B"])
def test_a_model_and_chip_that_somebody_validated_is_enforced(path: str) -> None:
    assert observed_because(spec_of(path, topology=CHIP), PROFILES["vllm-ascend-0.23"]) is None


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"path": "Qwen3-14B", "topology": CHIP}, "nobody validated Qwen3-14B on 910B3 with vllm-ascend-0.23"),
        ({"topology": {"chip": "910C"}}, "nobody validated Qwen3-8B on 910C"),
        ({}, "nobody validated Qwen3-8B on a chip that spec.topology.chip does not name"),
        ({"path": "", "topology": CHIP}, "nobody validated this model on 910B3"),
        ({"topology": CHIP, "probe": {"mode": "Observe"}}, "spec.probe.mode is Observe"),
    ],
)
def test_what_nobody_validated_is_observed_and_says_why(parts: dict[str, Any], words: str) -> None:
    assert words in str(observed_because(spec_of(**parts), PROFILES["vllm-ascend-0.23"]))


def test_the_owners_word_counts() -> None:
    assert observed_because(spec_of("x", probe={"mode": "Enforce"}), PROFILES["vllm-ascend-0.23"]) is None
    assert observed_because(spec_of(probe={"mode": "Observe"}), PROFILES["simulated"]) is not None


@pytest.mark.parametrize("name", ["simulated", "vllm-cpu-0.32"])
def test_an_engine_without_npus_counts_as_validated(name: str) -> None:
    assert observed_because(spec_of("anything"), PROFILES[name]) is None


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ({"hostPath": {"path": "/data/models/Qwen3-8B/"}}, "Qwen3-8B"),
        ({"persistentVolumeClaim": {"claimName": "models"}}, ""),
        (
            {"huggingFace": {"repository": "Qwen/Qwen3-8B", "revision": "0" * 40, "cacheClaimName": "cache"}},
            "Qwen3-8B",
        ),
    ],
)
def test_a_model_is_called_as_its_folder_or_repository(source: dict[str, Any], name: str) -> None:
    assert model_name(spec_of(source=source).model.source) == name
