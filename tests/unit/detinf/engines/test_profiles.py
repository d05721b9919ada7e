"""Profiles are data: each argument and variable has a reason, and the plan follows from them and the resource."""

import json
import re
import string
from typing import Any

import pytest

from detinf.api.types import Spec
from detinf.documents import Plan, PlanTopology
from detinf.engines import catalogue
from detinf.engines.plan import arguments, build_plan, gate_widths, model_path, mount_path, revision_of, values
from detinf.engines.profile import Profile
from detinf.guard.layout import SERVING_FLAGS

PROFILES = sorted(catalogue.PROFILES.values(), key=lambda profile: profile.name)
CLAIM = {"persistentVolumeClaim": {"claimName": "models", "path": "Qwen3-8B"}}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"repository": "Qwen/Qwen3-8B", "revision": COMMIT, "cacheClaimName": "cache"}
each_profile = pytest.mark.parametrize("profile", PROFILES, ids=[profile.name for profile in PROFILES])


def make_spec(**parts: Any) -> Spec:
    model = {"source": CLAIM} | parts.pop("model", {})
    return Spec.model_validate({"model": model} | parts)


def plan_of(spec: Spec, profile: Profile, image: str = "image:1") -> Plan:
    return build_plan(spec, profile, image, PlanTopology(devices=spec.parallelism.tensor))


@each_profile
def test_every_item_of_a_profile_has_a_reason(profile: Profile) -> None:
    items = [*profile.arguments, *profile.variables, *profile.unset, *profile.pod_variables]
    assert [item for item in items if len(item.reason.split()) < 2] == []


@each_profile
def test_no_item_of_a_profile_stands_twice_or_contradicts_another(profile: Profile) -> None:
    flags = [argument.flag for argument in profile.arguments]
    names = [item.name for item in (*profile.variables, *profile.unset, *profile.pod_variables)]
    assert len(flags) == len(set(flags))
    assert len(names) == len(set(names))


@each_profile
def test_no_argument_of_the_plan_is_one_that_the_pod_adds(profile: Profile) -> None:
    assert {argument.flag for argument in profile.arguments}.isdisjoint(SERVING_FLAGS)


@each_profile
def test_every_placeholder_of_an_argument_is_known(profile: Profile) -> None:
    used = {
        field
        for argument in profile.arguments
        for _, field, _, _ in string.Formatter().parse(argument.value or "")
        if field
    }
    assert used <= values(make_spec()).keys()


def test_the_arguments_follow_from_the_resource() -> None:
    spec = make_spec(
        model={"dtype": "float16", "maxModelLen": 4096}, engine={"maxNumSeqs": 12}, parallelism={"tensor": 4}
    )
    words = arguments(spec, catalogue.PROFILES["simulated"])
    assert words == [
        *("--dtype", "float16", "--max-model-len", "4096", "--max-num-seqs", "12", "--tensor-parallel-size", "4"),
        *("--seed", "0", "--generation-config", "vllm", "--max-logprobs", "20", "--logprobs-mode", "raw_logprobs"),
        *("--no-enable-prefix-caching", "--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"),
        *("--no-async-scheduling", "--block-size", "128"),
    ]


@pytest.mark.parametrize(
    ("max_model_len", "max_num_seqs", "expected"), [(8192, 32, "8192"), (512, 32, "2048"), (64, 1024, "2048")]
)
def test_the_batched_tokens_hold_an_uncut_prompt_and_every_sequence(
    max_model_len: int, max_num_seqs: int, expected: str
) -> None:
    spec = make_spec(model={"maxModelLen": max_model_len}, engine={"maxNumSeqs": max_num_seqs})
    assert values(spec)["max_num_batched_tokens"] == expected


@pytest.mark.parametrize(
    ("source", "mount", "path"),
    [
        ({"persistentVolumeClaim": {"claimName": "models"}}, "/models/models", "/models/models"),
        (CLAIM, "/models/models", "/models/models/Qwen3-8B"),
        ({"hostPath": {"path": "/data/m/tiny/"}}, "/models/data/m/tiny", "/models/data/m/tiny"),
        (
            {"huggingFace": HUB},
            "/models/huggingface",
            f"/models/huggingface/hub/models--Qwen--Qwen3-8B/snapshots/{COMMIT}",
        ),
        (
            {"modelScope": HUB},
            "/models/modelscope",
            f"/models/modelscope/models/Qwen--Qwen3-8B/snapshots/{COMMIT}",
        ),
    ],
)
def test_the_source_is_in_the_models_path_so_that_another_source_is_another_revision(
    source: dict[str, Any], mount: str, path: str
) -> None:
    spec = make_spec(model={"source": source})
    assert mount_path(spec.model.source) == mount
    assert model_path(spec.model.source) == path


@each_profile
def test_what_can_change_outputs_changes_the_revision(profile: Profile) -> None:
    base = revision_of(plan_of(make_spec(), profile))
    others = [
        make_spec(model={"dtype": "float32"}),
        make_spec(model={"maxModelLen": 4096}),
        make_spec(model={"source": {"persistentVolumeClaim": {"claimName": "other", "path": "Qwen3-8B"}}}),
        make_spec(engine={"maxNumSeqs": 16}),
        make_spec(parallelism={"tensor": 2}),
    ]
    revisions = [revision_of(plan_of(spec, profile)) for spec in others]
    revisions.append(revision_of(plan_of(make_spec(), profile, "image:2")))
    assert len({base, *revisions}) == len(others) + 2
    assert re.fullmatch(r"[0-9a-f]{10}", base)


@each_profile
@pytest.mark.parametrize("hub", ["huggingFace", "modelScope"])
def test_a_hubs_repository_and_commit_are_of_the_plan_and_neither_its_claim_nor_its_token(
    profile: Profile, hub: str
) -> None:
    def plan(**change: Any) -> Plan:
        return plan_of(make_spec(model={"source": {hub: HUB | change}}), profile)

    base = plan()
    download = base.model.download
    assert download is not None
    assert (download.hub, download.repository, download.revision) == (hub, "Qwen/Qwen3-8B", COMMIT)
    assert base.environment.set_variables["HF_HUB_OFFLINE"] == "1"
    secret = {"name": "hub", "key": "token"}
    assert plan(cacheClaimName="other", tokenSecretRef=secret).canonical() == base.canonical()
    others = [base, plan(repository="Qwen/Qwen3-4B"), plan(revision="f" * 40), plan_of(make_spec(), profile)]
    assert len({revision_of(other) for other in others}) == 4


def test_a_source_that_is_there_has_no_download_in_its_plan() -> None:
    # A release that knows more sources gives the same bytes: nobody's engine restarts for it.
    document = json.loads(plan_of(make_spec(), catalogue.PROFILES["simulated"]).canonical())
    assert "download" not in document["model"]
    assert "HF_HUB_OFFLINE" not in document["environment"]["set"]


@each_profile
def test_what_cannot_change_outputs_keeps_the_revision(profile: Profile) -> None:
    base = revision_of(plan_of(make_spec(), profile))
    others = [
        make_spec(model={"name": "another-name"}),
        make_spec(replicas=5),
        make_spec(promise="Tokens"),
        make_spec(engine={"startupTimeoutSeconds": 60, "resources": {"requests": {"cpu": "2"}}}),
        make_spec(scheduling={"nodeSelector": {"zone": "a"}, "priorityClassName": "high"}),
        make_spec(quarantine={"policy": "Report"}),
    ]
    assert {revision_of(plan_of(spec, profile)) for spec in others} == {base}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        *((1, []), (2, [2]), (6, [2, 6]), (8, [2, 8]), (12, [2, 8, 12]), (16, [2, 8, 16])),
        *((32, [2, 8, 16, 32]), (256, [2, 8, 16, 256]), (1024, [2, 8, 16, 256])),
    ],
)
def test_the_gate_proves_the_full_width_of_the_engine_and_none_that_it_cannot_reach(
    limit: int, expected: list[int]
) -> None:
    spec = make_spec(engine={"maxNumSeqs": limit})
    assert gate_widths(spec, catalogue.PROFILES["simulated"]) == expected


def test_the_image_of_the_resource_goes_before_the_charts_and_the_profiles() -> None:
    images = {"simulated": "chart:1"}
    named = make_spec(engine={"profile": "simulated", "image": "mine:1"})
    assert catalogue.choose(named, default_profile=None, images=images).image == "mine:1"
    unnamed = make_spec()
    assert catalogue.choose(unnamed, default_profile="simulated", images=images).image == "chart:1"
    choice = catalogue.choose(unnamed, default_profile="simulated", images={})
    assert choice.image == choice.profile.image


@pytest.mark.parametrize(("profile", "words"), [("vllm-ascend-9.9", "engine profile"), ("vllm-cpu-0.32", "no image")])
def test_a_resource_that_nobody_validated_gets_no_engine(profile: str, words: str) -> None:
    with pytest.raises(LookupError, match=words):
        catalogue.choose(make_spec(engine={"profile": profile}), default_profile=None, images={})
