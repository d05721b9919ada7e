"""What the engine itself logs, seen where it logs it: the lines that mean that it must not go on.

An engine's output holds what its users write (request ids, prompts, model names, headers), with line ends and colours
of their own, in a format that variables choose, JSON among them (vLLM 0.32, ``vllm/logger.py``): nothing in it tells
who wrote a line. So the plug-in listens inside each process, where a record says which file of which package made it
and what its constant text is; what a user wrote is an argument of a record, or in a record of another file.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from detinf.guard import attestation

PROCESS = "log"
"""What the refusal is filed under."""
LONGEST = 500
NEAR = 5
"""So many frames lie at most between ``logging`` and the file that logs: vLLM's ``warning_once`` has two of its own."""


def end_engine() -> None:
    """End the engine with all of its processes: the guard started it in a group of its own."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Listener:
    """The lines that mean failure, and what happens at the first."""

    def __init__(self, lines: Sequence[Mapping[str, str]], shared: Path, end: Callable[[], None] = end_engine) -> None:
        """Keep them.

        Args:
            lines: ``file``, from the package's folder on, and ``text``, a part of the record's text before its
                arguments are put in.
            shared: the folder that the guard reads refusals from.
            end: ends the engine.
        """
        self.lines = [(line["file"], line["text"]) for line in lines]
        self.shared = shared
        self.end = end

    def means_failure(self, path: str, text: Any) -> bool:
        """Return whether a record of a source file with a text means failure."""
        return any(
            (path == file or path.endswith(f"/{file}")) and isinstance(text, str) and wanted in text
            for file, wanted in self.lines
        )

    def heard(self, record: logging.LogRecord) -> None:
        """Take note of a record; at a failure leave the reason for the guard and end the engine."""
        if self.means_failure(record.pathname, record.msg):
            self.refuse(record.getMessage())

    def silenced(self, frame: FrameType | None) -> None:
        """Take note of a text that a level keeps from being a record; the frame is that of ``Logger.warning``."""
        if frame is None or frame.f_code.co_filename != logging.Logger.warning.__code__.co_filename:
            return
        text, caller = frame.f_locals.get("msg"), frame.f_back
        for _ in range(NEAR):
            if caller is None:
                return
            if self.means_failure(caller.f_code.co_filename, text):
                self.refuse(str(text))
                return
            caller = caller.f_back

    def refuse(self, said: str) -> None:
        """Leave the reason for the guard and end the engine."""
        words = f"the engine said {said.strip()[:LONGEST]!r}, which means that it must not serve"
        attestation.refuse(PROCESS, [words], self.shared)
        self.end()

    def listen(self) -> None:
        """Hear every record of this process from now on, once it is written, whatever handlers and formats it has.

        Warnings that a level, ``logging.disable`` or a disabled logger keeps back are no records, and are heard all
        the same: ``VLLM_LOGGING_LEVEL=ERROR`` makes no engine a better one.
        """
        enabled = logging.Logger.isEnabledFor

        @functools.wraps(enabled)
        def is_enabled_for(logger: logging.Logger, level: int) -> bool:
            found = enabled(logger, level)
            if not found and level >= logging.WARNING:
                self.silenced(sys._getframe(1))  # noqa: SLF001 - as logging itself finds who logs
            return found

        logging.Logger.isEnabledFor = is_enabled_for  # type: ignore[assignment]
        original = logging.Logger.handle

        @functools.wraps(original)
        def handle(logger: logging.Logger, record: logging.LogRecord) -> None:
            try:
                original(logger, record)
            finally:
                self.heard(record)

        logging.Logger.handle = handle  # type: ignore[assignment]
