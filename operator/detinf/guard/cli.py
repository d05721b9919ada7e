"""The guard's command line: ``install DIR``, ``users DIR``, or ``--plan PLAN -- vllm serve ...``."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from detinf.guard import layout
from detinf.guard.errors import RefusedError
from detinf.guard.install import install
from detinf.guard.launch import Places, launch
from detinf.guard.users import write_users

USAGE = "usage: guard install DIRECTORY | guard users DIRECTORY | guard [--plan FILE] -- vllm serve MODEL ..."
LOG_BYTES = 4096  # what the kubelet keeps of a termination message


def refuse(message: str, log: Path) -> int:
    """Say in one line why the engine does not start, in the termination log and on standard error."""
    line = f"detinf guard: refused: {message}\n"
    with contextlib.suppress(OSError):  # standard error says it too
        log.write_bytes(line.encode(errors="backslashreplace")[:LOG_BYTES])
    try:
        print(line, end="", file=sys.stderr, flush=True)
    except OSError:  # whoever read it is gone: what is left in the buffer must not become the exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return layout.REFUSED_EXIT_CODE


def unforeseen(error: Exception) -> str:
    """Return in one line what nobody has foreseen: the step that it happened in, and what it was."""
    import traceback

    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "detinf" in frame.filename]
    steps = [f"{Path(frame.filename).stem}.{frame.name}" for frame in frames[1:]] or ["cli.main"]
    where = f"{steps[-1]}, line {frames[-1].lineno}, of {steps[0]}" if frames else steps[0]
    words = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    return f"guard: {where}: {words}; this is a fault of the guard's own: report this line, and use another release"


def main(arguments: list[str]) -> int:
    """Run the guard; return the engine's exit code, or ``layout.REFUSED_EXIT_CODE``."""
    if len(arguments) == 2 and arguments[0] == "install":
        try:
            install(Path(arguments[1]))
        except OSError as error:
            words = f"install: {error.filename or arguments[1]}: {error.strerror}; mount a writable emptyDir there"
            return refuse(words, Path(layout.TERMINATION_LOG))
        return 0
    if len(arguments) == 2 and arguments[0] == "users":
        try:
            write_users(Path(arguments[1]))
        except RefusedError as error:
            return refuse(str(error), Path(layout.TERMINATION_LOG))
        return 0
    if "--" not in arguments:
        print(USAGE, file=sys.stderr)
        return 64
    split = arguments.index("--")
    options, command = arguments[:split], arguments[split + 1 :]
    # The paths of a pod; the tests choose others. None of these options skips a check.
    paths = {
        "--plan": layout.PLAN_PATH,
        "--shared": layout.SHARED_DIR,
        "--root": "/",
        "--termination-log": layout.TERMINATION_LOG,
    }
    while options:
        name = options.pop(0)
        if name not in paths or not options:
            print(f"unknown option {name!r}; {USAGE}", file=sys.stderr)
            return 64
        paths[name] = options.pop(0)
    guard = Path(__file__).resolve().parent.parent.parent
    places = Places(Path(paths["--plan"]), Path(paths["--shared"]), guard, Path(paths["--root"]))
    try:
        return launch(command, places)
    except RefusedError as error:
        return refuse(str(error), Path(paths["--termination-log"]))
    except Exception as error:  # noqa: BLE001 - a traceback is no line that a person reads in the resource's status
        return refuse(unforeseen(error), Path(paths["--termination-log"]))
