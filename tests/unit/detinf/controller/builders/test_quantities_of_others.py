"""Quantities as others write them: every spelling that Kubernetes takes (apimachinery's quantity.go)."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.controller.builders.quantity import canonical_quantity, parse


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (8, 8),
        ("0", 0),
        ("1500m", Fraction(3, 2)),
        ("100n", Fraction(1, 10**7)),
        ("5u", Fraction(5, 10**6)),
        ("2k", 2000),
        ("1.5Gi", 1536 * 1024**2),
        ("64Ki", 65536),
        ("1e3", 1000),
        ("12E6", 12_000_000),
        ("1e-3", Fraction(1, 1000)),
        ("1E", 10**18),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("+1", 1),
        ("-1Ki", -1024),
        ("9Ei", 2**63 - 1),
    ],
)
def test_a_quantity_is_its_amount(value: int | str, amount: int | Fraction) -> None:
    assert parse(value) == min(amount, 2**63 - 1)


@pytest.mark.parametrize("value", ["", ".", "lots", "1 Gi", "Gi", "1gi", "1K", "1mi", "1e", "1e1.5", "1e9999", "--1"])
def test_what_is_no_quantity_is_an_error_with_the_value(value: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse(value)


@given(st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,3})?(m|k|M|G|Ki|Mi|Gi)?", fullmatch=True))
def test_the_spelling_that_is_stored_is_the_same_amount_rounded_up(value: str) -> None:
    assert 0 <= parse(canonical_quantity(value)) - parse(value) < Fraction(1, 1000)
