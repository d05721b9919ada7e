"""Who is asked together: in time each reference in each way, and where one is to be among them it is."""

from __future__ import annotations

import pytest

from detinf.documents import Reference
from detinf.probe.disturbances import DECODING, JOINING, LAUNCHES, Disturbance, disturbances, in_turn
from detinf.probe.references import propose

WIDTHS = (2, 8, 16)


def references(count: int) -> list[Reference]:
    return propose(1000, [], 4096, count).items


def listed(items: list[Reference], turn: int, about: Reference | None = None) -> list[Disturbance]:
    return disturbances(items, {}, WIDTHS, turn, traced=True, about=about)


def test_cells_are_what_can_be_proven() -> None:
    found = [(cell.relation, cell.condition) for cell in listed(references(24), 0)]
    together = [("S03", f"width={width}") for width in WIDTHS]
    launches = [("S04", f"tokens={sum(lengths)}") for lengths in LAUNCHES]
    assert found == [*together, *launches, *(("S05", f"prefill={length}") for length in JOINING)]
    untraced = disturbances(references(24), {}, WIDTHS, 0, traced=False)
    assert [(cell.relation, cell.condition) for cell in untraced] == together


@pytest.mark.parametrize("count", range(16, 30))
def test_each_reference_comes_to_each_width_in_time(count: int) -> None:
    """With 21 that are short and 3 widths, some never came to the narrowest."""
    items = [
        item.model_copy(update={"name": f"r{index}", "prompt_ids": [1] * (1 + index)})
        for index, item in enumerate(references(count))
    ]
    met: dict[str, set[str]] = {}

    def widths(turn: int) -> list[Disturbance]:
        return [cell for cell in listed(items, turn) if cell.relation == "S03"]

    for turn in range(count * len(WIDTHS)):
        cell = in_turn(widths, turn)
        assert cell is not None
        met.setdefault(cell.condition, set()).update(item.name for item in cell.references)
    assert met == {f"width={width}": {item.name for item in items} for width in WIDTHS}


def test_no_cell_has_no_turn() -> None:
    assert in_turn(lambda _turn: [], 7) is None


@pytest.mark.parametrize("turn", [0, 1, 7])
def test_reference_that_is_to_be_among_them_is_where_its_length_allows(turn: int) -> None:
    items = references(24)
    for about in items:
        for plain, cell in zip(listed(items, turn), listed(items, turn, about), strict=True):
            assert (cell.relation, cell.condition) == (plain.relation, plain.condition)
            assert len(cell.references) == len(plain.references)
            length = len(about.prompt_ids)
            in_launch = cell.relation != "S04" or any(
                length in lengths and f"tokens={sum(lengths)}" == cell.condition for lengths in LAUNCHES
            )
            assert (about in cell.references) == (length <= 129 and in_launch), (about.name, cell.condition)


def test_of_a_prefill_among_decodes_the_last_one_joins() -> None:
    cell = listed(references(24), 0)[-1]
    assert (cell.condition, len(cell.references)) == ("prefill=129", DECODING + 1)
    assert len(cell.references[-1].prompt_ids) == 129


def test_reference_that_is_alone_keeps_itself_company() -> None:
    (only,) = references(16)[:1]
    (cell,) = disturbances([only], {}, [2], 3, traced=False, about=only)
    assert cell.references == (only, only)
