"""Whether a run fits the GPU that `gpu` names, and what to do where it does not."""

from __future__ import annotations

import copy
from collections.abc import Collection

from kdwatts.config.experiment import Config
from kdwatts.config.pair import QUANTIZATIONS
from kdwatts.memory.budget import Budget
from kdwatts.memory.generation_budget import estimate_writing
from kdwatts.planning.demands import (
    Demand,
    available_gib,
    demands,
    is_allowed,
    is_possible,
    shown_unit,
    workload_of,
)
from kdwatts.planning.suggest import MOST_RANKS, suggest
from kdwatts.runtime.ranks import Launch

ANOTHER = "choose a larger GPU or a smaller pair"


def check_memory(
    config: Config, launch: Launch | None = None, *, parts: Collection[str] | None = None
) -> None:
    """Raise ValueError when a part of the run exceeds the GPU that `gpu` names.

    The ranks of `launch` share the work, one per GPU. None means those of this process's launch.
    `parts` are the parts that count. None means all.
    """
    if config.gpu.device != "cuda" or not config.gpu.memory_gib:
        return
    available = available_gib(config)
    for demand in demands(config, launch):
        if demand.gib > available and (parts is None or demand.part in parts):
            raise ValueError(_refusal(config, demand, launch))


def _refusal(config: Config, demand: Demand, launch: Launch | None) -> str:
    gpu = f"and one gpu={config.gpu.name} has room for {available_gib(config):.0f} GiB"
    pair = f"model={config.model.name}"
    if demand.part == "training":
        return (
            f"{pair} on one gpu={config.gpu.name} needs about {demand.gib:.0f} GiB "
            f"({demand.what}), and the GPU has room for {available_gib(config):.0f} GiB; "
            f"{_remedy(config, launch)}"
        )
    if demand.part == "writing":
        remedy = (
            _smaller_batch(config, launch) or _quantised(config, launch) or _shorter(config, demand)
        )
        return f"paradigm.generate: {demand.what}, {gpu}; {remedy}"
    without = "set eval=none, or " if demand.part == "evaluation" else ""
    remedy = _beside(config, launch) or _quantised(config, launch) or without + ANOTHER
    needs = f"its {demand.part} needs about {demand.gib:.0f} GiB ({demand.what})"
    return f"{pair}: {needs}, {gpu}; {remedy}"


def _remedy(config: Config, launch: Launch | None) -> str:
    if found := suggest(config):
        gpus = "" if found.ranks == 1 else f" on {found.ranks} GPUs (torchrun)"
        return f"the same steps fit{gpus} with {' '.join(found.overrides)}"
    online = config.paradigm.needs_signals and config.paradigm.teacher == "online"
    cached = "set paradigm.teacher=cached, or " if online else ""
    return _quantised(config, launch) or cached + ANOTHER


def _beside(config: Config, launch: Launch | None) -> str | None:
    """How ranks that share the teacher in shards can ask it while they train, in words.

    None where the teacher is to be whole on every rank, or where that does not fit either. Nothing
    but the student can then be scored: a teacher that is scored is whole on one GPU.
    """
    if not (config.training.shards_teacher and config.paradigm.needs_signals):
        return None
    tried = copy.deepcopy(config)
    tried.paradigm.teacher = "online"
    large = {one.part for one in demands(tried, launch) if one.gib > available_gib(tried)}
    if large - {"evaluation"} or not is_possible(tried, launch):
        return None
    if config.paradigm.teacher == "online":
        return "set eval=none, for a teacher in shards cannot be scored"
    unscored = " eval=none" if large else ""
    return f"set paradigm.teacher=online{unscored}, so that the ranks share the teacher in shards"


def _smaller_batch(config: Config, launch: Launch | None) -> str | None:
    """With how many texts at once writing fits, in words; None where not even one does."""
    tried = copy.deepcopy(config)
    generate = tried.paradigm.generate
    assert generate
    while generate.batch_size > 1:
        generate.batch_size //= 2
        (gib,) = [one.gib for one in demands(tried, launch) if one.part == "writing"]
        if gib <= available_gib(tried):
            return f"set paradigm.generate.batch_size={generate.batch_size}"
    return None


def _shorter(config: Config, demand: Demand) -> str:
    """What helps where not even one text at a time fits: fewer tokens, if there is room for any."""
    writing = estimate_writing(workload_of(config))
    assert writing
    has_room = demand.gib - writing.cache_gib < available_gib(config)
    return "lower paradigm.generate.new_tokens" if has_room else ANOTHER


def _quantised(config: Config, launch: Launch | None) -> str | None:
    """With how few bits a teacher all that this run asks fits, in words; None where it does not."""
    teacher = config.model.teacher
    if teacher is None or teacher.path is None or teacher.quantization == QUANTIZATIONS[-1]:
        return None
    tried = copy.deepcopy(config)
    assert tried.model.teacher
    tried.training.teacher_parallel = "ddp"
    bits_left = QUANTIZATIONS if teacher.quantization is None else QUANTIZATIONS[1:]
    for tried.model.teacher.quantization in bits_left:
        asked = f"set model.teacher.quantization={tried.model.teacher.quantization}"
        if config.training.shards_teacher:
            asked += " training.teacher_parallel=ddp"
        if is_allowed(tried, launch):
            return asked
        if found := suggest(tried):
            gpus = "" if found.ranks == 1 else f" on {found.ranks} GPUs (torchrun)"
            return f"{asked}, which fits{gpus} with {' '.join(found.overrides)}"
    return None


def memory_lines(config: Config, budget: Budget, launch: Launch | None = None) -> list[str]:
    """Memory at a step's fullest moment, its parts, and a cut of the step that fits."""
    has = f"; the GPU has {config.gpu.memory_gib:.0f} GiB" if config.gpu.memory_gib else ""
    unit, scale = shown_unit(budget.total_gib)
    parts = {
        "student with optimizer": budget.student_state_gib,
        "projectors": budget.projectors_gib,
        "cast weights": budget.copies_gib,
        "teacher": budget.teacher_gib,
        "activations": budget.activations_gib,
        "states compared": budget.compared_gib,
        "logits": budget.chunk_gib,
    }
    lines = [
        f"memory while training: at most {scale * budget.total_gib:,.2f} {unit} (estimated), "
        f"reached in the {budget.fullest} part of a step{has}",
        "  made up of: "
        + ", ".join(f"{what} {scale * gib:,.2f}" for what, gib in parts.items() if gib),
    ]
    if not config.gpu.memory_gib:
        return lines
    others = [demand for demand in demands(config, launch) if demand.part != "training"]
    for demand in others:
        unit, scale = shown_unit(demand.gib)
        lines.append(
            f"  {demand.part}: {scale * demand.gib:,.1f} {unit} on one GPU ({demand.what})"
        )
    if found := suggest(config):
        gpus = "one GPU" if found.ranks == 1 else f"{found.ranks} GPUs"
        unit, scale = shown_unit(found.total_gib)
        lines.append(
            f"  the same steps fit {gpus} with {scale * found.total_gib:,.0f} {unit} each: "
            f"{' '.join(found.overrides)}"
        )
    elif large := [demand.part for demand in others if demand.gib > available_gib(config)]:
        lines.append(
            f"  the GPU has no room for its {' and '.join(large)}, whatever the micro-batch is"
        )
    else:
        lines.append(f"  these steps fit no number of GPUs up to {MOST_RANKS}")
    return lines
