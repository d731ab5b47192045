"""Hours and kWh by the device's figures: its arithmetic, its bandwidth, its power."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdwatts.artifacts.store import Store
from kdwatts.config.experiment import Config, to_dict
from kdwatts.memory.budget import GIB, Budget, num_shards
from kdwatts.memory.generation_budget import estimate_writing
from kdwatts.memory.model_shape import forward_flops_per_token, step_bytes_of
from kdwatts.planning.demands import budget_of, workload_of
from kdwatts.planning.feasibility import unmade_teacher
from kdwatts.planning.interconnect import sent_in_a_step
from kdwatts.planning.measured_rates import Rates, rates_of, sheet_rates
from kdwatts.runtime.fingerprint import fingerprint
from kdwatts.runtime.ranks import Launch, own_launch
from kdwatts.stages.graph import PlannedStage

OPTIMIZER_BYTES = 28
"""Bytes per trained parameter and step, in float32.

Weight, gradient and two moments are read, and weight and moments are written.
"""


@dataclass(frozen=True)
class Cost:
    """Hours and kWh of one or several stages: the least, and the expected range."""

    hours: tuple[float, float, float]
    kwh: tuple[float, float, float] | None
    """None where the device's rated power is not known, as that of a CPU is not."""

    def in_words(self) -> str:
        """The cost in words."""
        hours = [_figure(value) for value in self.hours]
        if self.kwh is None:
            return f"{hours[1]} to {hours[2]} h; at least {hours[0]} h"
        kwh = [_figure(value) for value in self.kwh]
        return (
            f"{hours[1]} to {hours[2]} h, {kwh[1]} to {kwh[2]} kWh; "
            f"at least {hours[0]} h, {kwh[0]} kWh"
        )


def _figure(value: float) -> str:
    """Two decimals, of small values two digits."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of costs that come one after the other. It has kWh where all of them have."""
    costs = list(costs)
    kwhs = [cost.kwh for cost in costs if cost.kwh is not None]
    kwh = _sums(kwhs) if len(kwhs) == len(costs) else None
    return Cost(_sums([cost.hours for cost in costs]), kwh)


def _sums(ranges: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Least, low and high ends, each added up in order."""
    least, low, high = (sum(one[end] for one in ranges) for end in range(3))
    return least, low, high


def stage_costs(
    config: Config,
    budget: Budget,
    rates: Rates | None = None,
    launch: Launch | None = None,
    *,
    before: Launch | None = None,
) -> dict[str, Cost]:
    """Hours and kWh of the stages that make the student, on the GPU that `gpu` names, by stage.

    Without `rates` they are those of the data sheet. Empty where a figure of the GPU is not known;
    where both rates were measured, only its kWh need the rated power. All ranks of `launch`, or of
    this process's, share the cache and training; on a CPU those of a node share the processor, too.
    `before` is the launch of the job that makes the cache before the runs, None where they make it.
    One rank writes a teacher's text. Scores and serving are left out: their questions are not
    counted before they are read.

    The least is at the full rates. A step whose share was measured holds its optimizer's time; to
    other expected times it is added. Ranks send while they compute, so training takes no less time
    than what it sends.
    """
    launch, rates = launch or own_launch(), rates or sheet_rates(config)
    gpu, paradigm = config.gpu, config.paradigm
    tdp_w, trained = gpu.tdp_w, training_s(config, budget, rates, launch)
    if trained is None or not (tdp_w or rates.num_measured == 2):
        return {}

    def cost(shared_s: float, alone_s: float, num_gpus: int, *, sent_s: float = 0.0) -> Cost:
        """Of what reaches a share of the GPU's rate, is moved at its bandwidth, and is sent."""
        least_s = shared_s + alone_s
        if rates.step_share:
            seconds = [least_s, *(max(least_s, shared_s / share) for share in rates.reached)]
        else:
            seconds = [shared_s / share + alone_s for share in (1.0, *rates.reached)]
        least, low, high = (max(each, sent_s) / 3600 for each in seconds)
        kw = num_gpus * tdp_w / 1000 if tdp_w else None
        return Cost((least, low, high), None if kw is None else (least * kw, low * kw, high * kw))

    found: dict[str, Cost] = {}
    if paradigm.text == "teacher":
        found["generate"] = cost(_writing_s(config, rates), 0.0, 1)
    if _is_cached(config):
        assert rates.tflops
        readers = _devices(config, before or launch).ranks
        found["teacher"] = cost(budget.teacher_pflop * 1e3 / rates.tflops / readers, 0.0, readers)
    sent_s = num_steps(config) * (sent_in_a_step(config, launch).least_s(gpu) or 0.0)
    found["distill"] = cost(*trained, _devices(config, launch).ranks, sent_s=sent_s)
    return found


def training_s(
    config: Config, budget: Budget, rates: Rates, launch: Launch
) -> tuple[float, float] | None:
    """Seconds of training at the full rates of the launch's GPUs. None where a rate is not known.

    The first are those of products, and of what a student writes; the second those of what the
    optimizer moves.
    """
    if not rates.tflops or not rates.bandwidth_gb_s:
        return None
    devices = _devices(config, launch)
    pflop = budget.train_pflop + (0.0 if _is_cached(config) else budget.teacher_pflop)
    peak_pflops = rates.tflops / 1e3
    shared_s = pflop / peak_pflops
    if config.paradigm.text == "student":
        shared_s += _writing_s(config, rates)
    kept = budget.trained_params / num_shards(config.training.parallel, devices)
    moved_s = num_steps(config) * OPTIMIZER_BYTES * kept / (rates.bandwidth_gb_s * 1e9)
    return shared_s / devices.ranks, moved_s


def num_steps(config: Config) -> float:
    """Steps of the optimizer in which every position is a target."""
    training = config.training
    tokens_per_step = training.micro_batch * training.accumulation * training.sequence_length
    return training.target_tokens / tokens_per_step


def _devices(config: Config, launch: Launch) -> Launch:
    """The launch with a rank for each device: on CPUs the ranks of a node share its processor."""
    return Launch(launch.nodes, launch.nodes) if config.gpu.device == "cpu" else launch


def _is_cached(config: Config) -> bool:
    return config.paradigm.needs_signals and config.paradigm.teacher == "cached"


def _writing_s(config: Config, rates: Rates) -> float:
    """Seconds of writing at the GPU's full rates: prompts are read at its arithmetic's, and each
    token of a batch takes at least the reading of all weights and, on average, half the cache."""
    writing = estimate_writing(workload_of(config))
    assert writing and rates.tflops and rates.bandwidth_gb_s
    peak_pflops, bandwidth = rates.tflops / 1e3, rates.bandwidth_gb_s * 1e9
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
    config: Config,
    stages: Sequence[PlannedStage],
    store: Store,
    launch: Launch | None = None,
    *,
    before: Launch | None = None,
) -> dict[tuple[str, str], Cost] | None:
    """Stage and key to the cost of what the store does not hold yet. None for an unknown GPU.

    `launch` and `before` are as in `stage_costs`.

    Where keys are not known because a teacher is missing, all that the configuration needs counts.
    """
    rates = rates_of(config, store.root, launch)
    costs = stage_costs(config, budget_of(config, launch), rates, launch, before=before)
    if not costs:
        return None
    if unmade_teacher(config.model):
        key = fingerprint(to_dict(config))
        return {(stage, key): cost for stage, cost in costs.items()}
    return {
        (planned.stage, planned.key): costs[planned.stage]
        for planned in stages
        if planned.stage in costs and not store.finished_dir(planned.stage, planned.key)
    }


def time_lines(
    config: Config,
    costs: dict[tuple[str, str], Cost] | None,
    rates: Rates | None = None,
    launch: Launch | None = None,
) -> list[str]:
    """The time that is left to build, in words: all of it, and by stage where there are several.

    `rates` are those that the costs were reckoned with, without them the data sheet's.
    """
    launch, rates = launch or own_launch(), rates or sheet_rates(config)
    if costs is None:
        return []
    if not costs:
        return ["expected: no time, the student is in the store already"]
    where = "one GPU" if launch.ranks == 1 else f"{launch.ranks} GPUs"
    if config.gpu.device == "cpu":
        where = "this CPU" if launch.nodes == 1 else "CPUs like this one"
    if launch.nodes > 1:
        where += f" of {launch.nodes} nodes"
    by_stage = [f"  {stage}: {cost.in_words()}" for (stage, _), cost in costs.items()]
    return [
        f"expected on {where}: {total(costs.values()).in_words()}",
        f"  ({_basis(config, rates)})",
        *(by_stage if len(costs) > 1 else []),
    ]


def _basis(config: Config, rates: Rates) -> str:
    """What hours and kWh are reckoned with, in words."""
    power = f"at {config.gpu.tdp_w:,.0f} W" if config.gpu.tdp_w else "the rated power is not known"
    assert rates.tflops
    few_digits = ",.0f" if rates.tflops >= 100 else ".3g"
    figure = format(rates.tflops, few_digits if rates.measured else ",.5g")
    products = f"{figure} TFLOP/s in {config.training.precision}"
    if not rates.measured:
        doubt = f"; {rates.doubt}" if rates.doubt else ""
        return f"at a third to a half of {products}, and {power}{doubt}"
    memory, from_sheet = f"{rates.bandwidth_gb_s:,.0f} GB/s", ""
    if rates.is_bandwidth_measured:
        products += f" and {memory}"
    else:
        from_sheet = f"; memory at {memory} of the data sheet"
    both = f"{products}, measured {rates.measured}"
    if rates.step_share:
        step = f"the step of paradigm={rates.step}" if rates.step else "the step"
        return f"at {both}; {step} reached {rates.step_share:.2f} of that{from_sheet}; {power}"
    step = f"; {rates.step}" if rates.step else ""
    return f"at a third to a half of {both}{step}{from_sheet}; {power}"


def sweep_line(costs: dict[tuple[str, str], Cost], num_runs: int) -> str:
    """The sum over the runs of a sweep; what several share is in it once."""
    cost = total(costs.values()).in_words()
    return f"all {num_runs} runs together, shared stages counted once: {cost}"


def serving_lines(config: Config, budget: Budget, rates: Rates | None = None) -> list[str]:
    """The least time of a token, in words: a decoding step reads its weights once.

    Without `rates` the memory is as fast as the data sheet says.
    """
    rates = rates or sheet_rates(config)
    bandwidth_gb_s = rates.bandwidth_gb_s
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
    measured = f", measured {rates.measured}" if rates.is_bandwidth_measured else ""
    read_at = f"memory read at {bandwidth_gb_s:,.0f} GB/s{measured}"
    return [f"decoding: at most {', '.join(steps)} ({read_at})"]
