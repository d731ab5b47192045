"""What a real sbatch takes and refuses, with jobs of nothing but a print."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import OmegaConf

from kdwatts.cli import sbatch
from tests.slurm.sweeps import until

pytestmark = pytest.mark.slow


def send(
    folder: Path,
    asked: Mapping[str, Any],
    extra: Mapping[str, Any],
    setup: tuple[str, ...] = (),
) -> list[str]:
    """Sends a job that prints; its id."""
    plain = OmegaConf.structured(SlurmQueueConf(submitit_folder=f"{folder}/.submitit/%j"))
    params: Any = OmegaConf.to_container(plain, resolve=False)
    params.pop("_target_")
    params |= {"name": "print", "partition": "main", "mem_gb": 1, "timeout_min": 1, **asked}
    ids: list[str] = []
    sbatch.send(sbatch.executor(params, extra, setup, ()), [(print, "printed")], "it", ids.extend)
    return ids


@pytest.mark.parametrize(
    ("asked", "extra", "told"),
    [
        ({"partition": "nope"}, {}, "cluster.partition=nope"),
        ({"gres": "gpu:h100:1"}, {}, "cluster.gres=gpu:h100:1"),
        ({"gres": "nope:1"}, {}, "cluster.gres=nope:1"),
        ({"constraint": "h100"}, {}, "cluster.constraint=h100"),
        ({"mem_gb": 90_000}, {}, "cluster.mem_gb=90000"),
        ({}, {"reservation": "x"}, "cluster.extra.reservation=x"),
        ({}, {"exclude": "nobody"}, "cluster.extra.exclude=nobody"),
        ({}, {"licenses": "x"}, "cluster.extra.licenses=x"),
        ({}, {"no-such-option": "x"}, "cluster.extra.no-such-option=x"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_real_refusal_names_our_setting(
    asked: dict[str, Any], extra: dict[str, Any], told: str, slurm: Path, tmp_path: Path
):
    with pytest.raises(RuntimeError) as refusal:
        send(tmp_path, asked, extra)
    assert told in str(refusal.value).partition(": sbatch refuses it with the words ")[0]
    assert "\n" not in str(refusal.value)


def test_a_site_s_options_and_commands_reach_a_job_whose_folder_has_any_letters(
    slurm: Path, tmp_path: Path
):
    folder = tmp_path / """it's "a", b: #1 $x ü*"""
    extra = {"comment": "what's this", "nice": 7}
    (job,) = send(folder, {}, extra, ("export GREETING=hello", "echo $GREETING from the setup"))
    shown = subprocess.run(
        ["scontrol", "show", "job", job], check=True, capture_output=True, text=True
    ).stdout
    assert "Nice=7" in shown and "Comment=what's this" in shown
    logs = folder / ".submitit" / job

    def said() -> str:
        return "".join(path.read_text() for path in sorted(logs.glob("*.out")))

    until(lambda: "printed" in said(), "the job")
    assert "hello from the setup" in said()
