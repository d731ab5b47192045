"""Errors of Hydra, OmegaConf and the operating system as one sentence, and printing it."""

from __future__ import annotations

import dataclasses
import difflib
import errno
import re
import socket
import sys
import typing
from collections.abc import Iterator
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    ConfigTypeError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from pynvml import NVMLError
from safetensors import SafetensorError
from yaml import MarkedYAMLError, YAMLError

from kdwatts.cli.overrides import LAUNCHERS, unread
from kdwatts.config.experiment import Config
from kdwatts.runtime.interrupt import Preempted
from kdwatts.runtime.ranks import launched

EXPECTED = (
    ValueError,
    RuntimeError,
    OSError,
    Preempted,
    SafetensorError,
    NVMLError,
    YAMLError,
    HydraException,
    OmegaConfBaseException,
)
"""Their own words say what to do. Every other error is a fault, of ours or of a library."""


def in_one_sentence(error: BaseException) -> str:
    """What was asked, what was found, what to do; on one line."""
    cause = _omegaconf_cause(error)
    if names_a_null_part(error):
        return (
            "a file of conf/ sets a key of a part that is null in the options chosen; choose "
            "options that have the part, or another file"
        )
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key or _first_line(error)} has no value; give one on the command line"
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        key = str(cause.full_key or cause.key)
        return _unknown_in_list(key, cause.object_type) or _unknown_key(key)
    if isinstance(cause, InterpolationResolutionError):
        return _unresolved(cause)
    if isinstance(cause, OmegaConfBaseException):
        found = _lower(_first_line(cause)).rstrip(".")
        return f"{cause.full_key}: {found}; give a value of that type"
    if isinstance(error, OverrideParseException):
        return unread(error.override)
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return (
            f"{mark.name} is no YAML: {error.problem} in line {mark.line + 1}, column "
            f"{mark.column + 1}; correct that line"
        )
    if found := re.match(r"In '(.+?)': \w+ raised while composing config:\n(.+)", str(error)):
        return _in_file(found[1], str(error), found[2])
    if several := re.search(
        r"(?:Ambiguous value for argument|Sweep parameters) '(.+?)'(?:\n| requires)", str(error)
    ):
        key, _, values = several[1].partition("=")
        or_list = "" if re.match(r"\w+\(", values) else f", or write a list as '{key}=[{values}]'"
        return (
            f"{several[1]} has several values, and this command is a single run; add -m for a run "
            f"of each{or_list}"
        )
    if isinstance(error, RecursionError):
        return (
            "a defaults list names its own file, or two name each other, so the settings have no "
            "end; take that entry out"
        )
    if isinstance(error, HydraException | ValueError) and (
        said := _of_defaults_list(_words(error))
    ):
        return said
    if isinstance(error, HydraException):
        return " ".join(str(error).split())
    if isinstance(error, SafetensorError) and "No space left" in str(error):
        return _disk_full()
    if isinstance(error, OSError) and error.errno is not None:
        return _system(error)
    words, kind = " ".join(str(error).split()), type(error).__name__
    if kind == "OutOfMemoryError":  # Torch's, which is not imported here; it says a paragraph.
        asked = re.search(r"Tried to allocate ([\d.]+ \w+)", words)
        return (
            f"the GPU has no room for {asked[1] if asked else 'what this stage needs'}; lower "
            "training.micro_batch, eval.batch_size or eval.inference.batch_sizes, whichever the "
            "stage reads, or choose a larger GPU"
        )
    return (words if isinstance(error, EXPECTED) else f"{kind}: {words}") if words else kind


def _words(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


def _of_defaults_list(words: str) -> str | None:
    """What is wrong with the defaults list of a file of one's own; None for other words."""
    if found := re.match(r"Could not override '(.+?)'\. ?No match in the defaults list", words):
        return (
            f"{found[1]} is chosen, and the file that the settings begin with lists no {found[1]} "
            "in its defaults; begin that file with `defaults: [config, _self_]`"
        )
    if found := re.match(r"(\S+) appears more than once in the final defaults list", words):
        return (
            f"{found[1]} appears more than once in the defaults lists; write `override {found[1]}: "
            "OPTION` in the list of your file"
        )
    if found := re.match(r"Invalid defaults list in '(.+?)', (.+)", words):
        return f"{found[1]}.yaml: {found[2]}; write `defaults: [config, _self_]`"
    return None


def _in_file(name: str, text: str, fault: str) -> str:
    """A fault of an option's file, which Hydra words in several lines."""
    key = re.search(r"full_key: (\S+)", text)
    if key and "not in" in fault:
        return f"{name}.yaml: {_unknown_key(key[1])}"
    place = f"{key[1]}: " if key else ""
    return f"{name}.yaml: {place}{_lower(fault).rstrip('.')}; correct that file"


def print_sentence(sentence: str, rank: int | None = None) -> None:
    """Print to stderr what stopped a command, and which of several ranks says so.

    `rank` is None for that of this process. The first rank is not named.
    """
    ranks = launched()
    node = f" on {socket.gethostname()}" if ranks.nodes > 1 else ""
    place = f" rank {ranks.rank}{node}:" if (ranks.rank if rank is None else rank) else ""
    print(f"kdwatts:{place} {sentence}", file=sys.stderr)


def names_a_null_part(error: BaseException) -> bool:
    """Whether paradigm.feature.weight=1 was set where paradigm.feature is null."""
    error = _omegaconf_cause(error) or error
    if isinstance(error, ConfigTypeError):  # 2.4
        return str(error).startswith("Cannot set") and "is None" in str(error)
    return isinstance(error, AttributeError | AssertionError) and "NoneType" in str(error)  # 2.3


def _omegaconf_cause(error: BaseException | None) -> OmegaConfBaseException | None:
    while error is not None:
        if isinstance(error, OmegaConfBaseException):
            return error
        error = error.__cause__
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _unknown_option(error: MissingConfigException) -> str:
    missing = error.missing_cfg_file or ""
    if "/" not in str(missing):
        return (
            f"a defaults list names {missing}, and there is no {missing}.yaml in the folders of "
            "options; correct the list, or name the folder of that file by --config-dir"
        )
    # What is asked for may be written like a path; only Hydra's own groups have a / in them.
    parts = str(missing).split("/")
    depth = 2 if parts[0] == "hydra" else 1
    group, option = "/".join(parts[:depth]), "/".join(parts[depth:]) or parts[-1]
    options = LAUNCHERS if group == "hydra/launcher" else sorted(error.options or [])
    asked = f"{group or 'config'}={option}"
    if not options:
        return f"{asked}, which the defaults list of a file names, is unknown; correct that list"
    return f"{asked} is unknown; choose one of {', '.join(options)}"


def _unknown_key(full_key: str) -> str:
    """Names the keys that the schema has where the unknown one was looked for."""
    parent: Any = Config
    path = full_key.split(".")
    if path[0] == "hydra":
        return (
            f"{full_key} is unknown among Hydra's settings of this command; --cfg hydra shows "
            "them, and hydra/launcher=slurm adds those of Slurm"
        )
    for depth, name in enumerate(path):
        names = [field.name for field in dataclasses.fields(parent)]
        if name not in names:
            where = ".".join(path[:depth]) or "the configuration"
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            return f"{full_key} is unknown; {hint}{where} has {', '.join(names)}"
        parent = _dataclass_of(typing.get_type_hints(parent)[name])
        if parent is None:
            break
    return f"{full_key} is unknown; see --cfg job for the keys"


def _unknown_in_list(key: str, owner: Any) -> str | None:
    """As `_unknown_key`, of a key in an entry of a list, from where the key is told to begin.

    `owner` is the dataclass that lacks it; None where no list has such entries.
    """
    for place, entry in _lists_of(Config):
        path, reached = key.split("."), entry
        for name in path[:-1]:
            reached = _dataclass_of(typing.get_type_hints(reached).get(name)) if reached else None
        if reached is owner:
            names = [field.name for field in dataclasses.fields(owner)]
            near = difflib.get_close_matches(path[-1], names, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            return f"{key} is unknown in an entry of {place}; {hint}it has {', '.join(names)}"
    return None


def _lists_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name of every list of dataclasses below a group of settings, and their class."""
    for name, hint in typing.get_type_hints(group).items():
        if part := _dataclass_of(hint):
            is_list = typing.get_origin(hint) is list
            yield from [(prefix + name, part)] if is_list else _lists_of(part, f"{prefix}{name}.")


def _dataclass_of(hint: Any) -> Any:
    for candidate in (hint, *typing.get_args(hint)):
        if dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _unresolved(error: InterpolationResolutionError) -> str:
    """What a `${...}` refers to in vain, and how a variable of the environment is written."""
    found = f"{error.full_key} refers to what is not there: {_lower(_first_line(error))}"
    if isinstance(error, InterpolationKeyError):
        return f"{found}; a key is ${{group.key}}, an environment variable ${{oc.env:NAME}}"
    if variable := re.search(r"Environment variable '(.*?)'", str(error)):
        name = variable[1]
        return (
            f"{error.full_key} refers to the environment variable {name}, which is not set; set "
            f"it, or write ${{oc.env:{name},VALUE}} for a value without it"
        )
    return found


def _disk_full(place: str | None = None) -> str:
    where = f" at {place}" if place else ""
    return f"the disk is full{where}; free space or set store_dir to another disk, and rerun"


def _system(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(error.filename)
    if error.errno == errno.EPIPE:
        return "nobody reads what this wrote to any more (broken pipe); run it again with a reader"
    if error.errno == errno.ENOENT and error.filename is None:  # os.getcwd names no file.
        return "the folder in which the command is started was removed; go to one that exists"
    match = re.sub(r"^\[Errno \d+\] ", "", str(error))
    return f"{_lower(match)}; check that the path exists and may be written"
