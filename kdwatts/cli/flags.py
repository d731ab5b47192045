"""The flags of a command line, which are Hydra's, refused in a sentence where they are not."""

from __future__ import annotations

import difflib
import re
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from kdwatts.runtime.paths import conf_dir

HELP = "`python -m kdwatts --help` shows how a command is written"


@dataclass(frozen=True)
class ConfigFile:
    """The file that a command's settings begin with, and where its groups are looked for."""

    folder: Path = field(default_factory=conf_dir)
    name: str = "config"
    added_dir: str | None = None
    """That of --config-dir: its options win over those of `folder`."""


def parse(words: list[str]) -> Namespace:
    """The flags and overrides of a command line. Raises ValueError for a flag that there is not."""
    parser = get_args_parser()
    flags = [flag for flag in parser._option_string_actions if flag.startswith("--")]

    def refuse(message: str) -> NoReturn:
        raise ValueError(_refusal(message, flags))

    parser.error = refuse
    return ArgumentParser.parse_intermixed_args(parser, words)


def _refusal(message: str, flags: list[str]) -> str:
    """What argparse says, as one sentence that says what to do."""
    if unknown := re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.DOTALL):
        near = difflib.get_close_matches(unknown[1].partition("=")[0], flags, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"{unknown[1]} is no flag of kdwatts; {hint}{HELP}"
    if found := re.fullmatch(r"argument (\S+?)(?:/\S+)?: (.*)", message, re.DOTALL):
        return f"{found[1]}: {found[2]}; {HELP}"
    return f"{message}; {HELP}"


def config_file(arguments: Namespace) -> ConfigFile:
    """The file that --config-name and --config-path name, conf/config.yaml without them.

    Raises ValueError for a folder or a file that is not there.
    """
    found = ConfigFile(added_dir=arguments.config_dir)
    for flag, folder in (
        ("--config-dir", arguments.config_dir),
        ("--config-path", arguments.config_path),
    ):
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(
                f"{flag}={folder} names no folder; give a folder that is there, or leave {flag} out"
            )
    if arguments.config_path is not None:
        found = ConfigFile(Path(arguments.config_path).absolute(), added_dir=found.added_dir)
    name = (arguments.config_name or found.name).removesuffix(".yaml")
    folders = [found.folder, *([Path(found.added_dir)] if found.added_dir else [])]
    if not any((folder / f"{name}.yaml").is_file() for folder in folders):
        flag = "--config-path" if arguments.config_name is None else "--config-name"
        given = arguments.config_path if arguments.config_name is None else arguments.config_name
        raise ValueError(
            f"{flag}={given} needs a file {name}.yaml, and there is none in "
            f"{' or '.join(map(str, folders))}; leave {flag} out to begin with the settings of "
            "kdwatts, or write that file"
        )
    return ConfigFile(found.folder, name, found.added_dir)
