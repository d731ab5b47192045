"""A plan as text: stages, sizes, memory, operations, time."""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.artifacts.artifact import read_artifact
from kdwatts.artifacts.store import Store
from kdwatts.config.experiment import Config
from kdwatts.planning.demands import budget_of
from kdwatts.planning.feasibility import unmade_teacher
from kdwatts.planning.fits import memory_lines
from kdwatts.planning.interconnect import sending_lines
from kdwatts.planning.measured_rates import rates_of
from kdwatts.planning.roofline import (
    costs_left,
    num_steps,
    serving_lines,
    time_lines,
    training_s,
)
from kdwatts.planning.serving_time import load_lines
from kdwatts.planning.serving_words import estimate_lines
from kdwatts.planning.sizes import size_lines
from kdwatts.planning.writer_lines import writer_lines
from kdwatts.runtime.ranks import Launch, own_launch
from kdwatts.stages.graph import PlannedStage, is_missing
from kdwatts.telemetry.nvml import Device


def describe(
    config: Config,
    stages: Sequence[PlannedStage],
    store: Store,
    gpus: Sequence[Device],
    launch: Launch | None = None,
    *,
    before: Launch | None = None,
) -> str:
    """The plan as text: stages and what would be reused, sizes, memory, operations, time.

    Keys need the bytes of a teacher. Where a teacher has still to be made, the plan says how
    instead. Rates are those that the doctor measured, where the store has them. `launch` is that of
    the run, None for that of this process; `before` is that of the job that makes a teacher's cache
    before it, None where the run makes it.
    """
    launch = launch or own_launch()
    rates = rates_of(config, store.root, launch)
    budget, missing = budget_of(config, launch), unmade_teacher(config.model)
    trained_s = training_s(config, budget, rates, launch)
    knows_cards = bool(gpus) and launch.nodes == 1
    lines = [
        f"paradigm={config.paradigm.name} model={config.model.name} data={config.data.name} "
        f"gpu={config.gpu.name} seed={config.training.seed}",
        *([f"launched as {launch.in_words()}"] if launch.ranks > 1 else []),
        "",
        *(
            [f"stages: not known yet: {missing}"]
            if missing
            else _stage_lines(stages, store, known=knows_cards or config.gpu.device == "cpu")
        ),
        "",
        *size_lines(config, budget),
        *writer_lines(config, stages),
        *memory_lines(config, budget, launch),
        *sending_lines(config, launch, step_s=trained_s and sum(trained_s) / num_steps(config)),
        *time_lines(
            config, costs_left(config, stages, store, launch, before=before), rates, launch
        ),
        *serving_lines(config, budget, rates),
        *load_lines(config, [planned for planned in stages if is_missing(planned, store)]),
        *estimate_lines(config, rates),
    ]
    return "\n".join(lines)


def _stage_lines(stages: Sequence[PlannedStage], store: Store, *, known: bool) -> list[str]:
    lines = ["stages:"]
    width = max(18, *(len(planned.name) for planned in stages)) if stages else 0
    for planned in stages:
        folders = list(planned.folders(store).values())
        if folders and not is_missing(planned, store):
            state = f"reused, {read_artifact(folders[0]).cost_in_words()}"
        elif folders:
            state = f"measurement {len(folders) + 1} of {planned.measurements} would be built"
        elif known or "hardware" not in planned.settings:
            state = "would be built"
        else:
            state = "would be built; its key depends on the GPU that the job finds"
        lines.append(f"  {planned.name:<{width}} {planned.key}  {state}")
    return lines
