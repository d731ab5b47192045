"""Whatever ships, runs: every option file by its command line, to the end, with fewer tokens.

Beside the tokens only times are changed: held-out rows are read and steps are logged earlier, a
window of serving lasts 0.05 s in place of 2 s, and one run alone waits for idle power. A new option
file is run by its name, so it fails here until it runs or stands in SET_ASIDE with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from kdwatts.cli import sweep
from kdwatts.records.files import read_json, read_jsonl
from kdwatts.runtime.paths import conf_dir

HUB = "reads the hub"
GPU = "needs this GPU; tests/artifacts/test_hardware.py and the tests marked gpu"
SET_ASIDE = {
    **dict.fromkeys(
        ("data=dolly", "data=fineweb_edu", "data=openhermes", "data=tulu3", "data=tulu3_fineweb"),
        HUB,
    ),
    **dict.fromkeys(("eval=lighteval", "eval=paper", "eval=quick"), HUB),
    **dict.fromkeys(("experiment=family", "experiment=sizes"), f"{HUB}, and needs an H100"),
    **dict.fromkeys(
        (
            "model=llama31_70b_to_8b",
            "model=llama31_8b_to_1b",
            "model=llama31_8b_to_qwen25_1b5",
            "model=qwen25_72b_to_7b",
            "model=qwen25_7b_to_0b5",
            "model=qwen25_7b_to_1b5",
            "model=qwen25_7b_to_3b",
        ),
        f"{HUB}; tests/models/test_pairs.py has them made smaller",
    ),
    "model=smollm2_135m_to_81m": "needs `make smollm2`; tests/test_smollm2.py",
    **dict.fromkeys(
        (
            "gpu=a100_40",
            "gpu=a100_80",
            "gpu=h100",
            "gpu=h100_nvl",
            "gpu=h200",
            "gpu=l40s",
            "gpu=rtx4090",
            "gpu=rtx6000ada",
        ),
        GPU,
    ),
    "gpu=auto": "takes a GPU where there is one; tests/artifacts/test_hardware.py",
    "hydra/launcher=slurm": "needs a Slurm; tests/slurm",
}

SHORT = ("training.target_tokens=12288", "training.heldout_every=4", "training.log_every=1")
"""Six steps of training=tiny: one reading of held-out rows on the way, and one at the end."""
LIMITED = ("eval.tasks.0.limit=8", "eval.tasks.1.limit=8")
FEW = (*SHORT, *LIMITED)
"""Fewer tokens and questions, which is all that most options are given."""
FITS = (*LIMITED, "training.sequence_length=128", "training.target_tokens=16384")
"""Options for real pairs read longer sequences than the tiny pair does."""
GIVEN = {
    "training=default": FITS,
    "training=fsdp": FITS,  # As one rank; tests/test_ranks_run.py has two.
    "training=laptop": FITS,
    "training=lora": (*FITS, "model=tiny_half"),  # For a student that was trained before.
    "training=smoke": LIMITED,
    "model=tiny_teacher": (*FEW, "paradigm=sft"),
    "eval=none": SHORT,
    "eval=mmlu_dev": SHORT,
    "eval=offline": (*FEW, "eval.tasks.2.limit=8"),
    # Students of their own: a run that finds all of it in the store measures nothing.
    "telemetry=default": (*FEW, "training.seed=1", "telemetry.idle_s=10.0"),
    "telemetry=fine": (*FEW, "training.seed=2"),
}
"""What an option is given instead."""

TERMS = {
    "paradigm=sft": {"ce_nats"},
    "paradigm=response": {"ce_nats", "response_nats"},
    "paradigm=feature": {"ce_nats", "feature"},
    "paradigm=relational": {"ce_nats", "relational"},
    "paradigm=relational_token": {"ce_nats", "relational"},
    "paradigm=attention": {"ce_nats", "attention_nats"},
    "paradigm=combined": {"ce_nats", "response_nats", "feature", "relational"},
}
"""What the loss of a paradigm is made of, as train.jsonl has it."""


def _options() -> list[str]:
    """Group and name of every option file."""
    paths = sorted(path.relative_to(conf_dir()) for path in conf_dir().rglob("*.yaml"))
    return [f"{path.parent.as_posix()}={path.stem}" for path in paths if len(path.parts) > 1]


OPTIONS = [option for option in _options() if option != "local=default"]  # A site's own, unshipped.
SINGLE = [o for o in OPTIONS if o not in SET_ASIDE and not o.startswith("experiment=")]
EXPERIMENTS = [o for o in OPTIONS if o not in SET_ASIDE and o.startswith("experiment=")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that corpus and teacher are prepared once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def run(
    store: Path, kdwatts: Callable[..., int | str | None], short_windows: Any
) -> Callable[..., int | str | None]:
    """Exit code of `python -m kdwatts ARGUMENTS` on the CPU."""

    def run(*arguments: str) -> int | str | None:
        with short_windows(0.05):
            return kdwatts("gpu=cpu", "telemetry.idle_s=0", f"store_dir={store}", *arguments)

    return run


def check_whole(run_dir: Path) -> None:
    """Assert that a run went to its end and left what its own configuration asks for."""
    config: Any = OmegaConf.load(run_dir / "config.yaml")
    assert read_json(run_dir / "status.json")["state"] == "done", run_dir
    assert (run_dir / "student" / "model.safetensors").is_file()
    readings = [row for row in read_jsonl(run_dir / "train.jsonl") if row["split"] == "heldout"]
    assert len(readings) >= (2 if config.training.heldout_every else 0)
    if config.until == "distill":
        return
    assert read_json(run_dir / "metrics.json")["own_energy_j"] > 0
    subjects = {"student"} | ({"teacher"} if config.model.teacher else set())
    if config.eval.tasks:
        scored = {(score["subject"], score["task"]) for score in read_json(run_dir / "eval.json")}
        asked = (task.name.replace(":", "_") for task in config.eval.tasks)
        assert scored == set(product(subjects, asked))
    if config.eval.inference:
        costs = read_json(run_dir / "inference.json")
        assert {cost["subject"] for cost in costs} == subjects
        metrics = read_json(run_dir / "metrics.json")
        grid = config.eval.inference
        assert metrics["serving_batch_size"] == max(grid.batch_sizes)
        for subject in subjects:
            assert 1 <= metrics[f"{subject}_serving_measurements"] <= grid.measurements
            least, most = (
                metrics[f"{subject}_total_j_per_token_{end}"] for end in ("least", "most")
            )
            assert 0 < least <= metrics[f"{subject}_total_j_per_token"] <= most


def test_what_is_set_aside_ships():
    assert set(SET_ASIDE) <= set(OPTIONS)


# Paradigms first: what others reuse is made by them.
@pytest.mark.parametrize("option", sorted(SINGLE, key=lambda o: not o.startswith("paradigm=")))
def test_an_option_runs_as_it_ships(option: str, run: Callable[..., int], tmp_path: Path):
    settings = [*GIVEN.get(option, FEW), option]
    assert run(*settings, f"hydra.run.dir={tmp_path}") == 0
    check_whole(tmp_path)
    if option in TERMS:
        steps = [row for row in read_jsonl(tmp_path / "train.jsonl") if row["split"] == "train"]
        assert steps[-1].keys() & set().union(*TERMS.values()) == TERMS[option]
        assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
        assert steps[-1]["loss"] < steps[0]["loss"]


MARK = "KDWATTS_TEST_MARK"
"""An environment variable that every process inherits which a test starts, and no other has."""


def _marked(value: str) -> list[str]:
    """Every process that inherited this value of MARK, whosever child it is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == value:
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


@pytest.mark.slow
def test_student_and_teacher_are_measured_behind_transformers_serve(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Twice, so that a second server is measured beside the first; no process is left over."""
    monkeypatch.setenv(MARK, str(tmp_path))
    asked = (
        *(*SHORT, "eval.tasks=[]", "eval.inference=null", "eval.serving.engine=transformers"),
        *("eval.serving.concurrency=[4,1]", "eval.serving.min_window_s=4"),
        *("eval.serving.max_window_s=30", "eval.serving.parking_settle_s=1"),
    )
    for number in (1, 2):
        assert run(*asked, f"hydra.run.dir={tmp_path / str(number)}") == 0
        records = read_json(tmp_path / str(number) / "serving.json")
        assert [(one["subject"], one["measurement"]) for one in records] == [
            (subject, n) for subject in ("student", "teacher") for n in range(1, number + 1)
        ]
        metrics = read_json(tmp_path / str(number) / "metrics.json")
        assert (metrics["serving_engine"], metrics["serving_load"]) == ("transformers", "closed")
        assert metrics["serving_level"] == 4
        assert metrics["serving_energy_j"] > 0
        for subject in ("student", "teacher"):
            assert metrics[f"{subject}_engine_measurements"] == number
            assert metrics[f"{subject}_engine_j_per_output_token"] > 0
            # The joules are estimated here, and the estimate has no idle power.
            assert metrics[f"{subject}_engine_parking_power_w"] is None
    for one in records:
        assert [point["level"] for point in one["points"]] == [4, 1]
        assert all(point["verdict"] != "failed" for point in one["points"])
        assert one["engine"]["precision"] == "float32"
        # Every prompt has 64 tokens, but for cuts through a word that read back otherwise.
        assert one["points"][0]["output_tokens"] > 0
    manifest = read_json(tmp_path / "2" / "manifest.json")
    assert manifest["serving_engine"]["student"]["name"] == "transformers"
    assert _marked(str(tmp_path)) == []


def _command(experiment: str) -> list[str]:
    """The arguments of the command in an experiment's file."""
    path = conf_dir() / f"{experiment.replace('=', '/')}.yaml"
    return path.read_text().splitlines()[1].removeprefix("# python -m kdwatts ").split()


def check_experiment(run: Callable[..., int], experiment: str, folder: Path, *seeds: str) -> None:
    few = FEW if "-m" in _command(experiment) else ("training.target_tokens=45056",)
    folders = [f"hydra.{kind}.dir={folder}" for kind in ("run", "sweep")]
    assert run(*_command(experiment), *few, *seeds, *folders) == 0
    found = [path.parent for path in folder.rglob("status.json")]
    assert len(found) == max(1, len(sweep.sweep_dirs))
    for run_dir in found:
        check_whole(run_dir)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_runs_as_it_ships_with_one_seed(
    experiment: str, run: Callable[..., int], tmp_path: Path
):
    seed = [] if "-m" not in _command(experiment) else ["training.seed=0"]
    check_experiment(run, experiment, tmp_path, *seed)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_runs_as_it_ships_with_all_its_seeds(
    experiment: str, run: Callable[..., int], tmp_path: Path
):
    check_experiment(run, experiment, tmp_path)
