"""Proposals: the same limits always give the same references, and they fit."""

from __future__ import annotations

import pytest

from detinf.probe.references import TOKENS, propose


def test_same_limits_give_the_same_proposal() -> None:
    first, second = propose(1000, [0, 1], 4096, 16), propose(1000, [1, 0], 4096, 16)
    assert first.canonical() == second.canonical()
    assert len(first.items) == 16


def test_prompts_hold_no_special_id_and_fit_the_context() -> None:
    references = propose(40, [0, 1, 2], 64, 20)
    assert len(references.items) == 20
    for item in references.items:
        assert not {0, 1, 2} & set(item.prompt_ids)
        assert max(item.prompt_ids) < 40
        assert len(item.prompt_ids) + item.max_tokens < 64
        assert item.max_tokens == TOKENS
    assert {item.temperature_milli for item in references.items} == {0, 1000}


@pytest.mark.parametrize(("vocabulary", "special", "context"), [(2, [0, 1], 4096), (1000, [], 33)])
def test_limits_that_leave_nothing_to_ask_are_refused(vocabulary: int, special: list[int], context: int) -> None:
    with pytest.raises(ValueError, match="maxModelLen"):
        propose(vocabulary, special, context, 16)
