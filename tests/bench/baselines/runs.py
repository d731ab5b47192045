"""Runs of every paradigm on the tiny pair, of one rank and of two, without what a clock tells.

All is built in stores of their own. Left out of what is written: times, joules and what is computed
from them, which no two runs have alike; their keys stay, with the word `measured` for a number.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.baselines.places import (
    fresh,
    masked,
    must,
    options,
    without_places,
    write_json,
    write_table,
    write_text,
)

SETTINGS = ("training=smoke", "training.seed=0", "gpu=cpu", "telemetry.idle_s=0")
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SHARED = ("training.micro_batch=8", "training.accumulation=2")
"""The rows of a step, which two ranks can share."""

DENSE = ("paradigm=response", "paradigm.response.support=dense")
VARIANTS = {
    "divergences": (
        *DENSE,
        "paradigm.response.divergence=forward_kl,reverse_kl,jsd,skew_kl,skew_reverse_kl,"
        "total_variation",
        "paradigm.response.temperature=1.0,2.0",
    ),
    "supports": (
        "paradigm=response",
        "paradigm.response.support=sampled,top_k",
        "paradigm.response.temperature=2.0",
    ),
    "features": (
        "paradigm=feature",
        "paradigm.feature.distance=mse,cosine",
        "paradigm.feature.layers=last,cka",
        "paradigm.feature.projector=mlp",
        "paradigm.feature.positions=16",
    ),
    "cached": (
        "paradigm=combined",
        "paradigm.teacher=cached",
        "training.accumulation=1,2",
        "training.heldout_every=3",
        "training.heldout_tokens=1024",
    ),
    "bf16": (
        "paradigm=combined,attention",
        "training.precision=bf16",
        "training.respect_documents=true",
        "training.gradient_checkpointing=true",
    ),
    "lora": (
        "paradigm=response",
        "model=tiny_half",
        "training=lora",
        "training.sequence_length=64",
        "training.target_tokens=8192",
    ),
}
"""Sweeps over what the paradigms' own files do not choose, of students alone."""

MEASURED = re.compile(
    r"(_|^)(j|j2|s|w|kg|l|usd|utc|seconds)$|_per_(s|j|token)|_j_|_tokens_per_s|duration|^seconds$"
    r"|latency|energy_by_artifact|data_wait|^eff_overall|^(stderr_)?coverage|interval_95|break_even"
    r"|^pid$|^(energy|idle_power|memory|peak)|uncertainty|git_commit|^host$|repeats|build_shares"
)
"""Keys of what time, power or the machine decides."""

OWN = ("artifact.json", "summary.json", "energy.json", "eval.json", "inference.json")
"""Files of the store that hold times and joules beside what they are of."""


def make(folder: Path, work_dir: Path, paradigms: Sequence[str] = ()) -> None:
    """Write what the runs of these paradigms left; all of them, and of two ranks, by default."""
    chosen = ",".join(paradigms or options("paradigm"))
    fresh(work_dir)
    sweep = ("-m", "kdwatts", "-m", f"paradigm={chosen}", *SETTINGS)
    must([*sweep, "until=evaluate", *_places("one", "one")], work_dir)
    _write_runs(folder / "one", work_dir / "runs_one")
    _write_store(folder / "one", work_dir / "store_one")
    if paradigms:
        return
    must([*TWO, *sweep, *SHARED, "until=distill", *_places("two", "two")], work_dir)
    _write_runs(folder / "two", work_dir / "runs_two")
    _write_store(folder / "two", work_dir / "store_two")
    for name, words in VARIANTS.items():
        # What is given later wins: a sweep's own training is another one.
        given = (*SETTINGS, "until=distill", *words)
        must(["-m", "kdwatts", "-m", *given, *_places(name, "variants")], work_dir)
        _write_runs(folder / "variants" / name, work_dir / f"runs_{name}")
    _write_store(folder / "variants", work_dir / "store_variants")
    # Serving, which takes its time, of one student alone.
    served = ("-m", "kdwatts", "paradigm=response", *SETTINGS)
    must([*served, "store_dir=store_one", "hydra.run.dir=served/response"], work_dir)
    _write_run(folder / "served", work_dir / "served" / "response")


def _places(name: str, store: str) -> tuple[str, str]:
    return f"store_dir=store_{store}", f"hydra.sweep.dir=runs_{name}"


def _write_runs(folder: Path, sweep_dir: Path) -> None:
    for run_dir in sorted(sweep_dir.iterdir()):
        if (run_dir / "status.json").is_file():
            _write_run(folder / run_dir.name, run_dir)


def _write_run(folder: Path, run_dir: Path) -> None:
    """What a run's folder holds, file by file."""
    place = run_dir.parents[1]
    paths = sorted(path for path in run_dir.rglob("*") if path.is_file())
    names = [path.relative_to(run_dir).as_posix() for path in paths]
    write_text(folder / "files.txt", "\n".join(names))
    hashes = {n: _sha256(p) for n, p in zip(names, paths, strict=True) if n.startswith("student/")}
    write_json(folder / "student.json", hashes)
    for path in paths:
        name = path.relative_to(run_dir).as_posix()
        text = "" if name in hashes else without_places(path.read_text("utf-8"), place)
        if name == "train.jsonl":
            rows = [without_measured(json.loads(line)) for line in text.splitlines()]
            write_table(folder / name, rows)
        elif name == "stages.jsonl":
            write_table(folder / name, _windows([json.loads(x) for x in text.splitlines()]))
        elif name in ("eval.json", "metrics.json", "inference.json", "status.json"):
            is_served = name == "inference.json"
            write_json(folder / name, without_measured(json.loads(text), is_served=is_served))
        elif name == "manifest.json":
            write_json(folder / name, _kinds(json.loads(text)))
        elif name.endswith(".yaml"):
            write_text(folder / name.replace("/", " "), text)
        elif name.endswith(".log"):
            said = [masked(line.partition("] - ")[2]) for line in text.splitlines()]
            # Power and energy are told as soon as the sampler has seen some.
            said = [re.sub(r", # (W|\w?J/token)", "", line) for line in said if line]
            write_text(folder / "log.txt", "\n".join(said))


def _windows(rows: list[dict[str, Any]]) -> list[Any]:
    """Rows of stages.jsonl; how often and how long serving is measured is up to the clock.

    So is whether processor time is read in a window in which nothing was built: it is shorter than
    the time from one reading to the next.
    """
    found = []
    for row in rows:
        row["reason"] = {kind: masked(said) for kind, said in row["reason"].items()}
        if row["outcome"] == "reused":
            for column in row.values():
                if isinstance(column, dict):
                    column.pop("cpu", None)
        kept = without_measured(row, is_served=row["window"].startswith("run/inference"))
        if not found or kept != found[-1]:
            found.append(kept)
    return found


def _write_store(folder: Path, store: Path) -> None:
    """Key and settings of every artifact, and the SHA-256 of each file that holds no time."""
    hashes, artifacts, others = {}, [], {}
    for path in sorted(path for path in store.glob("*/*/**/*") if path.is_file()):
        name = path.relative_to(store).as_posix()
        if path.name == "artifact.json":
            record = json.loads(path.read_text("utf-8"))
            kept = ("schema", "stage", "key", "parents", "reads", "settings")
            row = {"of": name} | {key: record[key] for key in kept}
            artifacts.append(row | {"names code": sorted(record["code"]), "keys": sorted(record)})
        elif path.name in OWN:
            others[name] = without_measured(json.loads(path.read_text("utf-8")))
        elif path.name == "train.jsonl":
            lines = path.read_text("utf-8").splitlines()
            others[name] = [without_measured(json.loads(line)) for line in lines]
        else:
            hashes[name] = _sha256(path)
    write_json(folder / "hashes.json", hashes)
    write_table(folder / "artifacts.jsonl", artifacts)
    write_json(folder / "artifacts' own.json", others)


def without_measured(value: Any, *, is_served: bool = False, is_measured: bool = False) -> Any:
    """The value with `measured` for what time, power or the machine decides, below its keys.

    Where serving is measured, tokens are as many as the time allowed.
    """
    if isinstance(value, dict):
        return {
            key: without_measured(
                one,
                is_served=is_served,
                is_measured=is_measured
                or bool(MEASURED.search(key))
                or (is_served and key == "tokens"),
            )
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [
            without_measured(one, is_served=is_served, is_measured=is_measured) for one in value
        ]
    if is_measured and (isinstance(value, float) or type(value) is int or _is_date(value)):
        return "measured"
    return value


def _kinds(value: Any) -> Any:
    """The keys of a record, and the kind of each value: most of a manifest is of the machine."""
    if isinstance(value, dict):
        return {key: _kinds(one) for key, one in value.items()}
    return [_kinds(one) for one in value] if isinstance(value, list) else type(value).__name__


def _is_date(value: Any) -> bool:
    return isinstance(value, str) and bool(re.match(r"\d{4}-\d\d-\d\dT", value))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
