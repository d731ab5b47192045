"""The overrides of a command: parsed as Hydra does, and refused in a sentence where it cannot."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from kdwatts.runtime.paths import conf_dir

FUNCTIONS = "choice, range, interval, glob, shuffle, sort, tag, extend_list or a cast"

MAY_BE_DELETED = ("hydra", "local", "experiment")
"""What is left without them is whole: nothing of the schema is theirs."""

OF_ONE_RUN = ("hydra.run.",)
OF_A_SWEEP = (
    "hydra.sweep.",
    "hydra.sweeper.",
    "hydra.launcher.",
    "hydra/launcher",
    "hydra/sweeper",
)
"""Settings that Hydra accepts for the other kind of command, too, and then reads nothing of."""

OF_A_LAUNCHER = ("cluster.", "launch.", "gpu.partition", "gpu.gres")

LAUNCHERS = ("basic", "slurm")
"""Hydra finds others, which would have runs beside each other under meters of one machine."""


def parsed(words: Sequence[str]) -> list[Override]:
    """The overrides of a command. Raises OverrideParseException for what Hydra cannot read."""
    return OverridesParser.create().parse_overrides(list(words))


def unread(word: str) -> str:
    """What is wrong with a word that Hydra cannot read as an override, and what helps."""
    key, equals, value = word.partition("=")
    if value.endswith(",") and value[:1] not in ("[", "{"):
        return f"{word!r} ends with a comma; write the values without blanks, as group.key=a,b"
    if value.startswith("="):
        return f"{word!r} has two = in a row; write group.key=value"
    if equals and re.fullmatch(r"\w+\(.*\)", value):
        return (
            f"{word!r} calls a function that Hydra does not know, or calls it wrongly; correct "
            f"what is in brackets, or call one of {FUNCTIONS}"
        )
    if equals and value[:1] in ("[", "{"):
        return (
            f"{word!r} is a list or a mapping that is not closed; close it, and put the whole in "
            "quotes, because the shell splits it at blanks: 'group.key={a: 1, b: 2}'"
        )
    # Of several values each is quoted: one in quotes is one value.
    helps = f"{key}={','.join(map(quoted, value.split(',')))}"
    if equals and _is_read(helps):
        for_shell = shlex.quote(helps) if re.search(r'["$`\\!]', helps) else f'"{helps}"'
        return (
            f"{word!r} has a character in its value that Hydra reads only in quotes, such as ~ or "
            f"= or ü; quote the value, and the whole for the shell: {for_shell}"
        )
    return f"{word!r} is no setting; write group.key=value"


def quoted(text: str) -> str:
    """A text as Hydra reads it back: in quotes, those in it and what escapes them escaped."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def _is_read(word: str) -> bool:
    try:
        parsed([word])
    except HydraException:
        return False
    return True


def check_words(words: Sequence[str]) -> None:
    """Raise ValueError for words that Hydra reads, and that say nothing of the schema's keys."""
    for word, item in zip(words, parsed(words), strict=True):
        key = item.key_or_group
        if not key:
            raise ValueError(f"{word!r} names no key; write group.key=value")
        if item.is_delete() and not key.startswith(MAY_BE_DELETED):
            raise ValueError(
                f"{word} would delete a setting, and kdwatts reads every setting; give another "
                "value, or null where null is allowed"
            )


def check_kind(words: Sequence[str], asked: DictConfig, *, is_sweep: bool) -> None:
    """Raise ValueError for a setting that this kind of command would accept and not read.

    `asked` is the composed command with Hydra's own settings.
    """
    kind, other = ("a sweep", "a single run") if is_sweep else ("a single run", "a sweep")
    if asked.hydra.job.chdir:
        raise ValueError(
            "hydra.job.chdir=true would read relative paths from the run's folder; leave it out, "
            "kdwatts reads them from the folder where the command is started"
        )
    launcher = str(asked.hydra.runtime.choices.get("hydra/launcher"))
    if launcher not in LAUNCHERS:
        raise ValueError(
            f"hydra/launcher={launcher} is not supported; choose hydra/launcher=slurm, or leave it "
            "out to run the sweep on this machine"
        )
    subdir = OmegaConf.to_container(asked.hydra, resolve=False)["sweep"]["subdir"]  # pyright: ignore
    if is_sweep and "${hydra" not in subdir:
        raise ValueError(
            f"hydra.sweep.subdir={subdir} is one folder for all runs of the sweep; put "
            "${hydra.job.num} into it, or leave it out"
        )
    if launcher != "basic" and not is_sweep:
        raise ValueError(
            f"hydra/launcher={launcher} sends the runs of a sweep, and this command is {kind}, "
            "which would start here; add -m, or choose hydra/launcher=basic to run it here"
        )
    items = list(zip(words, parsed(words), strict=True))
    # Who names both folders has said where this command goes, whichever it is.
    own = f"hydra.{'sweep' if is_sweep else 'run'}.dir"
    is_told = any(item.key_or_group == own for _, item in items)
    foreign = tuple(
        prefix
        for prefix in (OF_ONE_RUN if is_sweep else OF_A_SWEEP)
        if not (is_told and prefix in ("hydra.run.", "hydra.sweep."))
    )
    for word, item in items:
        key = item.key_or_group
        if key.startswith(foreign) and item.value() != "basic":
            advice = "give hydra.sweep.dir" if is_sweep else "add -m, or give hydra.run.dir"
            raise ValueError(f"{word} is for {other}, and this command is {kind}; {advice}")
        if key.startswith(OF_A_LAUNCHER) and launcher == "basic":
            raise ValueError(
                f"{word} is a setting for Slurm, and this command runs on this machine; add "
                "hydra/launcher=slurm and -m, or leave it out"
            )


def null_part(words: Sequence[str], base: DictConfig, *, is_swept: bool) -> str | None:
    """Which of the words sets a key of a part that is null, and what to choose; None if none does.

    `base` is the command composed without its words of more than a group, and with Hydra's own.
    """
    for word, item in zip(words, parsed(words), strict=True):
        names = item.key_or_group.split(".")
        # A mapping is merged into what is there, so that its own place must not be null either.
        depth = len(names) + isinstance(item.value(), dict)
        for end in range(2, depth):
            part = ".".join(names[:end])
            above = OmegaConf.select(base, ".".join(names[: end - 1]))
            if not isinstance(above, DictConfig) or names[end - 1] not in above:
                break
            if above[names[end - 1]] is None:
                chosen = f"{names[0]}={base.hydra.runtime.choices.get(names[0])}"
                what = f"a key of {part}" if end < len(names) else f"{part} as a whole"
                advice = _advice(names[:end], is_swept)
                return f"{word} sets {what}, which is null in {chosen}; {advice}"
    return None


def _advice(names: list[str], is_swept: bool) -> str:
    group, *inner = names
    folder = conf_dir() / group
    files = {path.stem: OmegaConf.load(path) for path in sorted(folder.glob("*.yaml"))}
    having = [name for name, tree in files.items() if OmegaConf.select(tree, ".".join(inner))]
    if not having or inner[-1] == "rope_scaling":
        return f"write {'.'.join(inner)} into an option's file in conf/{group}, and choose that"
    *others, last = having
    choose = f"choose {group}={', '.join(others)} or {last}" if others else f"choose {group}={last}"
    if is_swept:
        choose += ", which have it, and leave the others to a command of their own"
    return choose
