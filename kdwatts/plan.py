"""`until=plan`: what a run would do and need, in words, without doing any of it."""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.artifact import read_artifact
from kdwatts.config import Config
from kdwatts.models.budget import GIB, Budget, estimate
from kdwatts.models.writing import estimate_writing
from kdwatts.pipeline import Node
from kdwatts.stages.work import plan_signals, teacher_source
from kdwatts.store import Store
from kdwatts.suggest import MOST_RANKS, suggest
from kdwatts.teacher.record import bytes_per_token
from kdwatts.telemetry.nvml import Gpu as Card


def describe(config: Config, nodes: Sequence[Node], store: Store, cards: Sequence[Card]) -> str:
    """The plan as text: stages with what would be reused, sizes, memory, operations, time."""
    budget = estimate(config)
    lines = [
        f"paradigm={config.paradigm.name} model={config.model.name} data={config.data.name} "
        f"gpu={config.gpu.name} seed={config.training.seed}",
        "",
        *_stage_lines(nodes, store, known=bool(cards) or config.gpu.device == "cpu"),
        "",
        *_size_lines(config, budget),
        *_memory_lines(config, budget),
        *_time_lines(config, budget),
        *_serving_lines(config, budget),
    ]
    return "\n".join(lines)


def check_memory(config: Config) -> None:
    """Raise ValueError when the estimate exceeds the card that `gpu` names."""
    budget, available = estimate(config), config.gpu.memory_gib
    if config.gpu.device != "cuda" or not available:
        return
    _check_teacher_fits(config, budget.teacher_weights_gib, available)
    _check_writing_fits(config, budget, available)
    if budget.total_gib > available:
        raise ValueError(
            f"model={config.model.name} on one gpu={config.gpu.name} needs about "
            f"{budget.total_gib:.0f} GiB (student with optimizer {budget.student_state_gib:.0f}, "
            f"teacher {budget.teacher_gib:.0f}, activations {budget.activations_gib:.0f}, logits "
            f"{budget.chunk_gib:.1f}), the card has {available:.0f}; {_remedy(config)}"
        )


def _remedy(config: Config) -> str:
    found = suggest(config)
    if found is None:
        online = config.paradigm.needs_signals and config.paradigm.teacher == "online"
        cached = "set paradigm.teacher=cached, or " if online else ""
        return f"{cached}choose a larger card or a smaller pair"
    cards = "" if found.ranks == 1 else f" on {found.ranks} cards (torchrun)"
    return f"the same steps fit{cards} with {' '.join(found.overrides)}"


def _check_teacher_fits(config: Config, teacher_gib: float, available_gib: float) -> None:
    if config.paradigm.needs_teacher and teacher_gib > available_gib:
        raise ValueError(
            f"model={config.model.name}: the teacher's weights alone take {teacher_gib:.0f} GiB, "
            f"one gpu={config.gpu.name} has {available_gib:.0f}; choose a larger card or a smaller "
            "pair"
        )


def _check_writing_fits(config: Config, budget: Budget, available_gib: float) -> None:
    """The teacher writes alone on the card, the student beside all that trains it."""
    writing = estimate_writing(config)
    if not writing:
        return
    beside_gib = budget.total_gib if writing.writer == "student" else writing.weights_gib
    if beside_gib <= available_gib < beside_gib + writing.cache_gib:
        raise ValueError(
            f"paradigm.generate: keys and values of a batch take {writing.cache_gib:.0f} GiB and "
            f"what is beside them {beside_gib:.0f}, one gpu={config.gpu.name} has "
            f"{available_gib:.0f}; lower paradigm.generate.batch_size or new_tokens"
        )


def _stage_lines(nodes: Sequence[Node], store: Store, *, known: bool) -> list[str]:
    lines = ["stages:"]
    for node in nodes:
        found = store.find(node.stage, node.key)
        if found:
            artifact = read_artifact(found)
            state = f"reused, {artifact.cost_in_words()}"
        elif known or "hardware" not in node.settings:
            state = "would be built"
        else:
            state = "would be built; its key depends on the card that the job finds"
        lines.append(f"  {node.name:<18} {node.key}  {state}")
    return lines


def _size_lines(config: Config, budget: Budget) -> list[str]:
    training = config.training
    tokens_per_step = training.micro_batch * training.accumulation * training.sequence_length
    quantization = config.model.teacher.quantization if config.model.teacher else None
    lines = [
        f"student: {_count(budget.student_params)} parameters"
        + (f", {_count(budget.trained_params)} in adapters" if training.lora else "")
        + (f"; teacher: {_count(budget.teacher_params)}" if budget.teacher_params else "")
        + (f" in {quantization}" if quantization else ""),
        f"training: {training.target_tokens:,} target tokens, {tokens_per_step:,} a step, "
        f"{-(-training.target_tokens // tokens_per_step):,} steps, more where prompts are masked",
        f"operations: {_pflop(budget.train_pflop)} for the student, "
        f"{_pflop(budget.teacher_pflop)} for the teacher",
    ]
    if training.budget_kj is not None:
        lines.append(f"stops at {training.budget_kj:g} kJ, load and earlier attempts included")
    if training.heldout_every:
        lines.append(
            f"held-out loss: {training.heldout_tokens:,} targets every {training.heldout_every} "
            "steps and at the end"
        )
    if writing := estimate_writing(config):
        lines.append(
            f"text: the {writing.writer} writes at most {writing.num_tokens:,} tokens, "
            f"{writing.new_tokens:,} after each of {writing.num_prompts:,} prompts of "
            f"{writing.prompt_tokens:,}: {_pflop(writing.pflop)}, {writing.cache_gib:,.2f} GiB of "
            "keys and values a batch"
        )
    if config.paradigm.needs_signals and config.paradigm.teacher == "cached":
        width = teacher_source(config).architecture.hidden_size
        each = bytes_per_token(plan_signals(config), training.sequence_length, width)
        lines.append(
            f"teacher cache: {each:,.0f} bytes a token, about "
            f"{each * training.target_tokens / 1e9:,.2f} GB on disk"
        )
    return lines


def _memory_lines(config: Config, budget: Budget) -> list[str]:
    has = f", the card has {config.gpu.memory_gib:.0f} GiB" if config.gpu.memory_gib else ""
    lines = [
        f"memory while training, estimated: {budget.total_gib:,.2f} GiB{has} (student with "
        f"optimizer {budget.student_state_gib:,.2f}, projectors {budget.projectors_gib:,.2f}, "
        f"teacher {budget.teacher_gib:,.2f}, "
        f"activations {budget.activations_gib:,.2f}, logits {budget.chunk_gib:,.2f})"
    ]
    if found := suggest(config):
        cards = "one card" if found.ranks == 1 else f"{found.ranks} cards"
        lines.append(
            f"same steps on {cards} at {found.total_gib:,.0f} GiB each: {' '.join(found.overrides)}"
        )
    elif config.gpu.memory_gib:
        lines.append(f"no cut of these steps fits up to {MOST_RANKS} cards")
    return lines


REACHED = (1 / 2, 1 / 3)
"""Shares of a card's peak rate at which training is expected; four large models reached 21 to 46 %
(Chowdhery et al. 2022, arXiv 2204.02311, table 3)."""
OPTIMIZER_BYTES = 28
"""Per trained parameter and step, in float32: weight, gradient and two moments read, weight and
moments written."""


def _time_lines(config: Config, budget: Budget) -> list[str]:
    peak, tdp_w = config.gpu.bf16_dense_tflops, config.gpu.tdp_w
    if not peak or not tdp_w:
        return []
    training = config.training
    writing = estimate_writing(config)
    pflop = budget.train_pflop + budget.teacher_pflop + (writing.pflop if writing else 0.0)
    tokens_per_step = training.micro_batch * training.accumulation * training.sequence_length
    num_steps = training.target_tokens / tokens_per_step
    moved_s = 0.0
    if config.gpu.memory_bandwidth_gb_s:
        bytes_per_step = OPTIMIZER_BYTES * budget.trained_params
        moved_s = num_steps * bytes_per_step / (config.gpu.memory_bandwidth_gb_s * 1e9)
    least_h, low_h, high_h = (
        (pflop * 1e3 / (peak * share) + moved_s) / 3600 for share in (1.0, *REACHED)
    )
    kwh = [hours * tdp_w / 1000 for hours in (least_h, low_h, high_h)]
    return [
        f"expected on one card: {low_h:,.2f} to {high_h:,.2f} h, {kwh[1]:,.2f} to {kwh[2]:,.2f} "
        f"kWh at a half to a third of its {peak:,.0f} TFLOP/s and all of its {tdp_w:,.0f} W; at "
        f"least {least_h:,.2f} h, {kwh[0]:,.2f} kWh"
    ]


def _serving_lines(config: Config, budget: Budget) -> list[str]:
    """A decoding step reads every weight once, whatever the batch: no card is faster than that."""
    bandwidth_gb_s = config.gpu.memory_bandwidth_gb_s
    if not bandwidth_gb_s:
        return []
    sizes_gib = {"student": budget.student_served_gib, "teacher": budget.teacher_weights_gib}
    steps = [
        f"{subject} {bandwidth_gb_s * 1e9 / (size_gib * GIB):,.0f} steps/s"
        for subject, size_gib in sizes_gib.items()
        if size_gib
    ]
    return [f"decoding at the card's {bandwidth_gb_s:,.0f} GB/s, at most: {', '.join(steps)}"]


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _pflop(value: float) -> str:
    return f"{value:,.3g} PFLOP"
