"""Quantities in the API server's spelling; tests/cluster/test_children.py holds the same against a real one."""

import pytest

from detinf.controller.builders.quantity import canonical_quantity


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2, "2"),
        (1000, "1k"),
        ("0.50", "500m"),
        ("1000m", "1"),
        ("1500m", "1500m"),
        ("0Mi", "0"),
        ("1024Mi", "1Gi"),
        ("1000Mi", "1000Mi"),
        ("1.5Gi", "1536Mi"),
        ("1.5Ki", "1536"),
        ("0.5Ki", "512"),
        ("0.1Gi", "107374182400m"),
        ("0.0001", "1m"),
    ],
)
def test_a_quantity_is_spelled_as_it_is_stored(value: int | str, expected: str) -> None:
    assert canonical_quantity(value) == expected
    assert canonical_quantity(expected) == expected


@pytest.mark.parametrize("value", ["", "lots", "-1", "1e3", "1 Gi", "Gi", "1gi"])
def test_something_else_is_refused_with_the_forms_that_are_taken(value: str) -> None:
    with pytest.raises(ValueError, match="write it as 2, 500m or 16Gi"):
        canonical_quantity(value)
