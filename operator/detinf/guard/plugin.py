"""The plug-in: vLLM loads it in each of its processes, through the entry point ``detinf``.

``install`` writes the dist-info folder that carries the entry point (group ``vllm.general_plugins``) beside the
package, and the launcher puts that folder on PYTHONPATH. vLLM logs a plug-in that raises, and serves all the same
(measured on 0.32): nothing may rely on this code having run unless it says so itself, in an attestation.
"""

from __future__ import annotations

import functools

from detinf.guard import inside, recorder
from detinf.guard.imports import after_import


@functools.cache  # vLLM calls it more than once in some processes
def register() -> None:
    """Hook what has to be hooked; called by vLLM."""
    inside.register()
    after_import(recorder.SCHEDULER_MODULE, recorder.hook)
