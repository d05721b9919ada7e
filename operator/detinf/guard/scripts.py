"""The set-up scripts of a toolkit, such as CANN's ``set_env.sh``: sourced by the image's own bash.

A script that fails half-way leaves half an environment, in which an engine may well start. What counts as failed:

- It does not return 0. The entry point of CANN's images chains its scripts with ``&&`` (docs/reference/images.md), so
  the real ones do.
- A command of it cannot be found or run (126, 127), or something that it sources fails, at any depth: where nobody asks
  for the status of that.

Any other command may fail in silence, as the real ones do: CANN's ``setenv.bash`` looks for the driver's library with a
``find`` that fails for a user who may not read every folder. Trapping every error would refuse the released images.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from detinf.guard.errors import RefusedError

SECONDS = 120
STDERR_CHARACTERS = 300
# Names begin with __d_: they share a shell with the scripts. The options are put back after each script, so that
# none has another's `set -eu`; the traps are set before each, since a script may set its own. Each trap is one line:
# LINENO counts on in it. That of DEBUG leaves $_ as it was.
SOURCE = r"""
__d_told=$1 __d_root=$2; shift 2; __d_list=("$@"); set --; __d_options=$(set +o)
__d_tell() { printf '%s\0' "$@" >&"$__d_told"; }
__d_failed() {
  if ((${#BASH_SOURCE[@]} > 1)) && [[ $3 == 12[67] || $4 == "source "* || $4 == ". "* ]]; then
    __d_tell "$1" "$2" "$4 ended with $3"
  fi
}
for __d_script in "${__d_list[@]}"; do
  if [[ $__d_script =~ ^\$\{([A-Za-z_][A-Za-z0-9_]*)\}(.*) ]]; then
    __d_name=${BASH_REMATCH[1]} __d_rest=${BASH_REMATCH[2]}
    if [[ -z ${!__d_name-} ]]; then __d_tell "$__d_script" "" "cannot be found: nothing sets $__d_name"; exit 1; fi
    __d_script=${!__d_name}$__d_rest
  fi
  __d_script=$__d_root$__d_script
  if [[ -d $__d_script ]]; then __d_tell "$__d_script" "" "is a folder"; exit 1; fi
  if [[ ! -r $__d_script ]]; then __d_tell "$__d_script" "" "is missing or unreadable"; exit 1; fi
  __d_a=("$__d_script" 1)
  set -ET
  trap '__d_l=$_; [[ -z ${BASH_SOURCE-} || ${FUNCNAME-} == __d_* ]] || __d_a=("$BASH_SOURCE" $LINENO); : "$__d_l"' DEBUG
  trap '__d_failed "${BASH_SOURCE-}" "$LINENO" "$?" "$BASH_COMMAND"' ERR
  trap '__d_status=$?; trap - DEBUG ERR; __d_tell "${__d_a[@]}" "it ended the shell with $__d_status"' EXIT
  source "$__d_script" 1>&2
  __d_status=$?
  trap - DEBUG ERR EXIT RETURN
  if ((__d_status)); then __d_tell "${__d_a[@]}" "it returned $__d_status"; fi
  set +ET; eval "$__d_options"
done
set +a; unset "${!__d_@}"
exec env -0
"""
NOT_FOUND = re.compile(r"^(?P<file>.+): line (?P<line>[0-9]+): (?P<command>.+): command not found$", re.MULTILINE)
TORN = re.compile(
    r"^(?P<file>.+): line (?P<line>[0-9]+): warning: here-document .+ delimited by end-of-file", re.MULTILINE
)
# What bash itself adds for as long as it runs.
SHELL_OWN = ("_", "SHLVL", "PWD", "OLDPWD")


def sourced(scripts: Sequence[str], environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """Return the environment after sourcing scripts in their order; without scripts it is the one that was given.

    What they print goes to standard error.

    Args:
        scripts: absolute paths; one may begin with ``${VARIABLE}`` of the environment as the scripts before it left it.
        environment: to begin with.
        root: where absolute paths begin.

    Raises:
        RefusedError: where a script or bash is missing, fails (see above) or hangs.
    """
    if not scripts:
        return dict(environment)
    # In memory, and no pipes: a process that a script leaves behind keeps them open.
    with os.fdopen(os.memfd_create("stderr"), "r+b") as printed, os.fdopen(os.memfd_create("told"), "r+b") as told:
        try:
            done = subprocess.run(
                ["bash", "-c", SOURCE, "detinf", str(told.fileno()), str(root).rstrip("/"), *scripts],
                env=dict(environment),
                stdout=subprocess.PIPE,
                stderr=printed,
                check=False,
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
                pass_fds=(told.fileno(),),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RefusedError(f"scripts: bash: {error}; use an image that has bash, as the toolkit's do") from error
        words = _content(printed)
        records = _content(told).split("\0")[:-1]
    pairs = [entry.partition("=") for entry in done.stdout.decode(errors="surrogateescape").split("\0") if entry]
    if failure := _failure(records, words):
        raise RefusedError(f"scripts: {failure}")
    if done.returncode or not pairs:
        said = words.strip()[-STDERR_CHARACTERS:]
        raise RefusedError(f"scripts: {', '.join(scripts)} ended with {done.returncode}: {said}; mend the image")
    sys.stderr.write(words)
    sys.stderr.flush()
    kept = {name: environment[name] for name in SHELL_OWN if name in environment}
    return {name: value for name, _, value in pairs if name not in SHELL_OWN} | kept


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _failure(records: Sequence[str], words: str) -> str | None:
    """Return how a script failed, or None.

    Args:
        records: file, line and what failed there, three by three.
        words: what was printed.
    """
    said = " ".join(words.strip()[-STDERR_CHARACTERS:].split("\n"))
    if records:
        file, line, what = records[:3]
        if not line:
            return f"{file} {what}; use an image that has the toolkit of this profile"
        return f"{file}: line {line}: {what}: {said or 'nothing was printed'}; mend the image"
    # In the midst of a pipeline, no status tells of it.
    if missing := NOT_FOUND.search(words):
        return f"{missing['file']}: line {missing['line']}: {missing['command']} was not found: {said}; mend the image"
    # Of a file that is cut off, bash takes what there is, and goes on.
    if torn := TORN.search(words):
        return f"{torn['file']}: line {torn['line']}: it ends in the midst of a here-document: {said}; mend the image"
    return None
