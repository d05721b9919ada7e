"""What differs between two engines is named part by part, with both values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detinf.documents.identity import LONGEST, differing, told
from detinf.guard.canonical import digest

TIER_N = {
    "schema": 2,
    "plan": {"image": "i"},
    "hardware": {"chip": "910B3"},
    "packages": {"vllm": "0.23.0"},
    "environment": {"LANG": "C.UTF-8", "LD_LIBRARY_PATH": "/x" * LONGEST},
    "python": "3.11",
}


def test_identity_is_told_by_part_and_key_without_what_is_compared_elsewhere() -> None:
    seen = told(TIER_N)
    assert seen.pop("environment.LD_LIBRARY_PATH").startswith("sha256:")
    assert seen == {"schema": "2", "packages.vllm": "0.23.0", "environment.LANG": "C.UTF-8", "python": "3.11"}


def test_each_difference_is_named_with_both_values() -> None:
    other = told(TIER_N | {"environment": {"LCCL_PARALLEL": "1"}, "python": "3.12"})
    assert differing(told(TIER_N), other)[:2] == [
        "environment.LANG: 'C.UTF-8' -> none",
        "environment.LCCL_PARALLEL: none -> '1'",
    ]
    assert differing(told(TIER_N), other)[-1] == "python: '3.11' -> '3.12'"


def test_identities_of_two_schemas_are_not_compared() -> None:
    assert differing(told(TIER_N), told(TIER_N | {"schema": 3, "python": "3.12"})) == []


PARTS = st.dictionaries(
    st.sampled_from(["environment", "files", "packages"]),
    st.dictionaries(st.text(max_size=3), st.text(max_size=2 * LONGEST) | st.sampled_from(["a", "b"]), max_size=3),
)


@given(PARTS, PARTS)
def test_two_identities_are_told_alike_only_where_they_are(
    first: dict[str, dict[str, str]], second: dict[str, dict[str, str]]
) -> None:
    full = [{name: items for name, items in one.items() if items} for one in (first, second)]
    assert (told(first) == told(second)) == (full[0] == full[1])


def test_file_of_a_model_that_differs_is_named() -> None:
    def of(**files: str) -> dict[str, str]:
        listed = {name.replace("_", "."): value for name, value in files.items()}
        return told({"schema": 2, "modelFiles": digest(listed)}, listed)

    first = of(tokenizer_json="sha256:" + "a" * 64, model_safetensors="bytes:7")
    assert first == {
        "schema": "2",
        "modelFiles.tokenizer.json": "sha256:" + "a" * 16,
        "modelFiles.model.safetensors": "bytes:7",
    }
    other = of(tokenizer_json="sha256:" + "b" * 64, model_safetensors="bytes:7")
    (words,) = differing(first, other)
    assert words.startswith("modelFiles.tokenizer.json: 'sha256:aaaa")


def test_files_of_a_model_that_the_identity_does_not_vouch_for_or_too_many_are_told_by_its_digest() -> None:
    tier_n = {"schema": 2, "modelFiles": digest({"a": "bytes:1"})}
    assert told(tier_n, {"a": "bytes:2"}) == {"schema": "2", "modelFiles": tier_n["modelFiles"]}
    many = {str(number): "bytes:1" for number in range(65)}
    assert told({"modelFiles": digest(many)}, many) == {"modelFiles": digest(many)}
