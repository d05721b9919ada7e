"""What a resource may not ask of an engine: refused by name, with the reason and the remedy, in every spelling.

``engine.extraArgs`` and ``engine.env`` are held against lists of what is allowed, so that a spelling which nobody
thought of is refused too. What is locked is known besides, to say why. vLLM's parser takes underscores for dashes,
abbreviations, ``--flag=value``, ``--no-flag``, ``-O3``, dotted paths into JSON (``-cc.mode 0``) and files; of all that
one spelling is allowed: ``--flag``, ``--flag value`` or ``--flag=value``, with the flag's own name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detinf.api.reading import Problem
from detinf.api.types import EnvironmentVariable, Spec
from detinf.engines.profile import AllowedFlag, Argument, LockedFlags, Profile, base
from detinf.guard.layout import SERVING_FLAGS
from detinf.guard.variables import unrecorded

FIELDS = {
    "{dtype}": "spec.model.dtype",
    "{max_model_len}": "spec.model.maxModelLen",
    "{max_num_seqs}": "spec.engine.maxNumSeqs",
    "{max_num_batched_tokens}": "spec.model.maxModelLen",
    "{tensor}": "spec.parallelism.tensor",
}
"""The field that a derived argument follows from, by its placeholder."""

CHIP = "spec.topology.chip"
SHOWN = 120
"""Characters of a value that a message repeats."""


@dataclass(frozen=True)
class Spelling:
    """A word of a command line that stands for a flag."""

    word: str
    flag: str
    """As it is spelled, with dashes for underscores, without value and path."""
    path: str = ""
    """Behind a dot: the path into the flag's JSON."""
    value: str | None = None
    """Behind ``=`` or run together with a short flag."""


def spelling(word: str) -> Spelling | None:
    """Return what vLLM's parser makes of a word; None for what it takes for a value."""
    if not word.startswith("-") or word in {"-", "--"}:
        return None
    head, equals, value = word.partition("=")
    if word.startswith("-O") and not word.startswith("--"):
        return Spelling(word, "-O", value=word[2:].lstrip("=") or None)
    name, _, path = head.partition(".")
    flag = "--" + name[2:].replace("_", "-") if name.startswith("--") else name
    return Spelling(word, flag, path, value if equals else None)


def problems(spec: Spec, profile: Profile) -> list[Problem]:
    """Return everything that this engine is refused with."""
    return [
        *(_refused_values(spec, profile)),
        *(_misspelled_chip(spec, profile)),
        *_Arguments(spec.engine.extra_args, profile).problems(),
        *refused_variables(spec.engine.env, profile),
    ]


def _refused_values(spec: Spec, profile: Profile) -> Iterator[Problem]:
    for item in profile.refused:
        value: object = {"spec": spec.model_dump(by_alias=True, mode="json")}
        for part in item.field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None and str(value) in item.values:
            yield Problem(item.field, repr(value), f"{item.reason}; {item.remedy}")


def _misspelled_chip(spec: Spec, profile: Profile) -> Iterator[Problem]:
    """Yield a chip's name that is a known one in another spelling: no node has it, and no refusal of it would hold.

    A name that is like none of those that are known is let pass: a node may have it, and the scheduler tells.
    """
    chip = spec.topology.chip
    known = {name for item in profile.validated for name in item.chips}
    known |= {name for item in profile.refused if item.field == CHIP for name in item.values}
    if chip is None or chip in known:
        return
    letters = _letters(chip)
    same = sorted(name for name in known if _letters(name) == letters)
    if not same:
        same = sorted(name for name in known if sorted(_letters(name)) == sorted(letters))
    if same:
        yield Problem(CHIP, repr(chip), f"no chip is called so, and no node's label says it; did you mean {same[0]}?")


def _letters(chip: str) -> str:
    return "".join(letter for letter in chip.lower() if letter.isalnum()).removeprefix("ascend")


class _Arguments:
    """The words of ``extraArgs``, and what is known of flags."""

    def __init__(self, words: Sequence[str], profile: Profile) -> None:
        self.words = words
        self.profile = profile
        self.derived = {flag: item for item in profile.arguments for flag in (base(item.flag), *item.aliases)}
        self.locked = {flag: group for group in profile.locked_flags for flag in group.flags}
        self.allowed = {item.flag: item for item in profile.allowed_flags}

    def problems(self) -> list[Problem]:
        """Return what is wrong, word by word."""
        found: list[Problem] = []
        seen: set[str] = set()
        position = 0
        while position < len(self.words):
            word = self.words[position]
            spelled = spelling(word)
            end = position + 1
            while end < len(self.words) and spelling(self.words[end]) is None:
                end += 1
            following = list(self.words[position + 1 : end])
            remedy: str | None = "it is no flag, and would be taken for a value or a model; write --flag=value"
            if spelled is not None:
                remedy = self.refusal(spelled, following, seen)
            if remedy:
                found.append(Problem(f"spec.engine.extraArgs[{position}]", _shown(word), remedy))
            elif broken := next((text for text in self.words[position:end] if "\0" in text), None):
                words = "no process can have an argument with a null character; remove it"
                found.append(Problem(f"spec.engine.extraArgs[{position}]", _shown(broken), words))
            position = end
        return found

    def refusal(self, spelled: Spelling, following: list[str], seen: set[str]) -> str | None:
        """Return why a flag is refused with the values behind it, or None."""
        allowed = self.allowed.get(spelled.word.partition("=")[0])
        if allowed is None:
            return self.reason(spelled, following)
        if allowed.flag in seen:
            return "it stands there twice, and the last one would win in silence; keep one"
        seen.add(allowed.flag)
        return _value_problem(allowed, spelled, following)

    def reason(self, spelled: Spelling, following: list[str]) -> str:
        """Return why a flag that is not allowed as it is spelled is refused."""
        flag, how = self.meant(spelled)
        named = "" if spelled.word.partition("=")[0] == flag else f"it is {how}{flag}; "
        if flag in self.derived:
            return named + self.derived_reason(self.derived[flag]) + self.keys(flag, spelled, following)
        if flag in self.locked:
            group: LockedFlags = self.locked[flag]
            return f"{named}{group.reason}{self.keys(flag, spelled, following)}; {group.remedy}"
        if flag in self.allowed:
            if spelled.flag.startswith("--no-"):
                return f"{named}that is the default; remove it"
            return f"{named}write {flag}, so that the plan says what runs"
        return (
            f"{named}profile {self.profile.name} does not know what it changes; remove it, or have it allowed by the "
            "chart's owner (allowedFlags of a profile in engine.profiles)"
        )

    def derived_reason(self, argument: Argument) -> str:
        """Return why an argument of the plan cannot be given."""
        value = "" if argument.value is None else f" {argument.value}"
        if argument.value in FIELDS:
            return f"{argument.reason}; set {FIELDS[argument.value]} instead"
        pinned = (argument.flag + value).replace("{{", "{").replace("}}", "}")
        return f"profile {self.profile.name} sets {pinned}: {argument.reason}; remove it"

    def keys(self, flag: str, spelled: Spelling, following: list[str]) -> str:
        """Return what is known of the JSON keys that are set."""
        flag = {"-cc": "--compilation-config"}.get(flag, flag)
        names = [spelled.path.partition(".")[0]] if spelled.path else []
        for text in (spelled.value, *following):
            try:
                content = json.loads(text or "")
            except (ValueError, RecursionError):
                continue
            names += content if isinstance(content, dict) else []
        words = [
            f" ({name}: {group.reason})"
            for name in names
            for group in self.profile.locked_keys
            if group.flag == flag and name.rstrip("+") in group.keys
        ]
        return "".join(words)

    def meant(self, spelled: Spelling) -> tuple[str, str]:
        """Return the flag that the parser would take this for, and how it is spelled."""
        known = [*self.derived, *self.locked, *self.allowed, *SERVING_FLAGS]
        if spelled.flag == "-O":
            return "--optimization-level", "a spelling of "
        for flag in (spelled.flag, base(spelled.flag) if spelled.flag.startswith("--") else spelled.flag):
            if flag in known:
                return flag, "another spelling of "
        if not spelled.flag.startswith("--"):
            # argparse takes -tp8 for -tp 8.
            short = [flag for flag in known if not flag.startswith("--") and spelled.flag.startswith(flag)]
            return (max(short, key=len), "another spelling of ") if short else (spelled.flag, "")
        longer = sorted(flag for flag in known if flag.startswith((spelled.flag, base(spelled.flag))))
        locked = [flag for flag in longer if flag not in self.allowed]
        return ((locked or longer)[0], "an abbreviation of ") if longer else (spelled.flag, "")


def _value_problem(allowed: AllowedFlag, spelled: Spelling, following: list[str]) -> str | None:
    """Return what is wrong with the value of an allowed flag, or None."""
    given = [*([] if spelled.value is None else [spelled.value]), *following]
    if allowed.takes == "Nothing":
        return f"it takes no value, and has {_shown(given[0])}; remove the value" if given else None
    if len(given) != 1:
        return f"it takes one value, and has {len(given)}; write {allowed.flag}=VALUE"
    if allowed.values is not None and given[0] not in allowed.values:
        return f"its value {_shown(given[0])} is none of {', '.join(allowed.values)}; use one of them"
    return None


def refused_variables(variables: Sequence[EnvironmentVariable], profile: Profile) -> list[Problem]:
    """Return what is wrong with ``engine.env``."""
    found = []
    seen: set[str] = set()
    for position, item in enumerate(variables):
        remedy = _variable_reason(item.name, profile)
        if item.name in seen:
            remedy = "it stands there twice; keep one"
        elif "\0" in item.value:
            remedy = "no process can have a variable with a null character; remove it"
        seen.add(item.name)
        if remedy:
            found.append(Problem(f"spec.engine.env[{position}].name", _shown(item.name), remedy))
    return found


def _variable_reason(name: str, profile: Profile) -> str | None:
    for variable in profile.variables:
        if variable.name == name:
            return f"profile {profile.name} sets it to {variable.value}: {variable.reason}; remove it"
    for unset in profile.unset:
        if unset.name == name:
            return f"profile {profile.name} keeps it unset: {unset.reason}; remove it"
    for own in profile.pod_variables:
        if own.name == name:
            return f"the pod sets it: {own.reason}; remove it"
    if any(item.name == name for item in profile.allowed_variables):
        return None
    if found := [group for group in profile.unrecorded_variables if unrecorded(name, "", group.names)]:
        return f"each pod has its own: {found[0].reason}; remove it"
    if locked := profile.locked_variable(name):
        return f"{locked.reason}; {locked.remedy}"
    return (
        f"profile {profile.name} does not know what it changes; remove it, or have it allowed by the chart's owner "
        "(allowedVariables of a profile in engine.profiles)"
    )


def _shown(text: str) -> str:
    return repr(text) if len(text) <= SHOWN else repr(text[:SHOWN] + "...")
