"""What torchrun and srun tell a process, and what is refused of several ranks."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kdwatts.artifacts.hardware import check_gpus
from kdwatts.cli.command_line import main
from kdwatts.memory.budget import estimate
from kdwatts.planning.demands import workload_of
from kdwatts.runtime.ranks import (
    Launch,
    Ranks,
    first_host,
    launched,
    meeting_point,
    place_on_node,
)
from kdwatts.stages import distill
from kdwatts.stages.graph import plan
from kdwatts.telemetry.node_facts import facts_of_this_node
from kdwatts.telemetry.nvml import Device

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}


def gpu(index: int) -> Device:
    name = "NVIDIA H100 80GB HBM3"
    return Device(index, f"GPU-{index}", name, 79.6, 700.0, "570", True, False)


@pytest.mark.parametrize(
    "told, place",
    [
        ({}, (0, 1)),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "2"}, (1, 2)),
        (SRUN, (1, 2)),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, (1, 2)),
        (
            {
                "SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "11",
                "SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2",
            },
            (1, 3),
        ),
        # A batch script for many tasks runs the meter once, by itself.
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}, (0, 1)),
        ({"OMPI_COMM_WORLD_LOCAL_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, (3, 4)),
        ({"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "2"}, (0, 2)),
    ],
)  # fmt: skip
def test_launchers_tell_which_of_how_many_processes_of_a_node_this_is(
    told: dict[str, str], place: tuple[int, int]
):
    assert place_on_node(told) == place


@pytest.fixture
def as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)


def test_a_process_that_nobody_launched_is_alone_and_leads():
    assert launched({}) == Ranks(0, 1, 0)
    assert launched({}).leads


def test_torchrun_and_srun_say_which_rank_a_process_is():
    assert launched(TORCHRUN) == Ranks(3, 4, 1)
    assert launched(SRUN) == Ranks(1, 2, 1)
    assert not launched(SRUN).leads
    # torchrun inside of a job step: one task that launches four ranks.
    assert launched({**SRUN, **TORCHRUN}) == Ranks(3, 4, 1)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({**TORCHRUN, "RANK": "x"}, "the environment has RANK='x', which is no whole number;"),
        ({**TORCHRUN, "WORLD_SIZE": ""}, "the environment has WORLD_SIZE='', which is no whole"),
        (
            {**TORCHRUN, "LOCAL_RANK": "-1"},
            "the environment has LOCAL_RANK='-1', which is no whole",
        ),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "2(x2)"}, "the environment has SLURM_STEP_NUM_TASKS='2"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4 and LOCAL_RANK=1 are not below WORLD_SIZE=4; torchrun"),
    ],
)
def test_what_neither_torchrun_nor_srun_says_is_refused(environment: dict[str, str], said: str):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        launched(environment)


def test_a_job_whose_number_is_none_is_refused_where_its_port_would_follow_from_it():
    step = {"SLURM_JOB_NODELIST": "gpu3", "SLURM_JOB_ID": "7_1"}
    with pytest.raises(
        ValueError, match=r"^the environment has SLURM_JOB_ID='7_1', which is no wh"
    ):
        meeting_point(step)


def test_a_rank_that_is_no_number_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for name, value in {**TORCHRUN, "RANK": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["kdwatts", "until=plan"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "kdwatts: the environment has RANK='x', which is no whole number; torchrun and "
        "srun set these variables: start by one of them, or unset them\n"
    )


def test_a_batch_script_for_many_tasks_that_starts_one_process_is_alone():
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"}
    assert launched(batch) == Ranks()


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("gpu7", "gpu7"),
        ("gpu7,gpu9", "gpu7"),
        ("gpu[003-010,12],x1", "gpu003"),
        ("rack[2,4]-ib", "rack2-ib"),
        ("a.b-c", "a.b-c"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes: str, host: str):
    assert first_host(nodes) == host


def test_ranks_of_a_job_step_meet_at_its_first_host_and_two_steps_at_two_ports():
    step = {"SLURM_JOB_NODELIST": "gpu[3-4]", "SLURM_JOB_ID": "1000", "SLURM_STEP_ID": "0"}
    assert meeting_point(step) == "tcp://gpu3:16000"  # 15000 + 31 * 1000 mod 15000
    assert meeting_point({**step, "SLURM_STEP_ID": "1"}) == "tcp://gpu3:16001"
    assert meeting_point({**step, "MASTER_PORT": "5"}) == "tcp://gpu3:5"
    assert meeting_point({"MASTER_ADDR": "x", "MASTER_PORT": "5"}) == "env://"
    with pytest.raises(RuntimeError, match="start them with torchrun or srun"):
        meeting_point({})


def test_ranks_that_cannot_share_a_step_equally_are_refused(
    as_two: None, configure: Callable[..., Any]
):
    with pytest.raises(ValueError, match=r"accumulation=1 .* by 2 ranks; give a multiple of 2"):
        configure("training=smoke")
    assert configure("training=smoke", "training.accumulation=2").training.accumulation == 2


def test_a_group_of_sequences_may_span_the_ranks_but_not_more_than_they_hold(
    as_two: None, configure: Callable[..., Any]
):
    smoke = ("paradigm=relational", "training=smoke", "training.accumulation=2")
    group = "paradigm.relational.group_size=16"
    assert configure(*smoke, group, "training.micro_batch=8")
    with pytest.raises(ValueError, match=r"micro_batch=4 on 2 ranks is no multiple of .*=16"):
        configure(*smoke, group, "training.micro_batch=4")
    with pytest.raises(ValueError, match=r"heldout_every=2 does not work where a group of 16 "):
        configure(
            *smoke,
            group,
            "training.micro_batch=8",
            "training.heldout_every=2",
            "training.heldout_tokens=64",
        )


@pytest.mark.parametrize(
    "overrides",
    [("paradigm=on_policy",), ("training.compile=true", "gpu=h100")],
    ids=["the student writes", "compiled"],
)
def test_a_student_in_shards_neither_writes_nor_is_compiled(
    overrides: tuple[str, ...], configure: Callable[..., Any]
):
    assert configure(*overrides)
    with pytest.raises(ValueError, match=r"training.parallel=fsdp"):
        configure(*overrides, "training.parallel=fsdp")


def test_gpus_that_the_meter_would_miss_are_refused(configure: Callable[..., Any]):
    config = configure("gpu=h100", "training.accumulation=2")
    check_gpus(config, [facts_of_this_node([gpu(0), gpu(1)], ranks=(0, 1))])
    with pytest.raises(ValueError, match=r"^2 ranks were launched, but the meter sees 1 GPUs"):
        check_gpus(config, [facts_of_this_node([gpu(0)], ranks=(0, 1))])


def test_shards_divide_what_a_gpu_holds_of_student_and_teacher(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    pair = ("model=llama31_8b_to_1b", "paradigm=feature", "gpu=h100")
    sharded = configure(*pair, "training.parallel=fsdp", "training.teacher_parallel=fsdp")
    alone = estimate(workload_of(sharded))
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    whole, shards = estimate(workload_of(configure(*pair))), estimate(workload_of(sharded))
    # Four ranks share the step's four forward passes: gradients of one wait for no other.
    assert (alone.keeps_gradients, whole.keeps_gradients) == (True, False)
    waited_gib = alone.gradients_gib + alone.projectors_gib / 4
    assert whole.moments_gib["loss"] == pytest.approx(alone.moments_gib["loss"] - waited_gib)
    for part in ("student_state_gib", "projectors_gib", "teacher_gib", "activations_gib"):
        assert getattr(whole, part) == getattr(alone, part)
    assert shards.student_state_gib == pytest.approx(alone.student_state_gib / 4)
    assert shards.teacher_gib == pytest.approx(alone.teacher_gib / 4) and alone.teacher_gib > 10
    assert shards.activations_gib == alone.activations_gib
    assert shards.projectors_gib == alone.projectors_gib > 1
    # Shards come in bfloat16. Only projectors, whole on every rank, are cast for their products.
    assert shards.copies_gib == pytest.approx(alone.projectors_gib * 2 / 16)
    assert alone.copies_gib > 1.5 + shards.copies_gib
    exact = estimate(workload_of(configure(*pair, "training.precision=fp32")))
    assert exact.copies_gib == 0


def test_the_fullest_moment_of_a_backward_pass_has_two_blocks_in_bf16_and_a_gradient_in_fp32(
    configure: Callable[..., Any],
):
    config = configure("model=llama31_8b_to_1b", "paradigm=sft", "gpu=h100", "training=fsdp")
    config.training.gradient_checkpointing = False
    whole = copy.deepcopy(config)
    whole.training.parallel = "ddp"
    found, without = (estimate(workload_of(one), Launch(1, 4)) for one in (config, whole))
    params, block = 1_235_814_400, 2048 * (2 * 2048 + 2 * 512 + 3 * 8192)
    # Sixteen blocks are not cast. Eight passes of four ranks: gradients wait, in shards too.
    more = (2 + 2 + 4) * block - 2 * 16 * block - 16 * params * 3 / 4
    gib = found.moments_gib["backward"] - without.moments_gib["backward"]
    assert gib == pytest.approx(more / 2**30)


@pytest.mark.parametrize("parallel", ["fsdp", "hsdp"])
def test_shards_in_bf16_make_another_student_than_those_that_were_gathered_in_fp32(
    parallel: str, configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    settings = [
        configure(
            "gpu=h100",
            "paradigm=sft",
            f"training.parallel={parallel}",
            f"training.precision={name}",
        )
        for name in ("bf16", "fp32")
    ]
    assert not any("shards" in distill.settings(config) for config in settings)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert distill.settings(settings[0])["shards"] == "bf16"
    assert "shards" not in distill.settings(settings[1])


def test_the_number_of_ranks_changes_joules_and_so_the_key(
    configure: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    config = configure("gpu=cpu", "training.accumulation=4")

    def keys(launch: Launch | None = None) -> list[str]:
        return [planned.key for planned in plan(config, [], launch)]

    alone = keys()
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert keys() == keys(Launch(1, 4)) != alone == keys(Launch())
