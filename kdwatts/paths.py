"""Where the package's own folders are, from a checkout and from a wheel alike."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent

TINY_DIR = PACKAGE_DIR / "tiny"
"""The world that ships with the package: corpus, tokenizer, teacher and held-out tasks."""


def conf_dir() -> Path:
    """The folder of Hydra groups: in a wheel it lies in the package, in a checkout beside it."""
    for candidate in (PACKAGE_DIR / "conf", PACKAGE_DIR.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise RuntimeError(
        f"kdwatts: no conf/config.yaml in {PACKAGE_DIR} or beside it; reinstall the package"
    )


def resolve_dir(path: str) -> Path:
    """The directory a configuration names: `tiny:NAME` is in the package, the rest is as given."""
    if path.startswith("tiny:"):
        return TINY_DIR / path.removeprefix("tiny:")
    return Path(os.path.expandvars(path)).expanduser()
