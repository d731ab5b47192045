"""Parameters, tokens, operations and disk space, in words."""

from __future__ import annotations

from kdwatts.config.experiment import Config
from kdwatts.memory.budget import Budget
from kdwatts.memory.generation_budget import estimate_writing
from kdwatts.planning.demands import workload_of
from kdwatts.stages.work import plan_signals, teacher_source
from kdwatts.teacher.cache_record import bytes_per_token


def size_lines(config: Config, budget: Budget) -> list[str]:
    """The lines of the plan about sizes."""
    training = config.training
    tokens_per_step = training.micro_batch * training.accumulation * training.sequence_length
    quantization = config.model.teacher.quantization if config.model.teacher else None
    lines = [
        f"student: {_count(budget.student_params)} parameters"
        + (f", {_count(budget.trained_params)} in adapters" if training.lora else "")
        + (f"; teacher: {_count(budget.teacher_params)}" if budget.teacher_params else "")
        + (f" in {quantization}" if quantization else ""),
        f"training: {training.target_tokens:,} target tokens in "
        f"{-(-training.target_tokens // tokens_per_step):,} steps of {tokens_per_step:,} tokens "
        "(more steps where prompts are masked)",
        f"operations: {_pflop(budget.train_pflop)} for the student, "
        f"{_pflop(budget.teacher_pflop)} for the teacher",
    ]
    if training.budget_kj is not None:
        lines.append(
            f"training stops at {training.budget_kj:g} kJ; loading and earlier attempts count too"
        )
    if training.heldout_every:
        lines.append(
            f"held-out loss: on {training.heldout_tokens:,} tokens, every {training.heldout_every} "
            "steps and at the end"
        )
    if writing := estimate_writing(workload_of(config)):
        lines.append(
            f"text: the {writing.writer} writes at most {writing.num_tokens:,} tokens, "
            f"{writing.new_tokens:,} after each of {writing.num_prompts:,} prompts of "
            f"{writing.prompt_tokens:,}: {_pflop(writing.pflop)}, {writing.cache_gib:,.2f} GiB of "
            "keys and values a batch"
        )
    if each := cache_bytes_per_target(config):
        whole = each * training.target_tokens
        unit, size = ("GB", 1e9) if whole >= 1e9 else ("MB", 1e6)
        lines.append(
            f"teacher cache: {each:,.0f} bytes a token, about {whole / size:,.2f} {unit} on disk"
        )
    return lines


def cache_bytes_per_target(config: Config) -> float | None:
    """Bytes of the teacher's cache on disk per target token. None where none is made."""
    if not config.paradigm.needs_signals or config.paradigm.teacher != "cached":
        return None
    width = teacher_source(config).architecture.hidden_size
    return bytes_per_token(plan_signals(config), config.training.sequence_length, width)


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _pflop(value: float) -> str:
    return f"{value:,.3g} PFLOP"
