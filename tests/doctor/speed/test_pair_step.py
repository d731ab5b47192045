"""The pair's own step: what of it fits, what it says, and that nothing stays behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdwatts.doctor.patient import Patient
from kdwatts.doctor.speed import step_verdicts
from kdwatts.doctor.speed.pair_step import Steps, executed_flop, tokens_of_step, useful_flop
from kdwatts.doctor.speed.step_that_fits import step_that_fits
from kdwatts.doctor.speed.step_verdicts import memory_verdict, pair_step
from kdwatts.memory.budget import GIB, estimate
from kdwatts.memory.model_shape import forward_flops_per_token
from kdwatts.planning.demands import workload_of
from kdwatts.planning.measured_rates import step_settings

Configure = Callable[..., Any]
CPU = torch.device("cpu")
LLAMA = ("model=llama31_8b_to_1b", "gpu=h100")
SMALL = ("gpu=cpu", "model=tiny", "training.micro_batch=2", "training.sequence_length=32")
H100 = {"free_bytes": 79 * GIB, "flop_per_s": 6e14, "seconds": 50.0}


def test_the_step_of_the_tiny_pair_is_measured_and_leaves_nothing(
    patient: Callable[..., Patient],
):
    one = patient("gpu=cpu", "model=tiny")
    threads = threading.active_count()
    found = {verdict.name: verdict for verdict in pair_step(one, 6.0)}
    assert list(found) == [
        *("step_speed", "step_energy", "step_mfu"),
        *("step_products", "step_share_of_products", "step_memory"),
    ]
    # Of a CPU nothing is known to hold these against.
    assert {verdict.verdict for verdict in found.values()} == {None}
    speed, share = found["step_speed"], found["step_share_of_products"]
    assert (speed.unit, share.unit) == ("tokens/s", "1")
    for one_of in (speed, share):
        assert one_of.value and one_of.low is not None
        assert 0 <= one_of.low <= one_of.value
    # What planning reads of it says of which step it is.
    assert share.conditions is not None
    assert share.conditions.keys() == step_settings(one.config).keys()
    assert (share.conditions["precision"], share.conditions["ranks"]) == ("fp32", 1)
    products = found["step_products"]
    assert products.unit == "TFLOP/s" and products.value
    # RAPL may be open here or closed, and then the joules are an estimate; they are never 0.
    energy = found["step_energy"]
    assert energy.unit == "J/token" and energy.value and energy.value > 0
    assert "estimated" in energy.found or "measured" in energy.found
    assert (found["step_mfu"].value, found["step_memory"].value) == (None, None)
    assert list(one.work_dir.iterdir()) == []
    assert threading.active_count() == threads


def test_a_live_teacher_stays_and_one_that_is_cached_goes(configure: Configure):
    live = Steps(configure(*SMALL, "paradigm.teacher=online"), CPU, 1)
    cached = Steps(configure(*SMALL), CPU, 2)
    assert live.teacher is not None and not live.cached
    assert cached.teacher is None and len(cached.cached) == 2
    for steps in (live, cached):
        steps.take()
        assert all(parameter.grad is None for parameter in steps.student.parameters())


@pytest.mark.parametrize("paradigm", ["sft", "feature", "relational", "attention", "combined"])
def test_a_step_of_every_paradigm_on_one_text_can_be_taken(configure: Configure, paradigm: str):
    # A group of the relational term has eight rows.
    words = (*SMALL[:2], "training.micro_batch=8", "training.sequence_length=16")
    Steps(configure(*words, f"paradigm={paradigm}"), CPU, 1).take()


def test_operations_are_three_passes_of_the_student_and_one_of_a_live_teacher(
    configure: Configure,
):
    cached, online = (
        configure(*LLAMA, f"paradigm.teacher={teacher}", "training.gradient_checkpointing=false")
        for teacher in ("cached", "online")
    )
    student, teacher = (
        forward_flops_per_token(source.architecture, 2048)
        for source in (cached.model.student, cached.model.teacher)
    )
    assert useful_flop(cached, 10) == pytest.approx(30 * student)
    assert useful_flop(online, 10) == pytest.approx(30 * student + 10 * teacher)
    for config in (cached, online):
        assert executed_flop(config, 10) == pytest.approx(useful_flop(config, 10))


def test_what_is_computed_again_counts_as_executed_and_not_as_useful(configure: Configure):
    config = configure(*LLAMA)
    shape = config.model.student.architecture
    blocks = forward_flops_per_token(shape, 2048) - 2 * shape.vocab_size * shape.hidden_size
    assert config.training.gradient_checkpointing
    assert executed_flop(config, 1) - useful_flop(config, 1) == pytest.approx(blocks)


def test_a_pair_that_fits_is_measured_as_a_run_takes_it(configure: Configure):
    config = configure(*LLAMA, "training.compile=false")
    step = step_that_fits(config, "cuda", **H100)
    assert step is not None and step.cuts == ()
    assert step.planned_gib == pytest.approx(estimate(workload_of(config)).total_gib)
    assert tokens_of_step(step.config) == 65_536


def test_with_little_memory_both_models_have_fewer_blocks_and_so_has_the_plan(
    configure: Configure,
):
    config = configure(*LLAMA, "paradigm.teacher=online", "training.compile=false")
    whole = estimate(workload_of(config)).total_gib
    step = step_that_fits(config, "cuda", **(H100 | {"free_bytes": 30 * GIB}))
    assert step is not None
    student, teacher = (
        source.architecture.num_layers
        for source in (step.config.model.student, step.config.model.teacher)
    )
    assert student < 16 and teacher == round(32 * student / 16)
    assert step.cuts[-2:] == (
        f"{student} of 16 student blocks",
        f"{teacher} of 32 teacher blocks",
    )
    assert step.planned_gib < 0.93 * 30 < whole
    assert step.config.training.micro_batch == config.training.micro_batch


def test_with_little_time_accumulation_goes_first(configure: Configure):
    config = configure(*LLAMA, "training.compile=false")
    whole = step_that_fits(config, "cuda", **H100)
    assert whole is not None
    step = step_that_fits(config, "cuda", **(H100 | {"flop_per_s": 2e14}))
    assert step is not None
    assert step.cuts == ("accumulation 2 of 4",)


def test_rows_that_are_compared_with_each_other_stay_together(configure: Configure):
    words = ("gpu=cpu", "model=tiny", "paradigm=relational")
    sizes = {"free_bytes": 8 * GIB, "flop_per_s": 2e9, "seconds": 20.0}
    step = step_that_fits(configure(*words), "cpu", **sizes)
    other = step_that_fits(configure(*words[:2]), "cpu", **sizes)
    assert step is not None and step.config.training.micro_batch == 16
    assert other is not None and other.config.training.micro_batch < 16


def test_where_one_block_does_not_fit_there_is_no_step(configure: Configure):
    config = configure(*LLAMA)
    assert step_that_fits(config, "cuda", **(H100 | {"free_bytes": GIB})) is None
    assert step_that_fits(config, "cpu", **(H100 | {"flop_per_s": 1e6})) is None


def test_a_pair_that_does_not_fit_says_so_and_has_no_figure(patient: Callable[..., Patient]):
    huge = patient("gpu=cpu", "model=llama31_70b_to_8b", "paradigm.teacher=online")
    (found,) = pair_step(huge, 5.0)
    assert (found.name, found.verdict, found.value) == ("pair_step", None, None)
    assert found.remedy == "give more --minutes, or a smaller --model"


def test_a_teacher_of_another_vocabulary_is_said_to_be_left_out(patient: Callable[..., Patient]):
    (found,) = pair_step(patient("gpu=cpu", "model=llama31_8b_to_qwen25_1b5"), 5.0)
    assert (found.verdict, found.value) == (None, None)
    assert "another vocabulary" in found.found


def test_products_after_the_steps_have_the_size_of_those_before(
    patient: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
):
    sizes: list[int] = []

    def timed(device: torch.device, precision: str, *, seconds: float, size: int | None = None):
        sizes.append(size or 0)
        return real(device, precision, seconds=min(seconds, 0.1), size=size or 320)

    real = step_verdicts.product_windows
    monkeypatch.setattr(step_verdicts, "product_windows", timed)
    found = {verdict.name: verdict for verdict in pair_step(patient(*SMALL), 5.0)}
    assert sizes == [0, 320]
    assert "products of 320 x 320 random numbers" in found["step_products"].found


def allocates_too_much() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def says_that_cuda_has_no_more() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("fails", [allocates_too_much, says_that_cuda_has_no_more])
def test_a_step_without_memory_is_wrong_though_its_plan_fits(
    patient: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch, fails: Callable[[], None]
):
    monkeypatch.setattr(Steps, "take", lambda steps: fails())
    one = patient(*SMALL)
    (found,) = pair_step(one, 5.0)
    assert (found.name, found.verdict, found.value) == ("step_memory", "wrong", None)
    assert "out of memory" in found.found and found.remedy
    assert list(one.work_dir.iterdir()) == []


def test_another_error_of_a_step_is_not_taken_for_lack_of_memory(
    patient: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
):
    def fails(steps: Steps) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Steps, "take", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(pair_step(patient(*SMALL), 5.0))


@pytest.mark.parametrize(
    "peak_gib, verdict",
    [(10.0, "right"), (10.9, "right"), (9.1, "right"), (11.5, "attention"), (8.0, "attention"),
     (12.6, "wrong"), (None, None)],
)  # fmt: skip
def test_peak_memory_is_within_a_tenth_of_the_plan_s(peak_gib: float | None, verdict: str | None):
    found = memory_verdict(peak_gib, 10.0)
    assert (found.verdict, found.value) == (verdict, peak_gib)
    assert (found.remedy is None) == (verdict in ("right", None))


def test_a_quantised_teacher_and_adapters_do_not_stop_the_step(configure: Configure):
    config = configure(*LLAMA, "training=lora", "model.teacher.quantization=int4")
    step = step_that_fits(config, "cuda", **H100)
    assert step is not None and "all weights trained, without adapters" in step.cuts
    # Of a teacher that is cached, its bits are no part of a step.
    assert "the teacher not in int4" not in step.cuts
    assert replace(step.config.model.teacher).quantization is None


def test_what_a_run_does_and_the_step_does_not_is_said(configure: Configure):
    words = ("paradigm.teacher=online", "model.teacher.quantization=int4", "training.compile=false")
    words += ("training.parallel=fsdp", "training.respect_documents=true")
    step = step_that_fits(configure(*LLAMA, *words), "cuda", **H100)
    assert step is not None
    assert step.cuts[-3:] == (
        *("the teacher not in int4", "not in shards", "documents of a row not kept apart"),
    )
