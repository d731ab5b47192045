"""The script for a borrowed GPU, rehearsed where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.gpu import tables
from tests.waits import wait_until

FOLDER = Path(__file__).parent

COUNTER = {
    "name": "counter_agreement",
    "verdict": "right",
    "found": "counter within 0.4 % of the integral of power",
    "remedy": None,
    "value": -0.4,
}


def test_a_verdict_of_the_doctor_is_a_row_of_the_table_and_what_is_null_an_empty_cell():
    unseen = {"name": "known_load", "verdict": None, "found": "no torch", "remedy": "install it"}
    assert tables.doctor_table({"verdicts": [COUNTER, unseen]}).splitlines()[2:] == [
        "| counter agreement | right | counter within 0.4 % of the integral of power |  |",
        "| known load | - | no torch | install it |",
    ]


OURS = {"median_ms": 12.5, "least_ms": 12.0, "peak_over_base_gib": 1.25}


def test_a_head_that_failed_is_named_with_its_error():
    record = {"heads": {"ours": OURS, "liger": {"error": "OutOfMemoryError: no"}}}
    rows = tables.head_table(record | {"products": {"2048": {"median_ms": 10.0}}})
    assert rows.splitlines()[2:] == [
        "| products alone, chunks of 2048 | 10 |  |  |  |",
        "| ours | 12.5 | 12 | 1.25 | 25 |",
        "| liger | OutOfMemoryError: no |  |  |  |",
    ]


def held(records: dict[str, Any]) -> dict[str, str]:
    return {name: met for name, _, _, met in tables.bars(records)}


def test_what_was_not_measured_is_said_of_every_bar():
    assert set(held({}).values()) == {"not measured"}


@pytest.mark.parametrize(
    ("pct", "expected"), [(-0.4, "met"), (2.0, "met"), (-2.1, "not met"), (None, "not measured")]
)
def test_the_doctor_s_figure_is_held_against_the_counter_s_bar(pct: float | None, expected: str):
    record = {"verdicts": [COUNTER | {"value": pct}]}
    name = "counter beside the integral of power, %"
    assert held({"doctor.json": record})[name] == expected


def test_the_head_is_held_against_liger_s_of_the_same_run_and_never_on_a_cpu():
    other = {"median_ms": 12.6, "least_ms": 12.5, "peak_over_base_gib": 1.2}
    record = {
        "gpu": "NVIDIA H200",
        "products": {"2048": {"median_ms": 10.0}},
        "heads": {"ours jsd, chunks of 2048": OURS, "liger jsd": other},
    }
    found = held({"head.json": record})
    assert found["head, jsd, ms"] == "met"
    assert found["head, jsd, GiB"] == "not met"
    assert found["head, jsd, beyond products, %"] == "not met"
    assert found["head, forward_kl, ms"] == "not measured"
    assert set(held({"head.json": record | {"gpu": "CPU"}}).values()) == {"not measured"}


@pytest.mark.parametrize(
    ("mfu", "share", "expected"),
    [
        (0.45, 1.09, ("met", "met")),
        (0.44, 0.89, ("not met", "not met")),
        (None, 1.11, ("not measured", "not met")),
    ],
)
def test_a_step_is_held_to_45_per_cent_of_the_peak_and_to_a_tenth_of_the_plan(
    mfu: float | None, share: float, expected: tuple[str, str]
):
    found = held({"steps.json": {"online": {"mfu": mfu, "peak_over_plan": share}}})
    assert (found["online, MFU"], found["online, peak over the plan's"]) == expected


def test_of_two_loans_a_step_is_the_last_one_that_was_taken(tmp_path: Path):
    taken: list[dict[str, Any]] = [{"cached": 1, "online": 2}, {"online": 3}]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, steps in zip(folders, taken, strict=True):
        folder.mkdir()
        (folder / "steps.json").write_text(json.dumps(steps))
    (folders[0] / "head.json").write_text('{"heads": {}}')
    assert tables.together(folders) == {
        "steps.json": {"cached": 1, "online": 3},
        "head.json": {"heads": {}},
    }


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "No GPU (None); None, None CPUs; no date; ."),
        (
            {"gpu": "no nvidia-smi", "machine": {"cpu": "Xeon", "cpus": 2}, "date_utc": "today"},
            "No GPU (no nvidia-smi); Xeon, 2 CPUs; today; .",
        ),
        (
            {
                **{"gpu": "no nvidia-smi", "cuda": {"name": "H200"}, "date_utc": "today"},
                **{"kernel": {"is_fused": False, "why_plain": "it fails"}},
                "versions": {"torch": "2.11.0", "trl": None},
            },
            "H200, and nvidia-smi does not answer (no nvidia-smi); the fused kernel does not run "
            "(it fails); today; torch 2.11.0.",
        ),
    ],
)
def test_facts_that_could_not_be_had_still_make_a_line(facts: dict[str, Any], expected: str):
    assert tables.facts_lines(facts) == expected


def test_tests_are_counted_by_file_and_a_failure_says_its_first_line():
    path = "tests/gpu/test_losses_on_gpu.py"
    rows = [
        {"test": f"{path}::one", "outcome": "passed", "seconds": 1.5},
        {
            "test": f"{path}::two",
            "outcome": "failed",
            "seconds": 0.5,
            "message": "boom\nassert 1 == 2",
        },
    ]
    assert tables.tests_lines(rows).splitlines()[2:] == [
        "| test_losses_on_gpu.py | 1 | 1 | 0 | 2 |",
        "",
        f"- `{path}::two`: boom",
    ]


def test_a_run_of_the_sweep_that_was_cut_off_is_a_row_of_empty_cells(tmp_path: Path):
    row = {
        **{"window": "run/distill/train", "duration_s": 4.0, "tokens": 8_000},
        **{"energy_j": {"gpu": 400.0}, "sampled_energy_j": {"gpu": 396.0}},
        "method": {"gpu": "nvml_counter"},
    }
    for name, text in (("0-sft", json.dumps(row) + "\n"), ("1-response", '{"window": "run/dis')):
        folder = tmp_path / "sweep" / name
        folder.mkdir(parents=True)
        (folder / "stages.jsonl").write_text(text)
    with tarfile.open(tmp_path / "sweep.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "sweep", "sweep")
    assert tables.sweep_table(tmp_path / "sweep.tar.gz").splitlines()[2:] == [
        "| 0-sft | 4 | 400 | 396 | 2,000 | 50 | nvml_counter |",
        "| 1-response |  |  |  |  |  |  |",
    ]


def rehearse(out: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        [str(FOLDER / "run.sh"), *words, "--rehearse", str(out)],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_there_is_no_time_for_is_left_out_and_said(tmp_path: Path):
    out = tmp_path / "out"
    told = rehearse(out, "--minutes", "0", "--parts", "facts doctor")
    assert "doctor was left out, 0 s were left" in told
    assert sorted(path.name for path in out.iterdir()) == ["log.txt", "tables.md"]
    assert "not measured" in (out / "tables.md").read_text()


def test_the_largest_record_is_left_out_and_said_when_there_are_too_many_mib(tmp_path: Path):
    (tmp_path / "sweep.tar.gz").write_bytes(bytes(2 << 20))
    (tmp_path / "head.json").write_text('{"heads": {}}')
    told = rehearse(tmp_path, "--minutes", "0", "--max-mib", "1", "--parts", "facts")
    assert "sweep.tar.gz was left out, the records were more than 1 MiB" in told
    assert (tmp_path / "head.json").is_file()
    assert not (tmp_path / "sweep.tar.gz").exists()


def test_a_run_that_outlives_its_part_is_ended_and_holds_no_gpu_for_the_next(tmp_path: Path):
    python, left = tmp_path / "python", tmp_path / "left"
    python.write_text(
        "#!/bin/sh\n"
        f"case $1 in */facts.py) sleep 600 & echo $! >{left} ;;\n"
        f'*) exec {sys.executable} "$@" ;; esac\n'
    )
    python.chmod(0o755)
    rehearse(tmp_path / "out", "--minutes", "1", "--parts", "facts", PYTHON=str(python))
    pid = int(left.read_text())

    def is_gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(is_gone)


@pytest.mark.slow
def test_a_rehearsal_has_the_doctor_s_record_and_its_table(tmp_path: Path):
    told = rehearse(tmp_path, "--parts", "doctor", "--doctor-minutes", "1")
    assert "doctor took" in told
    record = json.loads((tmp_path / "doctor.json").read_text())
    assert "counter_agreement" in {one["name"] for one in record["verdicts"]}
    page = (tmp_path / "tables.md").read_text()
    assert "| counter agreement |" in page and "| sampler cost |" in page


@pytest.mark.slow
def test_a_rehearsal_leaves_at_most_eight_files_with_every_part(tmp_path: Path):
    told = rehearse(tmp_path, "--parts", "facts head cached online")
    # Each library's head is a process of its own.
    assert told.count("status 0") == 7, (tmp_path / "log.txt").read_text()
    assert len(list(tmp_path.iterdir())) <= 8
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["kernel"]["why_plain"] is None
    assert [name for name, fact in facts.items() if isinstance(fact, str)] == [
        "date_utc",
        *([] if shutil.which("nvidia-smi") else ["gpu", "pages"]),
    ]
    steps = json.loads((tmp_path / "steps.json").read_text())
    # The teacher's forward pass is counted where it runs.
    assert steps["online"]["tflop_a_step"] > steps["cached"]["tflop_a_step"]
    heads = json.loads((tmp_path / "head.json").read_text())["heads"]
    for term in ("jsd", "forward_kl"):
        ours = heads[f"ours {term}, chunks of 2048"]["loss"]
        assert ours == pytest.approx(heads[f"dense {term}"]["loss"], rel=1e-3)
