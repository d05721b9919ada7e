"""The set-up scripts of a toolkit, such as CANN's ``set_env.sh``: sourced by the image's own bash."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from detinf.guard.errors import RefusedError

SECONDS = 120
SOURCE = 'list=("$@"); set --; for script in "${list[@]}"; do source "$script" 1>&2; done; exec env -0'
# What bash itself adds for as long as it runs.
SHELL_OWN = ("_", "SHLVL", "PWD", "OLDPWD")


def sourced(scripts: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment after sourcing scripts in their order; without scripts it is the one that was given.

    Raises:
        RefusedError: where a script or bash is missing, fails or hangs.
    """
    if not scripts:
        return dict(environment)
    for script in scripts:
        if not os.access(script, os.R_OK):
            raise RefusedError(
                f"scripts: {script} is missing or unreadable; use an image that has the toolkit of this profile"
            )
    try:
        done = subprocess.run(
            ["bash", "-c", SOURCE, "detinf", *scripts],
            env=dict(environment),
            capture_output=True,
            check=False,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RefusedError(f"scripts: bash: {error}; use an image that has bash, as the toolkit's do") from error
    pairs = [entry.partition("=") for entry in done.stdout.decode(errors="surrogateescape").split("\0") if entry]
    if done.returncode or not pairs:
        words = done.stderr.decode(errors="replace").strip()[-300:]
        raise RefusedError(f"scripts: {', '.join(scripts)} ended with {done.returncode}: {words}; mend the image")
    kept = {name: environment[name] for name in SHELL_OWN if name in environment}
    return {name: value for name, _, value in pairs if name not in SHELL_OWN} | kept
