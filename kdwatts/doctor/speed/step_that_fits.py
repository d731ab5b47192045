"""The pair's step as a run takes it, or as much of it as memory and time allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.config.training import Training
from kdwatts.doctor.speed.pair_step import executed_flop, tokens_of_step
from kdwatts.memory.budget import GIB, estimate
from kdwatts.memory.model_shape import parameters_of, weights_bytes_of
from kdwatts.memory.term_sizes import forward_work_bytes, sparse_work_bytes
from kdwatts.planning.demands import workload_of
from kdwatts.runtime.ranks import Launch

LEAST_SHARE = {"cuda": 0.25, "cpu": 0.15}
"""Share of the rate of products that a step is taken to reach before it is measured. Below it the
step takes longer than was thought, and fewer steps are timed."""

MADE_PER_S = {"cuda": 1e9, "cpu": 3e7}
"""Random weights that are made a second, taken low."""

STEPS = 5
"""Steps that must fit into the seconds: two before the clock runs, and three timed ones."""

MEMORY_SHARE = {"cuda": 0.93, "cpu": 0.5}
"""Share of the free memory that the plan of the step may fill. A CPU's has other users."""

LEAST_LENGTH = 128
"""Sequences are not made shorter than this. Only a CPU's are."""


@dataclass(frozen=True)
class FittingStep:
    """The settings of a step that can be measured here."""

    config: Config
    """The pair with random weights, perhaps with fewer blocks, and its training."""
    cuts: tuple[str, ...]
    """What was left out, in words; empty where it is the whole step."""

    @property
    def planned_gib(self) -> float:
        """Memory that the plan expects of this step, in GiB."""
        return estimate(workload_of(self.config), Launch()).total_gib


def step_that_fits(
    config: Config, device: str, *, free_bytes: float, flop_per_s: float, seconds: float
) -> FittingStep | None:
    """The largest step with its plan in the free memory and some steps in the seconds.

    Accumulation goes first, then, on a CPU, rows and length, and then blocks of both models, in the
    same proportion. None where not even one block of each fits.
    """
    whole = _alone(config, device)
    cut = whole
    for training in _shorter(whole, device):
        cut = replace(whole, training=training)
        if _fits(cut, device, free_bytes, flop_per_s, seconds):
            return FittingStep(cut, tuple(_cuts(config, cut)))
    for layers in range(whole.model.student.architecture.num_layers - 1, 0, -1):
        fewer = _with_layers(cut, layers)
        if _fits(fewer, device, free_bytes, flop_per_s, seconds):
            return FittingStep(fewer, tuple(_cuts(config, fewer)))
    return None


def _alone(config: Config, device: str) -> Config:
    """The settings for one process, with random weights and without what a step has not."""
    pair, training = config.model, config.training
    student = replace(pair.student, path=None, revision=None, init_from_teacher=None)
    teacher = pair.teacher
    if teacher is not None:
        teacher = replace(teacher, path=None, revision=None, quantization=None)
    training = replace(
        training,
        compile=False,
        lora=None,
        parallel="ddp",
        teacher_parallel="ddp",
        respect_documents=False,
    )
    alone = replace(
        config,
        model=replace(pair, student=student, teacher=teacher),
        training=training,
        gpu=replace(config.gpu, device=device),
    )
    return _with_few_teacher_blocks(alone)


def _with_few_teacher_blocks(config: Config) -> Config:
    """One block for a teacher whose cached top tokens have the same shape whatever made them."""
    paradigm, teacher = config.paradigm, config.model.teacher
    is_read = paradigm.feature or paradigm.relational or paradigm.teacher == "online"
    if teacher is None or is_read:
        return config
    return replace(config, model=replace(config.model, teacher=_cut(teacher, 1)))


def _shorter(config: Config, device: str) -> Iterator[Training]:
    """The training, and ever shorter ones."""
    training = config.training
    yield training
    # Two, so that gradients stay while the next forward pass runs, as in a run.
    few = min(training.accumulation, 2)
    training = replace(training, accumulation=few)
    yield training
    if device == "cuda":
        return  # Smaller products would not reach the rate of the run's.
    training = replace(training, accumulation=1)
    yield training
    # Relations are between the rows of a forward pass.
    while training.micro_batch > 1 and not config.paradigm.relational:
        training = replace(training, micro_batch=training.micro_batch // 2)
        yield training
    while training.sequence_length > LEAST_LENGTH:
        half = max(LEAST_LENGTH, training.sequence_length // 2)
        training = replace(training, sequence_length=half)
        yield training


def _with_layers(config: Config, layers: int) -> Config:
    """Both models with fewer blocks: so many of the student, in proportion of the teacher."""
    pair = config.model
    whole = pair.student.architecture.num_layers
    teacher = pair.teacher
    if teacher is not None:
        share = round(teacher.architecture.num_layers * layers / whole)
        teacher = _cut(teacher, max(1, share))
    pair = replace(pair, student=_cut(pair.student, layers), teacher=teacher)
    return replace(config, model=pair)


def _cut(source: ModelSource, layers: int) -> ModelSource:
    return replace(source, architecture=replace(source.architecture, num_layers=layers))


def _fits(
    config: Config, device: str, free_bytes: float, flop_per_s: float, seconds: float
) -> bool:
    if _bytes(config) > MEMORY_SHARE[device] * free_bytes:
        return False
    models = [config.model.student, *([config.model.teacher] if config.model.teacher else [])]
    made = sum(parameters_of(source.architecture) for source in models)
    flop = executed_flop(config, tokens_of_step(config))
    step_s = flop / (LEAST_SHARE[device] * flop_per_s)
    return made / MADE_PER_S[device] + STEPS * step_s <= seconds


def _bytes(config: Config) -> float:
    """Bytes of the step, or of the teacher while it makes what is cached."""
    workload, teacher = workload_of(config), config.model.teacher
    training = estimate(workload, Launch()).total_gib * GIB
    if teacher is None or not config.paradigm.needs_signals:
        return training
    sizes = {"tokens": workload.tokens, "value_bytes": workload.value_bytes}
    work = max(
        work_of(teacher.architecture, **sizes)
        for work_of in (forward_work_bytes, sparse_work_bytes)
    )
    return max(training, weights_bytes_of(teacher, workload.value_bytes) + work)


def _cuts(config: Config, cut: Config) -> Iterator[str]:
    """What the step has less than the run, in words."""
    for name in ("accumulation", "micro_batch", "sequence_length"):
        mine, whole = getattr(cut.training, name), getattr(config.training, name)
        if mine != whole:
            yield f"{name} {mine:,} of {whole:,}"
    student = config.model.student.architecture.num_layers
    if cut.model.student.architecture.num_layers < student:
        yield f"{cut.model.student.architecture.num_layers} of {student} student blocks"
    live = config.paradigm.needs_signals and config.paradigm.teacher == "online"
    mine, whole = cut.model.teacher, config.model.teacher
    if live and mine and whole and mine.architecture.num_layers < whole.architecture.num_layers:
        yield f"{mine.architecture.num_layers} of {whole.architecture.num_layers} teacher blocks"
    if config.training.is_compiled:
        yield "not compiled"
    if config.training.lora:
        yield "all weights trained, without adapters"
    if live and whole and whole.quantization:
        yield f"the teacher not in {whole.quantization}"
    if config.training.shards_student or config.training.shards_teacher:
        yield "not in shards"
    if config.training.respect_documents:
        yield "documents of a row not kept apart"
