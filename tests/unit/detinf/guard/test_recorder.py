"""What a scheduler's step becomes in the trace; the real vLLM's is in tests/vllm."""

from __future__ import annotations

import importlib.metadata
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detinf.guard import recorder
from detinf.guard.install import install
from detinf.guard.layout import BOOT_VARIABLE, TRACE_VARIABLE
from detinf.guard.trace import Step, own_id
from detinf.probe.trace import Trace

BOOT = "b" * 32
COHORT = b"cohort-1"
OWN = f"cmpl-{own_id(COHORT, 3)}-0-00000000"


@dataclass
class Request:
    """The fields of vLLM's request that are read."""

    num_tokens: int
    num_computed_tokens: int = 0
    num_preemptions: int = 0


@dataclass
class Scheduler:
    """vLLM's scheduler, as far as it is looked at: each call of ``schedule`` runs what a test says."""

    requests: dict[str, Request] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    plan: Callable[[], Any] = lambda: None

    def schedule(self) -> Any:
        return self.plan()

    def _preempt_request(self, request: Request) -> None:
        request.num_computed_tokens = 0
        request.num_preemptions += 1

    def step(self, tokens: dict[str, int], *, new: tuple[str, ...] = (), resumed: tuple[str, ...] = ()) -> Any:
        """Schedule tokens, as ``_update_after_schedule`` leaves it."""
        began = [
            SimpleNamespace(req_id=name, num_computed_tokens=self.requests[name].num_computed_tokens) for name in new
        ]
        for name, count in tokens.items():
            self.requests[name].num_computed_tokens += count
        return SimpleNamespace(
            num_scheduled_tokens=tokens,
            total_num_scheduled_tokens=sum(tokens.values()),
            scheduled_new_reqs=began,
            scheduled_cached_reqs=SimpleNamespace(
                req_ids=[name for name in tokens if name not in new], resumed_req_ids=set(resumed)
            ),
            finished_req_ids=set(),
        )


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    monkeypatch.setenv(TRACE_VARIABLE, str(tmp_path / "trace.ring"))
    monkeypatch.setenv(BOOT_VARIABLE, BOOT)
    hooked = type("Hooked", (Scheduler,), dict(vars(Scheduler)))
    recorder.hook(SimpleNamespace(Scheduler=hooked))
    recorder.hook(SimpleNamespace(Scheduler=hooked))  # vLLM may load a plug-in twice
    return hooked()


@pytest.fixture
def steps(tmp_path: Path) -> Callable[[], tuple[Step, ...]]:
    def read() -> tuple[Step, ...]:
        window = Trace(tmp_path / "trace.ring", BOOT).since(0)
        assert window is not None
        assert window.complete
        return window.steps

    return read


def test_chunked_prompt_is_a_prefill_until_it_is_read_and_then_a_decode(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]]
) -> None:
    scheduler.requests = {OWN: Request(10), "theirs": Request(4)}
    scheduler.waiting = ["a", "b"]
    for tokens, new in (
        ({OWN: 6}, (OWN,)),
        ({OWN: 4, "theirs": 4}, ("theirs",)),
        ({OWN: 1, "theirs": 1}, ()),
    ):
        scheduler.plan = lambda tokens=tokens, new=new: scheduler.step(tokens, new=new)
        scheduler.schedule()
    first, second, third = steps()
    assert [(step.width, step.prefills, step.decodes, step.tokens) for step in steps()] == [
        (1, 1, 0, 6),
        (2, 2, 0, 8),
        (2, 0, 2, 2),
    ]
    assert first.waiting == 2
    assert [
        (step.own[0].number, step.own[0].prefill, step.own[0].tokens, step.own[0].computed) for step in steps()
    ] == [
        (3, True, 6, 0),
        (3, True, 4, 6),
        (3, False, 1, 0),
    ]
    assert second.own[0].cohort == third.own[0].cohort == COHORT


def test_last_chunk_of_one_token_is_no_decode_and_the_step_after_it_is_no_prefill(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]]
) -> None:
    scheduler.requests = {OWN: Request(5)}
    for tokens, new in (({OWN: 4}, (OWN,)), ({OWN: 1}, ()), ({OWN: 1}, ()), ({OWN: 1}, ())):
        scheduler.plan = lambda tokens=tokens, new=new: scheduler.step(tokens, new=new)
        scheduler.schedule()
    assert [(step.prefills, step.own[0].prefill, step.own[0].computed) for step in steps()] == [
        (1, True, 0),
        (1, True, 4),
        (0, False, 0),
        (0, False, 0),
    ]


def test_step_that_schedules_nothing_is_not_recorded(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]]
) -> None:
    scheduler.requests = {OWN: Request(2)}
    for tokens, new in (({OWN: 2}, (OWN,)), ({}, ()), ({OWN: 1}, ()), ({}, ()), ({}, ()), ({OWN: 1}, ())):
        scheduler.plan = lambda tokens=tokens, new=new: scheduler.step(tokens, new=new)
        scheduler.schedule()
    assert [[(own.number, own.prefill) for own in step.own] for step in steps()] == [
        [(3, True)],
        [(3, False)],
        [(3, False)],
    ]


def test_cache_hits_and_preemptions_are_counted_where_they_happen(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]]
) -> None:
    scheduler.requests = {OWN: Request(10, num_computed_tokens=8)}
    scheduler.plan = lambda: scheduler.step({OWN: 2}, new=(OWN,))
    scheduler.schedule()
    scheduler._preempt_request(scheduler.requests[OWN])
    scheduler.plan = lambda: scheduler.step({OWN: 11}, resumed=(OWN,))
    scheduler.requests[OWN].num_computed_tokens = 0
    scheduler.schedule()
    first, second = steps()
    assert (first.cached_tokens, first.preemptions) == (8, 0)
    assert (second.cached_tokens, second.preemptions, second.prefills) == (0, 1, 1)


@pytest.mark.parametrize("runner", ["first", "second"])
def test_preempted_request_reads_its_answer_again_before_it_decodes(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]], runner: str
) -> None:
    request = Request(10)
    scheduler.requests = {OWN: request}
    scheduler.plan = lambda: scheduler.step({OWN: 10}, new=(OWN,))
    scheduler.schedule()
    request.num_tokens += 5  # answered meanwhile
    scheduler._preempt_request(request)
    request.num_computed_tokens = 4  # found in the prefix cache
    again = {"resumed": (OWN,)} if runner == "first" else {"new": (OWN,)}
    for tokens, more in ((8, again), (3, {}), (1, {})):
        scheduler.plan = lambda tokens=tokens, more=more: scheduler.step({OWN: tokens}, **more)
        scheduler.schedule()
    assert [(step.own[0].prefill, step.own[0].tokens, step.own[0].computed) for step in steps()] == [
        (True, 10, 0),
        (True, 8, 4),
        (True, 3, 12),
        (False, 1, 0),
    ]
    assert [step.cached_tokens for step in steps()] == [0, 0, 0, 0]


def test_error_of_the_recorder_is_not_the_engines_and_leaves_no_trace(
    scheduler: Scheduler, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scheduler.requests = {OWN: Request(2)}
    scheduler.plan = lambda: scheduler.step({OWN: 2}, new=(OWN,))
    scheduler.schedule()
    assert Trace(tmp_path / "trace.ring", BOOT).position() == 1
    scheduler.plan = lambda: SimpleNamespace(answer=42)
    assert scheduler.schedule().answer == 42
    assert scheduler.schedule().answer == 42
    assert capfd.readouterr().err.count("detinf: the step trace: it ends: AttributeError") == 1
    assert list(tmp_path.iterdir()) == []


def test_scheduler_of_another_make_is_left_alone_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TRACE_VARIABLE, str(tmp_path / "trace.ring"))
    other = type("Other", (), {"schedule": Scheduler.schedule})
    for module in (SimpleNamespace(Scheduler=other), SimpleNamespace()):
        recorder.hook(module)
    assert other.schedule is Scheduler.schedule
    assert capfd.readouterr().err.count("detinf: the step trace: there is none") == 2


def test_engine_that_was_started_without_the_guard_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACE_VARIABLE, raising=False)
    original = Scheduler.schedule
    recorder.hook(SimpleNamespace(Scheduler=Scheduler))
    assert Scheduler.schedule is original


def test_installed_guard_is_found_as_a_plugin_of_vllm(tmp_path: Path) -> None:
    install(tmp_path / "guard")
    (found,) = importlib.metadata.distributions(path=[str(tmp_path / "guard")])
    (point,) = found.entry_points
    assert (point.group, point.name, point.value) == ("vllm.general_plugins", "detinf", "detinf.guard.plugin:register")


def test_steps_that_hold_the_same_are_written_alike_until_one_holds_another(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]]
) -> None:
    other = f"cmpl-{own_id(COHORT, 4)}-0-00000000"
    scheduler.requests = {OWN: Request(2), other: Request(2)}
    for tokens, new in (
        ({OWN: 2}, (OWN,)),
        ({OWN: 1}, ()),
        ({OWN: 1}, ()),
        ({OWN: 1, other: 2}, (other,)),
        ({OWN: 1, other: 1}, ()),
        ({OWN: 1, other: 1}, ()),
        ({other: 1}, ()),
    ):
        scheduler.plan = lambda tokens=tokens, new=new: scheduler.step(dict(tokens), new=new)
        scheduler.schedule()
    assert [[(own.number, own.prefill, own.tokens) for own in step.own] for step in steps()] == [
        [(3, True, 2)],
        [(3, False, 1)],
        [(3, False, 1)],
        [(3, False, 1), (4, True, 2)],
        [(3, False, 1), (4, False, 1)],
        [(3, False, 1), (4, False, 1)],
        [(4, False, 1)],
    ]


def test_steps_of_as_many_but_other_requests_are_told_apart(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]]
) -> None:
    """As with pipeline parallelism, where two halves of the running requests take turns."""
    names = [f"cmpl-{own_id(COHORT, number)}-0-00000000" for number in range(4)]
    scheduler.requests = {name: Request(1) for name in names}
    scheduler.plan = lambda: scheduler.step(dict.fromkeys(names, 1), new=tuple(names))
    scheduler.schedule()
    for turn in range(4):
        half = names[:2] if turn % 2 else names[2:]
        scheduler.plan = lambda half=half: scheduler.step(dict.fromkeys(half, 1))
        scheduler.schedule()
    assert [[own.number for own in step.own] for step in steps()] == [[0, 1, 2, 3], [2, 3], [0, 1], [2, 3], [0, 1]]


def test_request_that_waits_preempted_or_leaves_is_in_no_step_meanwhile(
    scheduler: Scheduler, steps: Callable[[], tuple[Step, ...]]
) -> None:
    other = f"cmpl-{own_id(COHORT, 4)}-0-00000000"
    scheduler.requests = {OWN: Request(2), other: Request(2)}
    for tokens, more in (
        ({OWN: 2, other: 2}, {"new": (OWN, other)}),
        ({OWN: 1, other: 1}, {}),
        ({OWN: 1}, {}),  # the other one was put back
        ({OWN: 1}, {}),
        ({OWN: 1, other: 3}, {"resumed": (other,)}),
        ({OWN: 1, other: 1}, {}),
    ):
        if other not in tokens:
            scheduler.requests[other].num_computed_tokens = 0
        if more.get("resumed"):
            scheduler.requests[other].num_tokens = 3
        scheduler.plan = lambda tokens=tokens, more=more: scheduler.step(dict(tokens), **more)
        scheduler.schedule()
    for finished in (set(), {other}):  # put back once more, and then its client left
        left = scheduler.step({OWN: 1})
        left.finished_req_ids = finished
        scheduler.plan = lambda left=left: left
        scheduler.schedule()
    assert [[(own.number, own.prefill, own.tokens) for own in step.own] for step in steps()] == [
        [(3, True, 2), (4, True, 2)],
        [(3, False, 1), (4, False, 1)],
        [(3, False, 1)],
        [(3, False, 1)],
        [(3, False, 1), (4, True, 3)],
        [(3, False, 1), (4, False, 1)],
        [(3, False, 1)],
        [(3, False, 1)],
    ]
    assert list(type(scheduler).schedule.detinf_watch.recorder.own) == [OWN]


@dataclass
class Known:
    """A request, as whoever drives the scheduler knows it."""

    number: int | None
    """Of our own; None for a tenant's."""
    goal: int
    """Tokens that it has to read before it decodes."""
    state: str = "new"


@dataclass
class Driver:
    """Has a scheduler admit, cut, skip, preempt, resume and forget requests by chance."""

    scheduler: Scheduler
    chance: random.Random
    known: dict[str, Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(6):
            ours = number < 4
            name = f"cmpl-{own_id(COHORT, number)}-0-00000000" if ours else f"cmpl-tenant-{number}"
            self.known[name] = Known(number if ours else None, self.chance.randrange(1, 7))
            self.scheduler.requests[name] = Request(self.known[name].goal)

    def some(self, share: float, *states: str) -> set[str]:
        return {name for name, item in self.known.items() if item.state in states and self.chance.random() < share}

    def step(self) -> tuple[int, int, list[tuple[int, bool, int, int]]] | None:
        """Run a step; return its width, its tokens and what it held of our own, or None where it held nothing."""
        left = self.some(0.02, "running", "preempted")
        for name in left:
            del self.known[name], self.scheduler.requests[name]
        preempted = self.some(0.03, "running")
        running = self.some(0.95, "running") - preempted
        new, resumed = self.some(0.7, "new"), self.some(0.7, "preempted")
        for name in preempted:
            self.known[name].state = "preempted"
        for name in sorted(new | resumed):
            request = self.scheduler.requests[name]
            self.known[name].state, self.known[name].goal = "running", request.num_tokens
            hit = self.chance.random() < 0.3
            request.num_computed_tokens = self.chance.randrange(request.num_tokens) if hit else 0
        tokens = {name: self.tokens(name) for name in self.known if name in running | new | resumed}
        held = [
            (item.number, reads, count, before if reads else 0)
            for name, count in tokens.items()
            if (item := self.known[name]).number is not None
            for before in [self.scheduler.requests[name].num_computed_tokens]
            for reads in [before < item.goal]
        ]

        def plan() -> Any:
            for name in preempted:
                self.scheduler._preempt_request(self.scheduler.requests[name])
            output = self.scheduler.step(tokens, new=tuple(new), resumed=tuple(resumed))
            output.finished_req_ids = left
            return output

        self.scheduler.plan = plan
        self.scheduler.schedule()
        for name in tokens:
            request = self.scheduler.requests[name]
            request.num_tokens += request.num_computed_tokens >= request.num_tokens  # it answered a token
        return (len(tokens), sum(tokens.values()), sorted(held)) if tokens else None

    def tokens(self, name: str) -> int:
        missing = self.known[name].goal - self.scheduler.requests[name].num_computed_tokens
        return min(self.chance.randrange(1, 5), missing) if missing > 0 else 1


@given(st.integers(0, 2**32))
def test_whatever_a_scheduler_does_the_trace_says_what_each_step_held(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("ring") / "trace.ring"
    hooked = type("Hooked", (Scheduler,), dict(vars(Scheduler)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRACE_VARIABLE, str(path))
        patch.setenv(BOOT_VARIABLE, BOOT)
        recorder.hook(SimpleNamespace(Scheduler=hooked))
    driver = Driver(hooked(), random.Random(seed))
    expected = [held for _ in range(40) if (held := driver.step())]
    window = Trace(path, BOOT).since(0)
    assert window is not None
    assert window.complete
    assert [(step.width, step.tokens, [own[1:] for own in step.own]) for step in window.steps] == expected
