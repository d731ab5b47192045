"""Every command that README.md shows works as shown, only on fewer tokens."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multirun_analysis.report.page import PROFILES, report_name

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands(start: str) -> list[str]:
    """The lines of README's bash blocks that begin with `start`, without their comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(start)]


def run(command: str, *extra: str) -> subprocess.CompletedProcess[str]:
    arguments = shlex.split(command)
    assert arguments[0] == "python"
    return subprocess.run(
        [sys.executable, *arguments[1:], *extra], cwd=ROOT, capture_output=True, text=True
    )


def test_the_make_targets_exist():
    targets = commands("make")
    assert targets == ["make demo", "make test", "make study", "make smollm2"]
    for target in [*targets, "make test-all", "make tiny tiny-teacher"]:
        done = subprocess.run(
            [*target.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_plan_of_a_real_pair_is_printed_without_any_download(tmp_path: Path):
    (command,) = [line for line in commands("python -m kdwatts ") if "until=plan" in line]
    done = run(command, f"store_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    # 3,350 GB/s over 1.236 and 8.030 billion weights of two bytes.
    serving = "student 1,355 steps/s, teacher 209 steps/s"
    sizes = "1.24 B parameters; teacher: 8.03 B"
    for words in ("would be built", sizes, "memory", "kWh", serving):
        assert words in done.stdout


@pytest.mark.slow
def test_the_runs_and_sweeps_run_and_are_collected(tmp_path: Path):
    smoke = ["training=smoke", "until=distill", f"store_dir={tmp_path}/store"]
    lines = commands("python -m kdwatts ")
    apart = ("until=", "launcher", "smollm2")  # The last needs a model folder and an hour.
    runs = [line for line in lines if not any(word in line for word in apart)]
    assert len(runs) == 4
    for number, command in enumerate(runs):
        folder = tmp_path / str(number)
        last = ["until=evaluate"] if "eval=" in command else []
        done = run(command, *smoke, *last, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}")
        assert done.returncode == 0, done.stderr
    (collect,) = [c for c in commands("python -m multirun_analysis multirun") if "--" not in c]
    done = run(collect.replace("multirun/demo", str(tmp_path / "1")))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1" / "analysis" / "report.html").stat().st_size > 1_000_000


def test_the_import_is_read_and_analysed_beside_a_run_of_ours(tmp_path: Path):
    both = [line for line in commands("python -m multirun_analysis") if "h100_runs" in line]
    assert len(both) == 2
    for command in both:
        # The import stands for the demo too, which takes minutes.
        command = command.replace("multirun/demo", "multirun/h100_runs")
        done = run(command.replace("multirun/", f"{tmp_path}/"))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "both" / "report.html").stat().st_size > 1_000_000


def test_the_page_of_a_profile_is_made_of_imported_runs(tmp_path: Path):
    (imported, _) = [c for c in commands("python -m multirun_analysis") if "h100_runs" in c]
    assert run(imported.replace("multirun/h100_runs", f"{tmp_path}/runs")).returncode == 0
    (command,) = [c for c in commands("python -m multirun_analysis") if "--profile" in c]
    done = run(command.replace("multirun/demo", f"{tmp_path}/runs"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "analysis" / "report_provider.html").stat().st_size > 1_000_000


def test_the_table_of_profiles_names_every_profile_and_its_page():
    listed = re.findall(r"^\| `(\w+)` \| `(report\w*\.html)` \|", README, re.MULTILINE)
    assert dict(listed) == {profile: report_name(profile) for profile in PROFILES}
    assert len(listed) == len(PROFILES)


def test_the_meter_measures_a_command_and_stands_beside_a_job(tmp_path: Path):
    of_command, beside = commands("python -m kdwatts.telemetry")
    options, _, command = of_command.partition(" -- ")
    done = run(f"{options} --out {tmp_path}/command -- {command}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "command" / "summary.json").is_file()
    words = shlex.split(beside.replace("runs/", f"{tmp_path}/"))
    process = subprocess.Popen([sys.executable, *words[1:]], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (tmp_path / "beside" / "telemetry.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.terminate()
    assert process.wait(timeout=30) == 0
    assert (tmp_path / "beside" / "summary.json").is_file()


def test_the_command_for_a_cluster_plans_and_the_state_of_a_sweep_is_told(tmp_path: Path):
    (command,) = [line for line in commands("python -m kdwatts ") if "launcher" in line]
    done = run(command, "until=plan", f"store_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stages:") == 6
    assert done.stdout.count("all 6 runs together, shared stages counted once: ") == 1
    (tmp_path / "0-sft").mkdir()
    (tmp_path / "0-sft" / "status.json").write_text('{"schema": 1, "state": "done"}')
    (command,) = commands("python -m multirun_analysis status")
    done = run(command.replace("multirun/demo", str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("1 runs: 1 done\n")


def test_the_tables_name_every_option_and_only_those():
    for group, listed in re.findall(r"^\| `([\w/]+)` \| (`.*?) \|", README, re.MULTILINE):
        options = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
        assert set(re.findall(r"`(\w+)`", listed)) == options, group


def test_the_command_for_several_gpus_plans_on_its_first_rank_alone():
    (command,) = commands("torchrun ")
    launcher, _, arguments = command.partition(" -m kdwatts")
    options = shlex.split(launcher)[1:]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", *options),
            *("-m", "kdwatts", *shlex.split(arguments), "until=plan", "gpu=h100"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("paradigm=response model=llama31_8b_to_1b") == 1
