"""Where the parts of a baseline are written, and how a command is asked so that it answers alike.

A command runs in a folder of its own and is given relative names, so that neither the place of the
baseline nor that of the repository stands in what it prints; where one does, a word replaces it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]

FIXED = {
    "PYTHONPATH": str(REPOSITORY),
    "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "passive",
    # Sums of floats depend on how many threads share them.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # argparse breaks its lines at the width of the terminal.
    "COLUMNS": "80",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
}
LEFT_OUT = ("SLURM_", "KDWATTS_", "HYDRA_", "CUDA_", "NVML_", "HF_", "OMP_", "TORCHELASTIC_")
"""Beginnings of variables that would change what a command does."""

BROWSERS_NOISE = re.compile(
    r"^JSONError decoding message\. Ignoring\nTraceback .*?^choreographer\S*JSONError\n\n?",
    re.M | re.S,
)
"""What the library that drives a browser for figures as SVG writes now and then, and ignores."""


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str

    def __str__(self) -> str:
        """A page with all of it, to be compared line by line."""
        return (
            f"$ python {' '.join(self.words)}\nexit code {self.code}\n"
            f"\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
        )


def environment(place: Path) -> dict[str, str]:
    """The variables of every command; `place` holds an empty cache of the hub."""
    kept = {name: v for name, v in os.environ.items() if not name.startswith(LEFT_OUT)}
    return kept | FIXED | {"HF_HOME": str(place / "hf_home")}


def ask(words: Sequence[str], place: Path, **more: str) -> Answer:
    """What `python WORDS` answers in the folder `place`; `more` are variables."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env=environment(place) | more,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    err = BROWSERS_NOISE.sub("", done.stderr)
    out, err = (without_places(text, place) for text in (done.stdout, err))
    return Answer(tuple(words), done.returncode, out, err)


def must(words: Sequence[str], place: Path, **more: str) -> Answer:
    """As `ask`; raises RuntimeError with what it said where it fails."""
    answer = ask(words, place, **more)
    if answer.code:
        raise RuntimeError(str(answer))
    return answer


def without_places(text: str, place: Path) -> str:
    """The text with a word for the folder it was written in and for the repository."""
    names = {str(place.resolve()): "<PLACE>", str(place): "<PLACE>"}
    names |= {str(REPOSITORY.resolve()): "<REPOSITORY>", sys.prefix: "<PYTHON>"}
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, names[name])
    return text


def masked(text: str) -> str:
    """A sentence with a sign for every number, for what is told of time and energy.

    Keys and names of runs keep their digits.
    """
    return re.sub(r"(?<![\w.-])\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?!\w|\.\d|-\w)", "#", text)


def fresh(folder: Path) -> Path:
    """The folder, emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.endswith("\n") else f"{text}\n", "utf-8")


def write_json(path: Path, value: Any) -> None:
    """Every float in full; keys in the order in which they came, as files of users have them."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as JSON lines."""
    write_text(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def options(group: str) -> list[str]:
    """Names of the option files of a group, in order."""
    folder = REPOSITORY / "conf" / group
    return sorted(path.stem for path in folder.glob("*.yaml"))
