"""Options of sbatch that a site may add, and its refusals in our settings' names."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdwatts.cli.sbatch import AFTER_THE_RANKS, refusal
from kdwatts.runtime import slurm_jobs


def test_a_command_that_sends_no_jobs_takes_a_site_s_options_too(configure: Callable[..., Any]):
    cluster = configure("+cluster.extra={reservation: mine, mail_type: END}").cluster
    assert cluster.extra == {"reservation": "mine", "mail_type": "END"}


def test_an_option_with_a_setting_of_its_own_is_taken_where_that_is_null(
    configure: Callable[..., Any],
):
    assert configure("+cluster.extra.qos=high").cluster.extra == {"qos": "high"}
    mem = configure("cluster.mem_gb=null", "+cluster.extra.mem-per-cpu=4G").cluster.extra
    assert mem == {"mem-per-cpu": "4G"}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ("cluster.qos=low", "+cluster.extra.qos=high"),
            "cluster.extra.qos=high and cluster.qos=low both set sbatch's --qos; give "
            "cluster.qos only",
        ),
        (("+cluster.extra.time=60",), "cluster.extra.time=60 and cluster.timeout_min=720 both"),
        (("+cluster.extra.mem_per_cpu=4G",), "cluster.extra.mem_per_cpu=4G and cluster.mem_gb=64"),
        (("+cluster.extra.job-name=x",), "cluster.extra.job-name=x and hydra.launcher.name both"),
        (("+cluster.extra.output=x",), "cluster.extra.output=x and hydra.sweep.dir both"),
        (("+cluster.extra.parsable=true",), "cluster.extra.parsable=True does not work: with"),
        (("+cluster.extra={--qos: a}",), "cluster.extra has '--qos', which is not the long"),
        (("+cluster.extra.nodelist=[a,b]",), "cluster.extra.nodelist=['a', 'b'] is not a value"),
        (("+cluster.extra.exclusive=false",), "cluster.extra.exclusive=False is not a value"),
        (("+cluster.extra.comment='a\nb'",), r"cluster.extra.comment='a\nb' is more than one line"),
    ],
)
def test_an_option_that_is_ours_or_none_is_refused(
    overrides: tuple[str, ...], told: str, configure: Callable[..., Any]
):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        configure(*overrides)


ASKED = {
    "partition": "gpu",
    "account": "abc",
    "qos": "long",
    "gres": "gpu:h100:1",
    "mem": "64GB",
    "cpus_per_task": 8,
    "time": 720,
    "job_name": "kdwatts",
    "map_count": 12,
    "additional_parameters": {"requeue": True, "reservation": "mine", "licenses": "x"},
}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("Batch job submission failed: Invalid partition name specified", "cluster.partition=gpu"),
        (
            "Batch job submission failed: Invalid account or account/partition combination "
            "specified",
            "cluster.account=abc cluster.partition=gpu",
        ),
        (
            "Batch job submission failed: Invalid qos specification",
            "cluster.qos=long cluster.account=abc cluster.timeout_min=720",
        ),
        ("Invalid generic resource (gres) specification", "cluster.gres=gpu:h100:1"),
        (
            "Batch job submission failed: Requested time limit is invalid (missing or exceeds some "
            "limit)",
            "cluster.timeout_min=720",
        ),
        (
            "Batch job submission failed: Invalid feature specification",
            "cluster.constraint=null",
        ),
        ("Memory specification can not be satisfied", "cluster.mem_gb=64"),
        (
            "Batch job submission failed: Requested node configuration is not available",
            "cluster.gres=gpu:h100:1 cluster.mem_gb=64 cluster.cpus_per_task=8",
        ),
        ("Batch job submission failed: Invalid job array specification", "the sweep"),
        (
            "Batch job submission failed: Requested reservation is invalid",
            "cluster.extra.reservation=mine",
        ),
        (
            "Batch job submission failed: Invalid license specification",
            "cluster.extra.licenses=x",
        ),
    ],
)
def test_a_refusal_of_sbatch_names_the_settings_that_it_may_mean(words: str, asked: str):
    said = refusal("the array of 12 runs", f"sbatch: error: {words}\n", ASKED)
    found = words.removeprefix("Batch job submission failed: ")
    start = (
        f'{asked}: sbatch refuses the array of 12 runs with the words "{found}", and nothing of it '
        "is sent; "
    )
    assert said.startswith(start) and len(said) > len(start)


def test_a_refusal_that_no_setting_explains_names_all_that_was_asked():
    said = refusal("the run", "sbatch: error: Today is a holiday\n", ASKED)
    assert said.startswith("cluster.partition=gpu cluster.account=abc cluster.qos=long ")
    assert 'with the words "Today is a holiday"' in said


def test_a_controller_that_is_away_is_no_matter_of_settings():
    words = "Batch job submission failed: Unable to contact slurm controller (connect failure)"
    assert refusal("the run", f"sbatch: error: {words}\n", ASKED).startswith(
        'sbatch refuses the run with the words "Unable to contact slurm controller'
    )


@pytest.mark.parametrize("asks", [True, False])
def test_a_job_that_lost_a_rank_is_started_anew_when_all_its_nodes_answer(
    asks: bool, tmp_path: Path
):
    """Slurm forgets the GPUs of a job that is requeued while a node of it is lost."""
    said = tmp_path / "said"
    commands = {  # The first srun finds a node that does not answer.
        "srun": f'echo "srun $*" >>{said}; [ $(grep -c srun {said}) -gt 1 ]',
        "scontrol": f'echo "scontrol $*" >>{said}',
        "sleep": f'echo "sleep $*" >>{said}',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    if asks:
        (tmp_path / "next").touch()
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        slurm_jobs.NEXT_TURN: str(tmp_path / "next"),
    }
    done = subprocess.run(
        ["bash", "-c", f"(exit 9)\n{AFTER_THE_RANKS}"], env=environment, timeout=60, check=False
    )
    assert done.returncode == 9
    lines = said.read_text().split("\n") if said.exists() else []
    assert [line.split()[0] for line in lines if line] == (
        ["srun", "sleep", "srun", "scontrol", "sleep"] if asks else []
    )
    assert not asks or lines[3] == "scontrol requeue 7"
