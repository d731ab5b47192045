"""The memory that each part of a run needs on one GPU, and whether the GPU has it."""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.config.checks import check
from kdwatts.config.experiment import Config
from kdwatts.config.pair import Architecture
from kdwatts.losses.chunks import ROWS_PER_FORWARD
from kdwatts.memory.budget import GIB, Budget, estimate
from kdwatts.memory.generation_budget import estimate_writing, writing_work_bytes_of
from kdwatts.memory.term_sizes import forward_work_bytes, sparse_work_bytes
from kdwatts.memory.workload import Workload
from kdwatts.runtime.ranks import Launch, own_launch

CONTEXT_GIB = 1.0
"""GiB of NVML's memory of a GPU that tensors cannot have.

CUDA does not offer 0.35 to 0.8 GiB of it (conf/gpu), and a context takes some.
"""


@dataclass(frozen=True)
class Demand:
    """The most that one part of a run has on a GPU at once."""

    part: str
    """training, writing, teacher (which makes its cache), or evaluation."""
    gib: float
    what: str
    """What takes it, in words."""


def workload_of(config: Config) -> Workload:
    """The part of an experiment that decides how much memory it takes."""
    return Workload(config.paradigm, config.model, config.training, config.gpu)


def shown_unit(total_gib: float) -> tuple[str, int]:
    """The unit in which a sum and its parts are shown, and how many of it are a GiB."""
    return ("GiB", 1) if total_gib >= 1 else ("MiB", 1024)


def budget_of(config: Config, launch: Launch | None = None) -> Budget:
    """The memory on each GPU of a launch, and operations. None is the launch of this process."""
    return estimate(workload_of(config), launch)


def demands(config: Config, launch: Launch | None = None) -> list[Demand]:
    """The memory that each part of a run takes on each GPU of a launch, in order.

    What builds a teacher's cache, text or scores has the whole teacher on one GPU, even when
    training keeps it in shards.
    """
    workload, found = workload_of(config), []
    budget = budget_of(config, launch)
    paradigm, teacher = config.paradigm, config.model.teacher
    if teacher:
        whole_gib = budget.teacher_whole_gib
        if paradigm.needs_signals and paradigm.teacher == "cached":
            work_gib = _reading_gib(workload, teacher.architecture)
            _, scale = shown_unit(whole_gib + work_gib)
            what = f"the teacher {scale * whole_gib:.0f}, a forward pass {scale * work_gib:.0f}"
            found.append(Demand("teacher", whole_gib + work_gib, what))
        if config.eval.tasks or config.eval.inference or config.eval.serving.is_measured:
            what = "the teacher whole, for its scores"
            found.append(Demand("evaluation", whole_gib, what))
    if writing := estimate_writing(workload):
        beside_gib = writing_work_bytes_of(workload, writing) / GIB
        if writing.writer == "teacher":
            beside_gib += writing.weights_gib
        else:
            beside_gib += _between_steps_gib(budget)
        unit, scale = shown_unit(beside_gib + writing.cache_gib)
        what = (
            f"keys and values of a batch take {scale * writing.cache_gib:.0f} {unit} and all else "
            f"{scale * beside_gib:.0f} {unit}"
        )
        found.append(Demand("writing", beside_gib + writing.cache_gib, what))
    _, scale = shown_unit(budget.total_gib)
    parts = {
        "student with optimizer": budget.student_state_gib,
        "teacher": budget.teacher_gib,
        "activations": budget.activations_gib,
        "states compared": budget.compared_gib,
    }
    what = ", ".join(f"{name} {scale * gib:.0f}" for name, gib in parts.items())
    found.append(Demand("training", budget.total_gib, what))
    return found


def available_gib(config: Config) -> float:
    """GiB of the GPU's memory that tensors can have. The GPU's size must be known."""
    assert config.gpu.memory_gib
    return config.gpu.memory_gib - CONTEXT_GIB


def is_allowed(config: Config, launch: Launch | None = None) -> bool:
    """Whether the choices fit together in a launch, and every part of the run fits its GPU."""
    return is_possible(config, launch) and all(
        demand.gib <= available_gib(config) for demand in demands(config, launch)
    )


def is_possible(config: Config, launch: Launch | None = None) -> bool:
    """Whether the choices fit together in a launch, whatever memory they take."""
    try:
        check(config, ranks=(launch or own_launch()).ranks)
    except ValueError:
        return False
    return True


def _between_steps_gib(budget: Budget) -> float:
    """What is on the GPU when the student writes: no activation and no gradient is."""
    state_gib = budget.student_state_gib - budget.gradients_gib
    return state_gib + budget.copies_gib + budget.projectors_gib + budget.teacher_gib


def _reading_gib(workload: Workload, shape: Architecture) -> float:
    """What a teacher takes to read the rows of one forward pass for its cache."""
    tokens, value_bytes = ROWS_PER_FORWARD * workload.training.sequence_length, workload.value_bytes
    work = forward_work_bytes(shape, tokens=tokens, value_bytes=value_bytes)
    response = workload.paradigm.response
    if response and response.support != "dense":
        work = max(work, sparse_work_bytes(shape, tokens=tokens, value_bytes=value_bytes))
    return work / GIB
