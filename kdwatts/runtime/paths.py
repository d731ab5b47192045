"""Where the package's own folders are, in a checkout and in a wheel."""

from __future__ import annotations

import os
import re
from argparse import ArgumentTypeError
from datetime import datetime
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parents[1]

TINY_DIR = PACKAGE_DIR / "tiny"
"""The world that ships with the package: corpus, tokenizer, teacher and held-out tasks."""


def conf_dir() -> Path:
    """The folder of Hydra groups: inside the package in a wheel, beside it in a checkout."""
    for candidate in (PACKAGE_DIR / "conf", PACKAGE_DIR.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise RuntimeError(
        f"kdwatts: no conf/config.yaml in {PACKAGE_DIR} or beside it; reinstall the package"
    )


def resolve_dir(path: str) -> Path:
    """The file or folder that a setting names. `tiny:NAME` is in the package.

    In all other paths `~`, `~USER`, `$NAME` and `${NAME}` are replaced. A relative path starts
    where the command was started. Raises ValueError where nothing is named.
    """
    if path.startswith("tiny:"):
        return TINY_DIR / path.removeprefix("tiny:")
    return Path(expanded(path))


def expanded(path: str) -> str:
    """A path as text, with `~` and variables replaced. The bare name of a program stays as it is.

    Raises ValueError for an empty path, and for a variable or a user that does not exist.
    """
    if problem := _problem(path):
        raise ValueError(f"{path!r} {problem}")
    return os.path.expanduser(os.path.expandvars(path))


def check_path(key: str, path: str | None) -> None:
    """Raise ValueError, which names the setting, for a path that names nothing. None is allowed."""
    if path is not None and (problem := _problem(path)):
        raise ValueError(f"{key}={path} {problem}")


def argument_path(path: str) -> Path:
    """A path of a command line, for argparse: it is read as paths of a configuration are."""
    try:
        return Path(expanded(path))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})", re.ASCII)
"""As os.path.expandvars reads it, which leaves in place what it does not know."""


def _problem(path: str) -> str | None:
    """Why a path names nothing, and what to do; None where it does."""
    if not path.strip():
        return "is empty; give a path, or . for the folder where the command is started"
    for found in _VARIABLE.finditer(path):
        name = found[1] or found[2]
        if not os.environ.get(name):
            state = "empty" if name in os.environ else "not set"
            return f"refers to the environment variable {name}, which is {state}; set it"
    text = os.path.expandvars(path)
    if text.startswith("~") and os.path.expanduser(text) == text:
        user = text.partition(os.sep)[0]
        return f"begins with {user}, and there is no such user; write ./{user} for a name"
    return None


def new_dated_dir(parent: Path) -> Path:
    """A new folder named by date and time, nobody else's even when many start at once."""
    now = datetime.now()
    day_dir = parent / now.strftime("%Y-%m-%d")
    day_dir.mkdir(parents=True, exist_ok=True)
    name, number = now.strftime("%H-%M-%S"), 1
    while True:
        folder = day_dir / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
