"""What the guard says when it does not start an engine."""

from __future__ import annotations


class RefusedError(Exception):
    """Something did not verify. The message is one line: what, the value found, what was expected, the remedy."""

    def __init__(self, *problems: str) -> None:
        """Keep the problems; the message joins them."""
        super().__init__("; ".join(" ".join(problem.split()) for problem in problems))
        self.problems = problems
