"""Whether a run fits the card that `gpu` names, and what to do where it does not."""

from __future__ import annotations

from kdwatts.config import Config
from kdwatts.models.budget import Budget, estimate
from kdwatts.models.writing import estimate_writing
from kdwatts.planning.suggest import MOST_RANKS, suggest


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
            f"teacher {budget.teacher_gib:.0f}, activations {budget.activations_gib:.0f}, states "
            f"compared {budget.compared_gib:.0f}), the card has {available:.0f}; {_remedy(config)}"
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


def memory_lines(config: Config, budget: Budget) -> list[str]:
    has = f", the card has {config.gpu.memory_gib:.0f} GiB" if config.gpu.memory_gib else ""
    lines = [
        f"memory while training, estimated: {budget.total_gib:,.2f} GiB at its fullest moment, "
        f"{budget.fullest}{has}",
        f"  of it student with optimizer {budget.student_state_gib:,.2f}, projectors "
        f"{budget.projectors_gib:,.2f}, cast weights {budget.copies_gib:,.2f}, teacher "
        f"{budget.teacher_gib:,.2f}, activations {budget.activations_gib:,.2f}, states compared "
        f"{budget.compared_gib:,.2f}, logits {budget.chunk_gib:,.2f}",
    ]
    if found := suggest(config):
        cards = "one card" if found.ranks == 1 else f"{found.ranks} cards"
        lines.append(
            f"same steps on {cards} at {found.total_gib:,.0f} GiB each: {' '.join(found.overrides)}"
        )
    elif config.gpu.memory_gib:
        lines.append(f"no cut of these steps fits up to {MOST_RANKS} cards")
    return lines
