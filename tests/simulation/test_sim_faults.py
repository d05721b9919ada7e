"""Every fault under its own smallest workload: its sentinel fires there, and with one ingredient less it does not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from detinf_sim.behaviours import BEHAVIOURS
from detinf_sim.effects import Effect
from detinf_sim.faults import FAULTS, Active, Fault, check_names
from detinf_sim.limits import Lifetime, Limits
from detinf_sim.model import HashModel
from detinf_sim.scheduler import SimEngine
from detinf_sim.sequences import Emission, Request
from detinf_sim.situation import Situation

MODEL = HashModel(500, b"test")
Answers = dict[str, list[Emission]]


@dataclass(frozen=True)
class Workload:
    """Requests by the step before which they arrive, and the world around them."""

    arrivals: tuple[tuple[int, Request], ...]
    limits: Limits = field(default_factory=Limits)
    lifetime: Lifetime = field(default_factory=Lifetime)
    aborts: tuple[tuple[int, str], ...] = ()
    idle_peers: int = 0
    warm: bool = False
    """Whether the process has worked before."""

    def run(self, active: Active) -> Answers:
        """Run it to the end; answers that were aborted are left out."""
        engine = SimEngine(MODEL, self.limits, active, lifetime=self.lifetime)
        engine.idle_peers = self.idle_peers
        if self.warm:
            engine.faults = Active()
            engine.submit(ask("warm-up"))
            while engine.has_work:
                engine.step(0.0)
            engine.faults = active
        answers: Answers = {request.identifier: [] for _, request in self.arrivals}
        pending, step = list(self.arrivals), 0
        while pending or engine.has_work:
            for item in [item for item in pending if item[0] <= step]:
                engine.submit(item[1])
                pending.remove(item)
            for when, identifier in self.aborts:
                if when == step:
                    engine.abort(identifier)
                    del answers[identifier]
            for emission in engine.step(float(step))[0]:
                if emission.request in answers:
                    answers[emission.request].append(emission._replace(cached_tokens=0))
            step += 1
        return answers

    def solo(self) -> Answers:
        """Run each request alone, in an engine without anything."""
        answers: Answers = {}
        aborted = {identifier for _, identifier in self.aborts}
        for _, request in self.arrivals:
            if request.identifier not in aborted:
                answers |= Workload(((0, request),)).run(Active())
        return answers


def ask(identifier: str = "r", length: int = 5, **parameters: Any) -> Request:
    """A request with a prompt of its own."""
    first = sum(identifier.encode())
    parameters.setdefault("max_tokens", 8)
    return Request(identifier, [(first + 7 * index) % 500 for index in range(length)], **parameters)


def together(count: int, **parameters: Any) -> tuple[tuple[int, Request], ...]:
    """So many requests at once."""
    return tuple((0, ask(f"r{index}", seed=index, **parameters)) for index in range(count))


def launch_with(name: str, *, struck: bool) -> Lifetime:
    """The first launch that chance strikes, or spares."""
    workload = Workload(together(2))
    for launch in range(64):
        active = Active([name])
        replace(workload, lifetime=Lifetime(launch)).run(active)
        if bool(active.struck) is struck:
            return Lifetime(launch)
    raise AssertionError(f"{name}: 64 launches are all alike")


WIDE = Limits(max_num_seqs=128)
CHUNKS = Limits(8, 64, 4096, chunked_prefill=True)
CACHE = Limits(prefix_caching=True, block_size=4)
SEEDED = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
SAME = ask("same", 7)
LONGER = ask("same", 9)
ONE = Workload(((0, ask()),))
WITHOUT_LOGPROBS = Workload(((0, ask(logprobs=None)),))
SAMPLED = Workload(((0, ask(temperature=1.0)),))

SMALLEST: dict[str, tuple[Workload, ...]] = {
    # The smallest workload that shows it, and others with an ingredient less (none: it needs nothing).
    "F01": (Workload(together(9)), Workload(together(8))),
    "F02": (Workload(together(65), WIDE), Workload(together(64), WIDE)),
    "F03": (
        Workload(together(4, length=64)),
        Workload((*together(3, length=64), (0, ask("shorter", 63)))),
    ),
    "F04": (Workload(((0, ask("a")), (3, ask("b")))), Workload(together(2))),
    "F05": (
        Workload(((0, ask("a")), (3, ask("b", 100))), CHUNKS),
        Workload(((0, ask("b", 100)),), CHUNKS),
    ),
    "F06": (
        Workload(((0, SAME), (20, replace(SAME, identifier="again"))), CACHE),
        Workload(((0, SAME), (20, replace(SAME, identifier="again", cache_salt="other"))), CACHE),
    ),
    "F07": (
        Workload(((0, SAME), (20, replace(SAME, identifier="again")), (20, ask("beside"))), CACHE),
        Workload(((0, SAME), (20, replace(SAME, identifier="again"))), CACHE),
        Workload(((0, LONGER), (20, replace(LONGER, identifier="again")), (20, ask("beside"))), CACHE),
    ),
    "F08": (Workload(together(2)), ONE),
    "F09": (Workload(((0, ask("a", 9)), (0, ask("b", 5)))), Workload(((0, ask("b", 5)), (0, ask("a", 9))))),
    "F10": (
        Workload(together(8, **SEEDED)),
        Workload(together(7, **SEEDED)),
        Workload(together(8, temperature=0.8)),
        Workload(together(8, top_k=50)),
    ),
    "F11": (SAMPLED, ONE),
    "F12": (SAMPLED, ONE),
    "F13": (
        Workload(together(2, max_tokens=16), Limits(max_model_len=32, block_size=4, kv_blocks=8)),
        Workload(together(2, max_tokens=16), Limits(max_model_len=32, block_size=4, kv_blocks=12)),
    ),
    "F14": (
        Workload(together(2), aborts=((3, "r0"),)),
        Workload(together(2), Limits(max_num_seqs=1), aborts=((3, "r1"),)),  # what only waited holds no block
    ),
    "F15": (
        Workload(((0, ask("long", 2048, max_tokens=2)), (0, ask("b")))),
        Workload(((0, ask("long", 2047, max_tokens=2)), (0, ask("b")))),
    ),
    "F16": (
        Workload(together(2), Limits(speculative_tokens=3)),
        Workload(together(1), Limits(speculative_tokens=3)),
        Workload(together(2)),
    ),
    "F17": (
        Workload(((0, ask("a")), (0, ask("b", adapter="poems")))),
        Workload(((0, ask("a", adapter="poems")), (0, ask("b", adapter="poems")))),
    ),
    "F18": (ONE, WITHOUT_LOGPROBS),
    "F19": (ONE, WITHOUT_LOGPROBS),
    "F20": (ONE, WITHOUT_LOGPROBS),
    "F21": (ONE,),
    "F22": (Workload(together(2)), ONE),
    "F22b": (Workload(together(2, length=128)), Workload(together(2, length=121))),
    "F23": (replace(ONE, idle_peers=1), ONE),
    "F24": (Workload(together(3)), Workload(together(4))),
    "F25": (
        Workload(together(2), lifetime=launch_with("F25", struck=True)),
        Workload(together(2), lifetime=launch_with("F25", struck=False)),
    ),
    "F26": (Workload(together(1300, max_tokens=1)), Workload(together(300, max_tokens=1))),
    "F27": (
        Workload(((0, ask("a")), (0, ask("b", logprobs=20)))),
        Workload(((0, ask("a", logprobs=20)), (0, ask("b", logprobs=20)))),
        Workload(((0, ask("a", presence_penalty=0.5)),)),
    ),
    "F28": (Workload(((0, ask(max_tokens=40)),)), Workload(((0, ask(max_tokens=40, logprobs=None)),))),
    "F29": (ONE, WITHOUT_LOGPROBS),
    "F30": (
        Workload(((0, ask("a", 65, temperature=1.0)),), CHUNKS),
        Workload(((0, ask("a", 64, temperature=1.0)),), CHUNKS),
    ),
    "F31": (
        Workload(((0, ask("a", 20, prompt_logprobs=True)), (0, ask("b")))),
        Workload(((0, ask("a", 20, prompt_logprobs=True)),)),
    ),
    "F32": (ONE, replace(ONE, warm=True)),
    "F33": (
        Workload(((0, ask("a", logprobs=5)), (0, ask("b", chosen_logprobs=True)))),
        Workload(((0, ask("a", logprobs=5)), (0, ask("b", logprobs=20)))),
        Workload(((0, ask("a", chosen_logprobs=True)),)),
        Workload(((0, ask("a", logprobs=None)), (0, ask("b", chosen_logprobs=True)))),
    ),
}


def test_every_fault_has_its_smallest_workload() -> None:
    assert list(SMALLEST) == list(FAULTS)
    assert len(FAULTS) == 34


@pytest.mark.parametrize("name", FAULTS)
def test_fault_strikes_from_its_smallest_workload_on(name: str) -> None:
    smallest, *smaller = SMALLEST[name]
    right = smallest.solo()
    assert smallest.run(Active()) == right  # the workload itself changes nothing
    active = Active([name])
    assert smallest.run(active) != right
    assert active.struck[name] > 0
    for lacking in smaller:
        active = Active([name])
        assert lacking.run(active) == lacking.solo()
        assert active.struck == {}


def test_numeric_faults_change_no_token() -> None:
    def tokens(answers: Answers) -> dict[str, list[int]]:
        return {name: [emission.token for emission in emissions] for name, emissions in answers.items()}

    # These are of the kind that comparing texts never sees.
    for name in ("F01", "F02", "F03", "F04", "F08", "F15", "F18", "F19", "F20", "F22", "F22b", "F25"):
        smallest = SMALLEST[name][0]
        assert tokens(smallest.run(Active([name]))) == tokens(smallest.solo()), name


def test_fault_of_a_share_strikes_about_that_share() -> None:
    launches = [Active(["F25"]) for _ in range(300)]
    for launch, active in enumerate(launches):
        Workload(together(2, max_tokens=2), lifetime=Lifetime(launch)).run(active)
    assert 70 < sum(bool(active.struck) for active in launches) < 130  # one in three
    per_request = Active(["F26"])
    Workload(together(8000, length=1, max_tokens=1)).run(per_request)
    assert 1 <= per_request.struck["F26"] < 24  # one in a thousand


def test_penalties_of_a_neighbour_are_enough_for_f27() -> None:
    active = Active(["F27"])
    Workload(((0, ask("a")), (0, ask("b", presence_penalty=0.5)))).run(active)
    assert active.struck == {"F27": 8}  # the neighbour's, not its own


def test_generator_stands_one_draw_behind_for_each_part_that_is_not_the_last() -> None:
    engine = SimEngine(MODEL, CHUNKS, Active(["F30"]))
    engine.submit(ask("a", 3 * 64 + 1, temperature=1.0))
    while not engine.counters.generation_tokens:
        engine.step(0.0)
    assert engine.running[0].wounds == {"F30": Effect(rewind=3)}


def test_situation_says_what_the_step_held() -> None:
    seen: list[Situation] = []

    def look(situation: Situation) -> bool:
        seen.append(situation)
        return False

    active = Active(["look"], known={"look": Fault("look", "looks", look, Effect())})
    engine = SimEngine(MODEL, CACHE, active, lifetime=Lifetime(launch=7, replica=2, started=100.0))
    engine.submit(ask("a", 6, logprobs=20, temperature=0.5, top_k=3, seed=4))
    engine.step(101.0)
    engine.submit(ask("b", 9, logprobs=5, adapter="poems", frequency_penalty=0.1))
    engine.submit(ask("c", 4, prompt_logprobs=True))
    engine.step(102.0)
    engine.step(103.0)
    first, *mixed = seen[:4]
    decoding = seen[4:]
    assert (first.width, first.tokens, first.prefills, first.decodes, first.emits) == (1, 6, 1, 0, True)
    assert (first.launch, first.replica, first.age, first.busy, first.step) == (7, 2, 1.0, 1, 1)
    assert (first.temperature, first.cuts, first.seed, first.length) == (0.5, True, 4, 6)
    assert [item.request for item in mixed] == ["a", "b", "c"]
    assert [item.row for item in mixed] == [0, 1, 2]
    assert [item.above for item in mixed] == [0, 7, 9]
    assert [item.prefilling for item in mixed] == [False, True, True]
    assert [item.others_logprobs for item in mixed] == [5, 20, 20]
    assert [item.others_penalised for item in mixed] == [1, 0, 1]
    assert [item.others_adapters for item in mixed] == [1, 0, 1]
    assert {(item.tokens, item.prefills, item.decodes, item.padding, item.busy) for item in mixed} == {(14, 2, 1, 0, 1)}
    assert [item.padding for item in decoding] == [1, 1, 1]  # three rows in a graph of four
    while engine.has_work:
        engine.step(104.0)
    engine.submit(ask("d"))
    engine.step(105.0)
    assert (seen[-1].busy, seen[-1].row, seen[-1].above) == (2, 0, 0)


def test_sentinel_counts_each_of_several_faults_for_itself() -> None:
    # F20 moves every logprob; F11 alone decides tokens, but not where nothing is sampled.
    active = Active(["F20", "F11", "F28"])
    ONE.run(active)
    assert active.struck["F20"] == 8
    assert "F11" not in active.struck
    assert active.struck.get("F28", 0) < 8


def test_dead_fault_is_not_counted() -> None:
    dead = Fault("dead", "a store that nobody reads", lambda _s: True, Effect())
    active = Active(["dead"], known={"dead": dead})
    assert ONE.run(active) == ONE.solo()
    assert active.struck == {}


def test_ten_lines_add_a_fault_nobody_thought_of() -> None:
    sunspots = Fault(
        "X01",
        "on replica 1, after an hour, prompts of odd length that decode in an even row lose a tie",
        lambda s: s.replica == 1 and s.age > 3600 and s.start % 2 == 1 and s.row % 2 == 0,
        Effect(ulps=7, flip=0.5),
        lasting=True,
    )
    known = FAULTS | {"X01": sunspots}
    late = Workload(((3600 * 2, ask()),))
    for replica, struck in ((0, False), (1, True)):
        active = Active(["X01"], known=known)
        answers = replace(late, lifetime=Lifetime(replica=replica)).run(active)
        assert (answers != late.solo(), bool(active.struck)) == (struck, struck)


def test_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"F99.*F01.*F22b.*status:<code>"):
        check_names(["F99"])
    for wrong in ("status", "status:", "status:x", "serialise:1", "round:-1"):
        with pytest.raises(ValueError, match="is unknown"):
            check_names([wrong])
    assert check_names(["F01", "status:429", "round:6", "serialise"])


def test_reference_lists_every_fault_and_behaviour_in_its_own_words() -> None:
    text = Path("docs/reference/faults.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `?([^|`]+?)`? \| ([^|]+?) \|", text, re.MULTILINE))
    expected = {fault.name: fault.words for fault in FAULTS.values()}
    expected |= {behaviour.form: behaviour.words for behaviour in BEHAVIOURS.values()}
    assert {name: rows.get(name) for name in expected} == expected
    listed = {name for name in rows if re.fullmatch(r"F\d\d?b?|[a-z]+[-a-z0-9]*(:<[a-z]+>)?", name)}
    assert listed == set(expected)
