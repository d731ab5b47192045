"""Hours and kWh by the GPU's figures: its arithmetic, its bandwidth, its power."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdwatts.artifacts.store import Store
from kdwatts.config.experiment import Config, to_dict
from kdwatts.memory.budget import GIB, Budget, estimate
from kdwatts.memory.generation_budget import WritingBudget, estimate_writing
from kdwatts.memory.model_shape import forward_flops_per_token, step_bytes_of
from kdwatts.planning.demands import workload_of
from kdwatts.planning.feasibility import unmade_teacher
from kdwatts.runtime.fingerprint import fingerprint
from kdwatts.runtime.ranks import launched
from kdwatts.stages.graph import Node

REACHED = (1 / 2, 1 / 3)
"""Shares of a GPU's peak rate at which training is expected; four large models reached 21 to 46 %
(Chowdhery et al. 2022, arXiv 2204.02311, table 3)."""
OPTIMIZER_BYTES = 28
"""Bytes per trained parameter and step, in float32.

Weight, gradient and two moments are read, and weight and moments are written.
"""


@dataclass(frozen=True)
class Cost:
    """Hours and kWh of one or several stages: the least, and the expected range."""

    hours: tuple[float, float, float]
    kwh: tuple[float, float, float]

    def in_words(self) -> str:
        """The cost in words."""
        hours, kwh = ([_figure(value) for value in kind] for kind in (self.hours, self.kwh))
        return (
            f"{hours[1]} to {hours[2]} h, {kwh[1]} to {kwh[2]} kWh; "
            f"at least {hours[0]} h, {kwh[0]} kWh"
        )


def _figure(value: float) -> str:
    """Two decimals, of small values two digits."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs that come one after the other."""
    least, low, high = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for cost in costs:
        for sums, hours, kwh in zip((least, low, high), cost.hours, cost.kwh, strict=True):
            sums[0] += hours
            sums[1] += kwh
    return Cost((least[0], low[0], high[0]), (least[1], low[1], high[1]))


def peak_tflops(config: Config) -> float | None:
    """The GPU's rate for products in training's precision, in TFLOP/s. TF32 is never used."""
    gpu = config.gpu
    return gpu.bf16_dense_tflops if config.training.precision == "bf16" else gpu.fp32_dense_tflops


def stage_costs(config: Config, budget: Budget) -> dict[str, Cost]:
    """Hours and kWh of the stages that make the student, on the GPU that `gpu` names, by stage.

    Empty where a figure of the GPU is not known. All ranks of this launch share the cache and
    training. One of them writes a teacher's text. Scores and serving are left out: their questions
    are not counted before they are read.
    """
    gpu, training, paradigm = config.gpu, config.training, config.paradigm
    peak, bandwidth_gb_s = peak_tflops(config), gpu.memory_bandwidth_gb_s
    if not peak or not gpu.tdp_w or not bandwidth_gb_s:
        return {}
    ranks = launched().world
    peak_pflops, bandwidth = peak / 1e3, bandwidth_gb_s * 1e9

    def cost(shared_s: float, alone_s: float, num_gpus: int) -> Cost:
        """Of what reaches a share of the GPU's rate, and of what is moved at its bandwidth."""
        seconds = [shared_s / share + alone_s for share in (1.0, *REACHED)]
        least, low, high = (each / 3600 for each in seconds)
        kw = num_gpus * gpu.tdp_w / 1000 if gpu.tdp_w else 0.0
        return Cost((least, low, high), (least * kw, low * kw, high * kw))

    found: dict[str, Cost] = {}
    writing = estimate_writing(workload_of(config))
    writing_s = _writing_s(config, writing, peak_pflops, bandwidth) if writing else 0.0
    if paradigm.text == "teacher":
        found["generate"] = cost(writing_s, 0.0, 1)
    is_cached = paradigm.needs_signals and paradigm.teacher == "cached"
    if is_cached:
        found["teacher"] = cost(budget.teacher_pflop / peak_pflops / ranks, 0.0, ranks)
    pflop = budget.train_pflop + (0.0 if is_cached else budget.teacher_pflop)
    shared_s = pflop / peak_pflops / ranks
    if paradigm.text == "student":
        shared_s += writing_s / ranks
    tokens_per_step = training.micro_batch * training.accumulation * training.sequence_length
    num_steps = training.target_tokens / tokens_per_step
    kept = budget.trained_params / (ranks if training.parallel == "fsdp" else 1)
    moved_s = num_steps * OPTIMIZER_BYTES * kept / bandwidth
    found["distill"] = cost(shared_s, moved_s, ranks)
    return found


def _writing_s(
    config: Config, writing: WritingBudget, peak_pflops: float, bandwidth: float
) -> float:
    """Seconds of writing at the GPU's full rates: prompts are read at its arithmetic's, and each
    token of a batch takes at least the reading of all weights and, on average, half the cache."""
    source = config.model.student if writing.writer == "student" else config.model.teacher
    assert source and config.paradigm.generate
    length = writing.prompt_tokens + writing.new_tokens
    flops_per_token = forward_flops_per_token(source.architecture, length)
    reading_s = writing.num_prompts * writing.prompt_tokens * flops_per_token / peak_pflops / 1e15
    computed_s = writing.num_tokens * flops_per_token / peak_pflops / 1e15
    num_batches = -(-writing.num_prompts // config.paradigm.generate.batch_size)
    mean_cache = writing.cache_gib * (writing.prompt_tokens + writing.new_tokens / 2) / length
    step_bytes = (writing.weights_gib + mean_cache) * GIB
    moved_s = num_batches * writing.new_tokens * step_bytes / bandwidth
    return reading_s + max(computed_s, moved_s)


def costs_left(
    config: Config, nodes: Sequence[Node], store: Store
) -> dict[tuple[str, str], Cost] | None:
    """Stage and key to the cost of what the store does not hold yet. None for an unknown GPU.

    Where keys are not known because a teacher is missing, all that the configuration needs counts.
    """
    costs = stage_costs(config, estimate(workload_of(config)))
    if not costs:
        return None
    if unmade_teacher(config.model):
        key = fingerprint(to_dict(config))
        return {(stage, key): cost for stage, cost in costs.items()}
    return {
        (node.stage, node.key): costs[node.stage]
        for node in nodes
        if node.stage in costs and not store.finished_dir(node.stage, node.key)
    }


def time_lines(config: Config, costs: dict[tuple[str, str], Cost] | None) -> list[str]:
    """The time that is left to build, in words: all of it, and by stage where there are several."""
    peak, ranks = peak_tflops(config), launched().world
    if costs is None:
        return []
    if not costs:
        return ["expected: no time, the student is in the store already"]
    gpus = "one GPU" if ranks == 1 else f"{ranks} GPUs"
    by_stage = [f"  {stage}: {cost.in_words()}" for (stage, _), cost in costs.items()]
    return [
        f"expected on {gpus}: {total(costs.values()).in_words()}",
        f"  (at a third to a half of {peak:,.5g} TFLOP/s in {config.training.precision}, and at "
        f"{config.gpu.tdp_w:,.0f} W)",
        *(by_stage if len(costs) > 1 else []),
    ]


def sweep_line(costs: dict[tuple[str, str], Cost], num_runs: int) -> str:
    """The sum over the runs of a sweep; what several share is in it once."""
    cost = total(costs.values()).in_words()
    return f"all {num_runs} runs together, shared stages counted once: {cost}"


def serving_lines(config: Config, budget: Budget) -> list[str]:
    """The least time of a token, in words: a decoding step reads its weights once."""
    bandwidth_gb_s = config.gpu.memory_bandwidth_gb_s
    if not bandwidth_gb_s:
        return []
    teacher = config.model.teacher if budget.teacher_weights_gib else None
    value_bytes = workload_of(config).value_bytes
    steps = [
        f"{subject} {bandwidth_gb_s * 1e9 / step_bytes_of(shape, bits, value_bytes):,.0f} steps/s"
        for subject, source in (("student", config.model.student), ("teacher", teacher))
        if source
        for shape, bits in [(source.architecture, source.quantization)]
    ]
    return [f"decoding: at most {', '.join(steps)} (memory read at {bandwidth_gb_s:,.0f} GB/s)"]
