"""The YAML files of conf/: what they say on top, and what they set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from docs.generate.class_fields import REPOSITORY

CONF = REPOSITORY / "conf"

OF_THE_SCREEN = {"hydra/help", "hydra/hydra_logging", "hydra/job_logging"}
"""Folders that say how help and log lines look, of which nobody chooses."""


def option_paths() -> list[Path]:
    """The files of all groups in which one chooses."""
    return [
        path
        for path in sorted(CONF.glob("*/**/*.yaml"))
        if path.parent.relative_to(CONF).as_posix() not in OF_THE_SCREEN
    ]


def content_of(file: str) -> dict[str, Any]:
    """What a file sets; a reference such as `${gpu.gres}` stays as it is written."""
    content = OmegaConf.to_container(OmegaConf.load(CONF / file))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def head_and_rest(file: str) -> tuple[list[str], str]:
    """The lines of the comment on top without their `#`, and the text below it."""
    lines = (CONF / file).read_text("utf-8").splitlines()
    length = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    head = [line.removeprefix("#").strip() for line in lines[:length]]
    return [line for line in head if not line.startswith("@package")], "\n".join(lines[length:])
