"""Proposals: the same limits always give the same references, and they fit."""

from __future__ import annotations

import pytest

from detinf.documents import Answer, Baseline, Candidate, Reference, References
from detinf.probe.engine import Outcome
from detinf.probe.observation import Observation, Top, float32_bits
from detinf.probe.reasons import InconclusiveError, Reason
from detinf.probe.references import LENGTHS, SCANS, TOKENS, comparable, propose, propose_from


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


HALF, QUARTER, LOW = float32_bits(-0.5), float32_bits(-0.25), float32_bits(-7.0)


class Writer:
    """An engine that is sure of itself, but for one tie, one close call and one position without any idea."""

    def __init__(self, special: int = -1) -> None:
        self.asked: list[Reference] = []
        self.special = special

    async def ask(self, reference: Reference) -> Outcome:
        self.asked.append(reference)
        ids = tuple(100 + 10 * len(self.asked) + index for index in range(reference.max_tokens))
        sure: Top = ((1, QUARTER), (2, LOW))
        tops = [sure] * len(ids)
        if len(self.asked) == 2 and len(ids) > 7:
            tops[3] = ((1, HALF), (2, HALF))
            tops[5] = ((1, HALF), (2, HALF + 1))
            tops[7] = ((1, LOW - 64), (2, LOW))
        if self.special >= 0:
            ids = (*ids[:4], self.special, *ids[5:])
        return Observation(ids, tuple(QUARTER for _ in ids), "length", tuple(tops))


async def proposed(writer: Writer, context: int = 4096, special: tuple[int, ...] = (0, 1)) -> References:
    found = await propose_from(writer.ask, 1000, special, context)
    assert isinstance(found, References)
    return found


async def test_engine_s_own_texts_give_ties_close_calls_and_places_without_an_idea() -> None:
    writer = Writer()
    references = await proposed(writer)
    by_name = {item.name: item for item in references.items}
    scan, text = writer.asked[1], [120 + index for index in range(64)]
    assert by_name["text-01"].prompt_ids == text
    assert by_name["tie-00"].prompt_ids == [*scan.prompt_ids, *text[:3]]
    assert by_name["margin-00"].prompt_ids == [*scan.prompt_ids, *text[:5]]
    assert by_name["entropy-00"].prompt_ids == [*scan.prompt_ids, *text[:7]]
    for name, temperature, logprobs in (("tie-00", 0, 5), ("margin-00", 0, 5), ("entropy-00", 1000, None)):
        assert (by_name[name].temperature_milli, by_name[name].logprobs) == (temperature, logprobs)
    assert len(writer.asked) == SCANS
    assert all(item.temperature_milli == 1000 and item.logprobs == 5 for item in writer.asked)
    lengths = [len(item.prompt_ids) for item in references.items if item.kind == "random"]
    assert lengths == list(LENGTHS)
    sampled = [item for item in references.items if item.temperature_milli]
    assert len(sampled) > len(references.items) / 2
    assert len({item.name for item in references.items}) == len(references.items)


async def test_no_prompt_from_the_engine_s_texts_holds_a_special_id() -> None:
    references = await proposed(Writer(special=7), special=(7,))
    assert not any(7 in item.prompt_ids for item in references.items)
    assert {"text", "entropy"} <= {item.kind for item in references.items}


async def test_engine_that_does_not_answer_gives_no_proposal() -> None:
    async def ask(_reference: Reference) -> Outcome:
        return InconclusiveError(Reason.UNAVAILABLE, "503")

    found = await propose_from(ask, 1000, (), 4096)
    assert isinstance(found, InconclusiveError)
    assert found.reason is Reason.UNAVAILABLE


async def test_short_context_is_proposed_without_texts() -> None:
    writer = Writer()
    assert len((await proposed(writer, context=40)).items) == len(LENGTHS)
    assert writer.asked == []
    for context in (41, 42, 64, 300, 2080, 8192):
        for item in (await proposed(Writer(), context=context)).items:
            assert len(item.prompt_ids) + item.max_tokens < context


def test_what_no_longer_fits_a_changed_limit_is_left_out_and_nothing_is_replaced() -> None:
    references = propose(1000, [], 4096, len(LENGTHS))
    assert comparable(references, vocabulary_size=1000, max_model_len=4096) == references.items
    fitting = comparable(references, vocabulary_size=1000, max_model_len=256)
    assert [len(item.prompt_ids) for item in fitting] == [length for length in LENGTHS if length <= 256 - TOKENS]
    assert all(item in references.items for item in fitting)
    highest = max(max(item.prompt_ids) for item in references.items)
    assert len(comparable(references, vocabulary_size=highest, max_model_len=4096)) < len(references.items)


async def test_documents_of_the_widest_limits_stay_far_below_a_config_map() -> None:
    class Longest(Writer):
        async def ask(self, reference: Reference) -> Outcome:
            found = await super().ask(reference)
            assert isinstance(found, Observation)
            ids = tuple(9_999_000 + index for index in range(len(found.token_ids)))
            places: tuple[Top, ...] = tuple(((1, HALF - index), (2, HALF)) for index in range(len(ids)))
            return Observation(ids, found.logprob_bits, "length", places)

    references = await propose_from(Longest().ask, 9_999_999, tuple(range(500)), 1_048_576)
    assert isinstance(references, References)
    answer = Answer(token_ids=[9_999_999] * TOKENS, logprob_bits="f" * 8 * TOKENS, finish_reason="length")
    digest = "sha256:" + "f" * 64
    answers = {item.name: answer for item in references.items}
    candidate = Candidate(
        boot="b" * 32, plan_digest=digest, fingerprint=digest, references_digest=digest, answers=answers
    )
    baseline = Baseline(fingerprint=digest, references_digest=digest, lifetimes=1, answers=answers)
    # Whatever maxNumSeqs is: cohorts ask the same references again. Kubernetes refuses 1 MiB.
    sizes = [len(document.canonical()) for document in (references, candidate, baseline)]
    assert max(sizes) < 128 * 1024, sizes
