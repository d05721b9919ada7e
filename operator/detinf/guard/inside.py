"""The guard inside the engine: what each of its processes attests when its configuration is final.

Where that is, read in vLLM 0.32 (``v1/engine``, ``v1/core/sched``, ``v1/worker``) and vllm-ascend 0.23.0.post1
(``worker/worker.py``):

- ``worker-<rank>``: when ``compile_or_warm_up_model`` has returned, the last thing that a worker does before it serves;
- ``engine-core``: when its scheduler has been made, which is after the workers' warm-up and has the final KV cache;
- ``api-server``: when its ``AsyncLLM`` has been made, which waits for the engine core.

vLLM logs a plug-in that raises while it is loaded, and serves: so whatever goes wrong here leaves an attestation out,
and an engine without its complete set is never ready. A check that does not hold also ends the engine.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from detinf.guard import attestation, environment, identity, model_files, packages, variables
from detinf.guard.errors import RefusedError
from detinf.guard.expectations import check_configuration, check_symbols, json_text, value_at
from detinf.guard.imports import after_import
from detinf.guard.layout import PLAN_VARIABLE, SHARED_VARIABLE
from detinf.guard.plan import Plan, read_plan
from detinf.guard.said import Listener

ASYNC_LLM = "vllm.v1.engine.async_llm"
SCHEDULER = "vllm.v1.core.sched.scheduler"
API_SERVER, ENGINE_CORE = "api-server", "engine-core"


def after_method(owner: type, name: str, then: Callable[[Any], None]) -> None:
    """Call ``then`` with the object whenever a method of a class has returned."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(self: Any, *arguments: Any, **named: Any) -> Any:
        result = original(self, *arguments, **named)
        then(self)
        return result

    setattr(owner, name, wrapped)


def _never() -> bool:
    return False


class Insider:
    """One process of the engine: the plan, the boot, and what it has to say about itself."""

    def __init__(self, plan: Plan, start: attestation.Start, shared: Path) -> None:
        """Keep what it is held against."""
        self.plan = plan
        self.start = start
        self.shared = shared

    def hook(self) -> None:
        """Attest whatever this process turns out to be, and hear what it logs."""
        if self.plan.failure_lines:
            Listener(self.plan.failure_lines, self.shared).listen()
        after_import(ASYNC_LLM, lambda module: after_method(module.AsyncLLM, "__init__", self.api_server))
        after_import(SCHEDULER, lambda module: after_method(module.Scheduler, "__init__", self.engine_core))
        if self.plan.worker is not None:
            module_name, _, class_name = self.plan.worker.partition(":")

            def hook_worker(module: ModuleType) -> None:
                after_method(getattr(module, class_name), "compile_or_warm_up_model", self.worker)

            after_import(module_name, hook_worker)
        if self.plan.initialiser is not None:
            module_name, _, function_name = self.plan.initialiser.partition(":")
            after_import(module_name, lambda module: self.hook_initialiser(module, function_name))

    def hook_initialiser(self, module: ModuleType, name: str) -> None:
        """Hold the symbols right after batch invariance was to be switched on: a partial mode fails before it loads.

        The environment is held with them, and told first: a switch that is off is why no symbol is replaced.
        """
        original = getattr(module, name)

        @functools.wraps(original)
        def initialise(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            if problems := check_symbols(self.plan.symbols)[0]:
                self.refuse("worker", [*environment.problems(self.plan, os.environ), *problems])
            return result

        setattr(module, name, initialise)

    def api_server(self, llm: Any) -> None:
        """Attest as the API server: by now every process of the engine has read what it needs of the model."""
        self.attest(API_SERVER, llm.vllm_config, self.model_problems(), "model")

    def model_problems(self) -> list[str]:
        """Return what of the model's small files, and of those that arguments name, changed while weights were loaded.

        The guard looked before, and when the engine had just begun: minutes before it read a tokenizer or a template.
        """
        root = Path(self.start.root)
        try:
            listed = model_files.listed(root / self.plan.model_path.lstrip("/"))
            named = model_files.named(self.plan.arguments, root, Path.cwd())
            model_files.check_same(self.start.model_files, listed)
            model_files.check_same(self.start.identity.get("argumentFiles", {}), named)
        except RefusedError as error:
            return list(error.problems)
        return []

    def engine_core(self, scheduler: Any) -> None:
        """Attest as the engine core: every request at its full length fits the KV cache, so none is preempted."""
        cache, limits = scheduler.vllm_config.cache_config, scheduler.vllm_config.scheduler_config
        tokens = (cache.num_gpu_blocks or 0) * cache.block_size
        needed = limits.max_num_seqs * scheduler.vllm_config.model_config.max_model_len
        problem = (
            f"kv-cache: {tokens} tokens in {cache.num_gpu_blocks} blocks, {needed} are needed for "
            f"{limits.max_num_seqs} requests at full length, and preemption is not covered by batch invariance; lower "
            "spec.engine.maxNumSeqs or spec.model.maxModelLen"
        )
        observed = {"cache_config.num_gpu_blocks": json_text(cache.num_gpu_blocks)}
        problems = [problem] if tokens < needed else []
        self.attest(ENGINE_CORE, scheduler.vllm_config, problems, "kv-cache", observed=observed)

    def worker(self, worker: Any) -> None:
        """Attest as a worker."""
        problems, observed = check_symbols(self.plan.symbols)
        self.attest(f"worker-{worker.rank}", worker.vllm_config, problems, "symbols", observed=observed)

    def attest(
        self,
        process: str,
        configuration: Any,
        problems: list[str] | None = None,
        check: str | None = None,
        *,
        observed: dict[str, str] | None = None,
    ) -> None:
        """Attest, or end the engine.

        Raises:
            RefusedError: where something is not as the plan says; the engine's start fails with it.
        """
        found = list(problems or [])
        if process not in self.plan.processes:
            found.insert(0, self.stranger(process))
        found += environment.problems(self.plan, os.environ)
        given = self.start.identity["environment"]
        if process == API_SERVER:
            # Its workers are started by itself, with what it has set by then; it alone was started by the guard.
            found += variables.problems(given, self.recorded(environment.process_environment(os.getpid(), _never)))
        differing, effective = check_configuration(self.plan.configuration, configuration)
        found += differing
        try:
            size = int(value_at(configuration, "model_config").get_vocab_size())
        except (LookupError, TypeError, ValueError) as error:
            found.append(f"vocabulary: the engine does not tell its size ({error})")
            size = -1
        if size != self.start.vocabulary["size"] and not found:
            found.append(f"vocabulary: {size} token ids in the engine, {self.start.vocabulary['size']} in config.json")
        installed = packages.Installed()
        try:
            installed = packages.read_packages()
        except RefusedError as error:
            found += error.problems
        if found:
            self.refuse(process, found)
        effective |= variables.observed(given, self.recorded(os.environ))
        seen = self.start.identity | identity.package_items(installed) | {"python": identity.python_version()}
        try:
            attestation.write(
                self.start,
                process,
                self.shared,
                identity=seen,
                vocabulary=self.start.vocabulary,
                placement=self.start.placement,
                checks=["environment", "configuration", "vocabulary", *([check] if check else [])],
                observed=effective | (observed or {}),
            )
        except RefusedError as error:  # there is another of this process, or no room
            self.refuse(process, [str(error)])

    def stranger(self, process: str) -> str:
        """Return why a process is there that the plan does not have: another engine than the profile's, or too many."""
        known = ", ".join(self.plan.processes)
        if _kind(process) in map(_kind, self.plan.processes):
            return (
                f"process: {process} is one more than the plan has ({known}); let the operator write the command line"
            )
        profile = self.plan.document.get("profile")
        with contextlib.suppress(RefusedError):
            versions = ", ".join(f"{name} {version}" for name, version in packages.read_packages().versions.items())
            return (
                f"process: {process} is of another engine than profile {profile}'s, which has {known} alone: this "
                f"image has {versions or 'no package that profiles know'}; use the profile of that release, or the "
                "profile's image"
            )
        return f"process: {process} is of another engine than profile {profile}'s, which has {known} alone"

    def recorded(self, seen: Mapping[str, str]) -> dict[str, str]:
        """Return what of an environment is recorded, as the guard did."""
        return variables.recorded(seen, self.plan.variables, self.plan.unrecorded)

    def refuse(self, process: str, problems: list[str]) -> None:
        """Leave the reason for the guard, and end this process' start.

        Raises:
            RefusedError: always.
        """
        attestation.refuse(process, problems, self.shared)
        raise RefusedError(*problems)


def _kind(process: str) -> str:
    return process.rstrip("0123456789")


def register() -> None:
    """Hook this process where the guard has started it; an engine that was started around it attests nothing."""
    plan, shared = os.environ.get(PLAN_VARIABLE), os.environ.get(SHARED_VARIABLE)
    if plan is None or shared is None:
        return
    Insider(read_plan(Path(plan)), attestation.read_start(Path(shared)), Path(shared)).hook()
