"""What the analysis makes of a frozen sweep and of recorded H100 runs: every table and sentence."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd

from tests.bench.baselines.pages import write_page
from tests.bench.baselines.places import (
    REPOSITORY,
    ask,
    fresh,
    must,
    without_places,
    write_json,
    write_text,
)

SWEEP = ("paradigm=sft,response,feature,relational", "training.seed=0,1", "gpu=cpu")
"""Two seeds, so that there is something to average and an interval to draw."""
ANALYSIS = ("-m", "multirun_analysis")
THEN = "2026-01-01T00:00:00+00:00"
"""When the records were imported, as far as the analysis knows."""
LONG = 1_000_000
"""Bytes of a table from which on its SHA-256 alone is kept."""


def make_sweep(sweep_dir: Path) -> None:
    """Run the sweep that is analysed, where it is not there; its store lies beside it."""
    if sweep_dir.is_dir():
        return
    sweep_dir.parent.mkdir(parents=True, exist_ok=True)
    places = (f"hydra.sweep.dir={sweep_dir.name}", f"store_dir={sweep_dir.name}_store")
    must(["-m", "kdwatts", "-m", *SWEEP, *places], sweep_dir.parent)


def make(folder: Path, work_dir: Path, sweep_dir: Path | None) -> None:
    """Write the analysis of a copy of the sweep, where one is given, and of the H100 runs."""
    fresh(work_dir)
    _import_h100(folder / "import", work_dir)
    _analyse(folder / "h100", work_dir, "h100")
    if sweep_dir is not None:
        shutil.copytree(sweep_dir, work_dir / "sweep", ignore=shutil.ignore_patterns("analysis"))
        _analyse(folder / "sweep", work_dir, "sweep")


def _import_h100(folder: Path, work_dir: Path) -> None:
    shutil.copytree(REPOSITORY / "tests" / "h100_runs", work_dir / "recorded")
    answer = ask([*ANALYSIS, "import", "recorded", "--out", "h100"], work_dir)
    write_text(folder / "said.txt", str(answer))
    for path in sorted((work_dir / "h100").rglob("*.json*")):
        name = path.relative_to(work_dir / "h100").as_posix()
        text = re.sub(r'(?<="time_utc": )"[^"]*"', f'"{THEN}"', path.read_text("utf-8"))
        if path.suffix == ".json":
            path.write_text(text, "utf-8")
        text = without_places(text, work_dir)
        if path.name == "telemetry.jsonl":
            write_text(folder / f"{name} sha256.txt", _sha256(text.encode()))
        elif path.suffix == ".json":
            write_json(folder / name, json.loads(text))
        else:
            write_text(folder / name, text)


def _analyse(folder: Path, work_dir: Path, name: str) -> None:
    out = f"analysis_of_{name}"
    pages = {
        "research": ("--readme", f"readme_of_{name}"),
        "provider": ("--profile", "provider"),
        "esg": ("--profile", "esg"),
        "esg in france": ("--profile", "esg", "--site", "france", "--tokens-per-day", "5e6"),
    }
    for page, words in pages.items():
        answer = ask([*ANALYSIS, name, "--out", out, *words], work_dir)
        write_text(folder / f"said of {page}.txt", str(answer))
        # The last line of what it prints is the page, which each profile has under its own name.
        path = work_dir / answer.out.split()[-1]
        _write_html(folder / "pages", page, path, work_dir)
        _write_tables(folder / f"tables of {page}", work_dir / out)
    shutil.copytree(work_dir / f"readme_of_{name}", folder / "readme")
    _write_frames(folder / "collected", work_dir / out, work_dir)
    asked = {
        "choose": ("choose", name, "--tokens-per-day", "1e9"),
        "choose json": ("choose", name, "--tokens-per-day", "1e9", "--json"),
        "choose much": ("choose", name, "--tokens-per-day", "1e7", "--min-kept", "0.9", "--strict"),
        "choose in sweden": ("choose", name, "--tokens-per-day", "1e12", "--site", "sweden"),
        "status": ("status", name),
        "status json": ("status", name, "--json"),
    }
    for title, words in asked.items():
        write_text(folder / f"{title}.txt", _without_dates(str(ask([*ANALYSIS, *words], work_dir))))


def _write_html(folder: Path, name: str, path: Path, work_dir: Path) -> None:
    write_page(folder, name, without_places(path.read_text("utf-8"), work_dir))


def _write_tables(folder: Path, out_dir: Path) -> None:
    """The tables that a reader downloads, as they are."""
    for path in sorted(out_dir.glob("tables/*")):
        write_text(folder / path.name, path.read_text("utf-8"))


def _write_frames(folder: Path, out_dir: Path, work_dir: Path) -> None:
    """The collected tables with all digits, and the names of all that was written."""
    names = sorted(path.relative_to(out_dir).as_posix() for path in out_dir.rglob("*"))
    write_text(folder / "files.txt", "\n".join(names))
    for path in sorted(out_dir.glob("*.parquet")):
        text = without_places(pd.read_parquet(path).to_csv(index=False), work_dir)
        if len(text) > LONG:
            write_text(folder / f"{path.stem} sha256.txt", _sha256(text.encode()))
        else:
            write_text(folder / f"{path.stem}.csv", text)
    for path in sorted(out_dir.glob("*.csv")):
        text = without_places(path.read_text("utf-8"), work_dir)
        write_text(folder / f"as given {path.name}", text)


def _without_dates(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00|Z)", "<TIME>", text)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
