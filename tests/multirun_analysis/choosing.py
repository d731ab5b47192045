"""Settings to choose from, and what is asked about them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from multirun_analysis.collect.collection import Collected, collect
from multirun_analysis.commands.choose import parser, print_choice
from multirun_analysis.statistics.choice import Gate

PLAIN = Gate(None, 0.95)
"""The plain ratio alone, without chance."""


def student(make: Any, folder: Path, paradigm: str, **metrics: Any):
    """A student that inherited nothing, so that all it cost is its own."""
    known = {"own_energy_random_sd_j": 0.0, "own_energy_shared_sd_j": 0.0}
    make.run(
        folder,
        paradigm=paradigm,
        student_key=folder.name,
        inherited_energy_j=0.0,
        inherited_energy_by_artifact_j={},
        **{**known, **metrics},
    )


def gathered(directory: Path, **runs: dict[str, Any]) -> Collected:
    """The runs with what the collector pools: by default what each run measured itself, exactly.

    Accuracy kept is not told unless it is given. `runs` are further columns of a run by its name;
    `every` are those of all.
    """
    found = collect([directory])
    found = replace(found, runs=found.runs.copy())  # In one piece: columns are added below.
    told = ("accuracy_kept", "accuracy_kept_low", "accuracy_kept_high", "teacher_at_chance")
    frame, every = found.runs, dict.fromkeys(told) | runs.pop("every", {})
    for subject in ("student", "teacher"):
        frame[f"{subject}_served_j_per_token"] = frame[f"{subject}_total_j_per_token"]
        frame[f"{subject}_served_random_sd_j"] = 0.0
        frame[f"{subject}_served_shared_sd_j"] = 0.0
        frame[f"{subject}_served_degrees"] = math.inf
        frame[f"{subject}_served_key"] = frame["run"]
        frame[f"{subject}_served_measurements"] = 3
    columns = dict.fromkeys(name for changes in (every, *runs.values()) for name in changes)
    for column in columns:
        old = frame[column] if column in frame else [None] * len(frame)
        frame[column] = [
            runs.get(f"run{run}", {}).get(column, every.get(column, value))
            for run, value in zip(frame["run"], old, strict=True)
        ]
    return found


def choose_options(*options: str, tokens: str = "1e6") -> Any:
    return parser().parse_args(["DIR", "--tokens-per-day", tokens, "--days", "1", *options])


def record(found: Collected, capsys: Any, *options: str, tokens: str = "1e6") -> dict[str, Any]:
    capsys.readouterr()
    print_choice(found, choose_options("--json", *options, tokens=tokens))
    return json.loads(capsys.readouterr().out)


def write_three(make: Any, directory: Path) -> Path:
    """Cheap and poor, cheap to build and dear to serve, dear to build and cheap to serve."""
    costs = {"own_energy_j": 100.0, "student_total_j_per_token": 0.001}
    student(make, directory / "0", "sft", om_perf=0.90, **costs)
    student(
        make, directory / "1", "response", om_perf=0.96, own_energy_j=1e3,
        student_total_j_per_token=0.02,
    )  # fmt: skip
    student(
        make, directory / "2", "feature", om_perf=0.97, own_energy_j=5e3,
        student_total_j_per_token=0.01,
    )  # fmt: skip
    return directory


SURE = {
    "run0": {"accuracy_kept": 0.4, "accuracy_kept_low": 0.35, "accuracy_kept_high": 0.45},
    "run1": {"accuracy_kept": 0.8, "accuracy_kept_low": 0.75, "accuracy_kept_high": 0.85},
    "run2": {"accuracy_kept": 0.9, "accuracy_kept_low": 0.88, "accuracy_kept_high": 0.92},
}
"""What the three keep, told apart and on one side of 0.5 each."""


NOTHING = {"accuracy_kept": None, "teacher_at_chance": '["mmlu", "arc"]'}


SINGLE_UJ = (134.0, 168.0, 212.0, 244.0)
"""Four measurements of one architecture: their mean is 189.5 uJ/token, its sd 24.2 uJ."""


def gathered_four(make: Any, directory: Path) -> Collected:
    """Four students of one architecture: the dearer to build, the less its own measurement."""
    paradigms = ("relational", "feature", "response", "sft")
    for number, (paradigm, single) in enumerate(zip(paradigms, SINGLE_UJ, strict=True)):
        student(
            make, directory / str(number), paradigm, own_energy_j=4e3 - 1e3 * number,
            student_total_j_per_token=single * 1e-6, teacher_total_j_per_token=411e-6,
            own_energy_random_sd_j=20.0,
        )  # fmt: skip
    pooled = {"student_served_j_per_token": 189.5e-6, "student_served_random_sd_j": 24.2e-6,
              "student_served_degrees": 3.0, "student_served_key": "a",
              "student_served_measurements": 4, "teacher_served_random_sd_j": 10e-6,
              "teacher_served_key": "t", "accuracy_kept": 0.8, "accuracy_kept_low": 0.7,
              "accuracy_kept_high": 0.9}  # fmt: skip
    return gathered(directory, every=pooled)
