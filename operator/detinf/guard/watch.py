"""The engine's output: passed on byte for byte, and read for the lines that mean that it must not go on."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

LONGEST_LINE = 65_536
"""Bytes of a line that are kept until its end comes."""
JOIN_SECONDS = 2.0


@dataclass
class Watch:
    """One pipe for each stream of the engine, each with a thread that passes it on."""

    texts: Sequence[str]
    """Parts of lines that mean failure."""
    failed: Callable[[], None]
    """Called once, from a thread, at the first such line."""
    line: str | None = None
    """The line that was seen."""
    _pipes: list[tuple[int, int, int]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        """Make the pipes; with nothing to look for there are none, and the engine writes where we do."""
        if self.texts:
            self._pipes = [(*os.pipe(), target) for target in (1, 2)]

    def in_child(self) -> None:
        """Be the engine's standard output and error; called between fork and exec."""
        for _, writer, target in self._pipes:
            os.dup2(writer, target)

    def begin(self) -> None:
        """Pass on, in the guard."""
        for reader, writer, target in self._pipes:
            os.close(writer)
            thread = threading.Thread(target=self._pass_on, args=(reader, target), daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Wait for the last of it; who still holds the pipe after its engine has nothing to say."""
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _pass_on(self, reader: int, target: int) -> None:
        rest = b""
        while data := os.read(reader, 65_536):
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._look(line)
            if len(rest) > LONGEST_LINE:
                self._look(rest)
                rest = rest[-1024:]  # a text may lie across the cut
        self._look(rest)
        os.close(reader)

    def _look(self, data: bytes) -> None:
        line = data.decode(errors="replace")
        if not any(text in line for text in self.texts):
            return
        with self._lock:
            first, self.line = self.line is None, self.line or line.strip()
        if first:
            self.failed()
