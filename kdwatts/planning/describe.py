"""A plan as text: stages, sizes, memory, operations, time."""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.artifacts.artifact import read_artifact
from kdwatts.artifacts.store import Store
from kdwatts.config.experiment import Config
from kdwatts.memory.budget import estimate
from kdwatts.planning.demands import workload_of
from kdwatts.planning.feasibility import unmade_teacher
from kdwatts.planning.fits import memory_lines
from kdwatts.planning.measured_rates import rates_of
from kdwatts.planning.roofline import costs_left, serving_lines, time_lines
from kdwatts.planning.serving_time import load_lines
from kdwatts.planning.serving_words import estimate_lines
from kdwatts.planning.sizes import size_lines
from kdwatts.planning.writer_lines import writer_lines
from kdwatts.stages.graph import Node, is_missing
from kdwatts.telemetry.nvml import Device


def describe(config: Config, nodes: Sequence[Node], store: Store, gpus: Sequence[Device]) -> str:
    """The plan as text: stages and what would be reused, sizes, memory, operations, time.

    Keys need the bytes of a teacher. Where a teacher has still to be made, the plan says how
    instead. Rates are those that the doctor measured, where the store has them.
    """
    rates = rates_of(config, store.root)
    budget, missing = estimate(workload_of(config)), unmade_teacher(config.model)
    lines = [
        f"paradigm={config.paradigm.name} model={config.model.name} data={config.data.name} "
        f"gpu={config.gpu.name} seed={config.training.seed}",
        "",
        *(
            [f"stages: not known yet: {missing}"]
            if missing
            else _stage_lines(nodes, store, known=bool(gpus) or config.gpu.device == "cpu")
        ),
        "",
        *size_lines(config, budget),
        *writer_lines(config, nodes),
        *memory_lines(config, budget),
        *time_lines(config, costs_left(config, nodes, store), rates),
        *serving_lines(config, budget, rates),
        *load_lines(config, [node for node in nodes if is_missing(node, store)]),
        *estimate_lines(config, rates),
    ]
    return "\n".join(lines)


def _stage_lines(nodes: Sequence[Node], store: Store, *, known: bool) -> list[str]:
    lines = ["stages:"]
    width = max(18, *(len(node.name) for node in nodes)) if nodes else 0
    for node in nodes:
        folders = list(node.folders(store).values())
        if folders and not is_missing(node, store):
            state = f"reused, {read_artifact(folders[0]).cost_in_words()}"
        elif folders:
            state = f"measurement {len(folders) + 1} of {node.measurements} would be built"
        elif known or "hardware" not in node.settings:
            state = "would be built"
        else:
            state = "would be built; its key depends on the GPU that the job finds"
        lines.append(f"  {node.name:<{width}} {node.key}  {state}")
    return lines
