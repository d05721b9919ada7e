"""A story told in steps: what happens, how long it took, and what to look at."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


class StepError(Exception):
    """Something that a step was to observe did not come about; the message says what was seen instead."""


@dataclass
class Story:
    """The steps so far; ``build/demo.json`` holds them after each one, so that a broken run leaves its account."""

    total: int
    output: Path
    steps: list[dict[str, object]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def say(self, message: str) -> None:
        """Print one line inside a step, with the seconds since the story began."""
        print(f"      {time.monotonic() - self.began:5.0f} s  {message}", flush=True)

    @contextmanager
    def step(self, name: str, what: str, *, about_seconds: int) -> Iterator[None]:
        """Tell one step; an exception marks it as failed and ends the story.

        Args:
            name: short name, as in ``build/demo.json``.
            what: what happens and why it matters, for a person who watches.
            about_seconds: what it took when this was written, so that a watcher knows whether to wait.
        """
        print(f"\n[{len(self.steps) + 1}/{self.total}] {name}  (about {about_seconds} s)\n      {what}", flush=True)
        start = time.monotonic()
        ok = False
        try:
            yield
            ok = True
        finally:
            seconds = round(time.monotonic() - start, 1)
            self.steps.append({"name": name, "ok": ok, "seconds": seconds})
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps({"steps": self.steps}, indent=1) + "\n", encoding="utf-8")
            print(f"      {'observed' if ok else 'NOT OBSERVED'} after {seconds} s", flush=True)

    def wait(self, what: str, probe: Callable[[], str | None], *, seconds: float, every: float = 1.0) -> str:
        """Ask again and again until ``probe`` returns something other than None, and return it.

        Raises:
            StepError: where that does not come about within ``seconds``.
        """
        limit = time.monotonic() + seconds
        while (seen := probe()) is None:
            if time.monotonic() > limit:
                raise StepError(f"waited {seconds:.0f} s for {what}")
            time.sleep(every)
        return seen

    def watch(self, describe: Callable[[], str], done: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Print ``describe()`` whenever it changes, until ``done()``.

        Raises:
            StepError: where it is not done within ``seconds``.
        """
        limit = time.monotonic() + seconds
        last = ""
        while True:
            if (now := describe()) != last and now:
                self.say(now)
                last = now
            if done():
                return
            if time.monotonic() > limit:
                raise StepError(f"waited {seconds:.0f} s for {what}; last seen: {last or 'nothing'}")
            time.sleep(1.0)


def fail(message: str) -> int:
    """Print why the demo ended early, and return its exit code."""
    print(f"\ndemo: {message}", file=sys.stderr, flush=True)
    return 1
