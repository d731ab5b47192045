"""What a run writes, and how: the contract with whoever collects it.

Every record carries `schema`. Units end the names. A missing measurement is None here and null
in JSON, never 0. New keys may be added, none may be renamed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kdwatts.metrics.quantity import Quantity
from kdwatts.metrics.window_energy import window_energy, window_net_energy_j

SCHEMA = 1

COMPONENTS = ("gpu", "cpu", "dram")
"""The parts of a node whose energy is told apart."""

Components = dict[str, float | None]
"""One number per component; None where it was not measured."""


@dataclass(frozen=True)
class TelemetryRow:
    """One device at one tick."""

    time_utc: str
    monotonic_s: float
    attempt: int
    window: str
    """Path of the innermost open window, such as `run/distill/train`."""
    device_kind: str
    """gpu, cpu, dram or host; node_cpu and node_dram where the job is told its share of them."""
    device_index: int | None
    uuid: str | None = None
    method: str | None = None
    """How power and energy were obtained: a method as in StageRow."""
    power_w: float | None = None
    refused_power_w: float | None = None
    """What the GPU said instead of `power_w`, and no such GPU can draw."""
    power_average_w: float | None = None
    energy_counter_j: float | None = None
    """Joules since an arbitrary start; differences inside one attempt mean something."""
    util_pct: float | None = None
    memory_used_gib: float | None = None
    temperature_c: float | None = None
    sm_clock_mhz: float | None = None
    cpu_clock_mhz: float | None = None
    process_cpu_s: float | None = None
    """CPU seconds of this job's process tree since it began; a row of the host."""
    throttle_reasons: int | None = None
    power_limit_w: float | None = None
    error: str | None = None
    schema: int = SCHEMA


@dataclass(frozen=True)
class StageRow:
    """One window of one attempt: what happened between two moments, and what it drew."""

    window: str
    """Path from the outermost window, such as `run/distill/train`."""
    parent: str | None
    key: str | None
    """Key of the artifact that the window built or reused; None inside and outside stages."""
    attempt: int
    outcome: str
    """done, reused, preempted or failed."""
    start_utc: str
    start_s: float
    """Monotonic seconds of this host, comparable with telemetry rows of the same attempt."""
    duration_s: float
    data_wait_s: float | None
    energy_j: Components
    method: dict[str, str | None]
    """Per component: nvml_counter, nvml_samples, rapl, attributed, tdp_model, or None."""
    quality: dict[str, str]
    """Per component: measured, attributed, estimated or missing."""
    uncertainty_j: Components
    """One standard deviation."""
    coverage: dict[str, float | None]
    """Share of the window's time that measurements span, 0 to 1."""
    idle_power_w: Components
    tokens: int | None = None
    steps: int | None = None
    reason: dict[str, str] = field(default_factory=dict)
    """Per component, why it is missing or flagged."""
    sampled_energy_j: Components = field(default_factory=dict)
    """Integral of the power samples: the check on counters, never mixed with `energy_j`."""
    net_energy_j: Components = field(default_factory=dict)
    """`energy_j` less idle power times the seconds covered; None where idle was not measured."""
    shared_uncertainty_j: Components = field(default_factory=dict)
    """The part of `uncertainty_j` that all windows of one meter share: its calibration."""
    node_energy_j: Components = field(default_factory=dict)
    """Gross of the whole node, where `energy_j` is an attributed share of it."""
    schema: int = SCHEMA

    @property
    def energy(self) -> Quantity:
        """The sum of its components: of the measured ones, of the estimated where none is."""
        return window_energy(vars(self))

    @property
    def total_net_energy_j(self) -> float | None:
        """That sum less what idle devices would have drawn; None where idle was not measured."""
        return window_net_energy_j(vars(self))


@dataclass(frozen=True)
class Score:
    """One metric of one task for one model."""

    subject: str
    """student or teacher."""
    harness: str
    harness_version: str
    task: str
    metric: str
    value: float | None
    """None where the metric came out as no number, such as a perplexity that overflows."""
    stderr: float | None
    higher_is_better: bool
    num_fewshot: int
    num_samples: int
    energy_j: float | None
    """Energy of evaluating `benchmark`, all components of the best quality."""
    energy_quality: str | None = None
    """As in Metrics; None in records that do not say."""
    benchmark: str | None = None
    """The metered window, which a group's children and a task's metrics share; None is the task."""
    tokens: int | None = None
    """Read and written in that window, padding left out; None where the harness does not tell."""
    duration_s: float | None = None
    """Of that window."""
    chance: float | None = None
    """Score of guessing, of the primary metric alone; None where it has none or is not told."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class Metrics:
    """Everything a plot needs of one run. Energies are gross, in joules.

    A run of ours knows what it was asked; where that is None, the run was imported (`origin`) and
    its records do not say. An energy sums the measured components; where none is measured it is the
    estimate, and the `_quality` beside it says so (measured, attributed, estimated, missing, or
    mixed when artifacts of different quality are added).
    """

    run: str
    """Name of the run's folder."""
    paradigm: str | None
    model: str | None
    data: str | None
    gpu: str | None
    """Option name, resolved: never auto."""
    gpu_name: str | None
    """What NVML calls the GPU; None without one."""
    num_gpus: int
    site: str | None
    seed: int | None
    own_energy_j: float | None
    """Building this student, all attempts, whether built now or reused."""
    own_energy_quality: str
    own_energy_uncertainty_j: float | None
    """One standard deviation."""
    own_net_energy_j: float | None
    """`own_energy_j` less idle power times seconds; None where one part's idle is unknown."""
    inherited_energy_j: float | None
    """Its ancestors, unamortised: shards, teacher signals, training the teacher if it was ours."""
    inherited_energy_quality: str
    inherited_energy_by_artifact_j: dict[str, float | None] | None
    """Key of each ancestor to its energy, so that a collector can divide it among its sharers."""
    evaluation_energy_j: float | None
    inference_energy_j: float | None
    """Measuring the serving of each subject once: by this run, or as recorded where it made none.
    What other runs drew for the same figures is in theirs."""
    spent_energy_j: float | None
    """What this invocation drew, from start to end; reused artifacts cost nothing here."""
    saved_energy_j: float | None
    """What reuse spared this invocation."""
    gpu_energy_j: float | None
    """Component of own_energy_j; also the two below."""
    cpu_energy_j: float | None
    dram_energy_j: float | None
    num_attempts: int
    train_duration_s: float | None
    train_tokens: int | None
    """Loss-bearing target tokens."""
    train_tokens_per_s: float | None
    train_j_per_token: float | None
    data_wait_share: float | None
    """Share of the training time that the loop waited for data, 0 to 1."""
    student_params: int | None
    teacher_params: int | None
    student_prefill_j_per_token: float | None
    student_decode_j_per_token: float | None
    student_total_j_per_token: float | None
    """Whole batch: joules over prompt and generated tokens together."""
    teacher_prefill_j_per_token: float | None
    teacher_decode_j_per_token: float | None
    teacher_total_j_per_token: float | None
    inference_energy_quality: str
    """As above, or reported: a foreign figure without a trace that it could be checked against."""
    student_decode_tokens_per_s: float | None
    teacher_decode_tokens_per_s: float | None
    student_bits_per_byte: float | None
    """Held-out text; lower is better, so it never enters om_perf."""
    teacher_bits_per_byte: float | None
    om_perf: float | None
    """Mean over benchmarks of student score over teacher score, higher-is-better scores only."""
    om_perf_stderr: float | None
    om_perf_corrected: float | None
    """The same with chance subtracted from both scores."""
    eff_overall: float | None
    """om_perf times teacher over student joules per token served."""
    co2e_kg: float | None
    """Of own_energy_j at `site`; total_co2e_kg adds the inherited energy, unamortised."""
    total_co2e_kg: float | None
    cost_usd: float | None
    """Electricity for own_energy_j at `site`, building overhead included."""
    grid_gco2e_per_kwh: float | None
    pue: float | None
    student_key: str
    """Key of the distilled student in the store: equal keys are the same student."""
    origin: str | None = None
    """Where an imported run comes from; None for a run of ours."""
    unit_correction: float | None = None
    """Factor by which an import rescaled the energy counters; None where they were right."""
    stopped_by: str | None = None
    """What ended training: target_tokens, or budget_kj, the joules; None where it is not known."""
    heldout_ce_nats: float | None = None
    """Cross entropy per target at the end of training, on rows of the corpus held out of it."""
    heldout_bits_per_byte: float | None = None
    heldout_energy_j: float | None = None
    """Part of own_energy_j that went into reading it; 0 where it is never read."""
    om_perf_low: float | None = None
    """95 % interval of om_perf over the benchmarks' samples, by bootstrap; and om_perf_high."""
    om_perf_high: float | None = None
    student_total_interval_95_j: float | None = None
    """Half of the 95 % interval of student_total_j_per_token: Student's of the means of independent
    measurements, of a single one from the spread between its repeats."""
    teacher_total_interval_95_j: float | None = None
    student_net_total_j_per_token: float | None = None
    """Less what idle devices would have drawn."""
    teacher_net_total_j_per_token: float | None = None
    student_prefill_latency_p50_s: float | None = None
    """Median seconds until a batch of prompts has its first tokens."""
    teacher_prefill_latency_p50_s: float | None = None
    student_decode_latency_p50_s: float | None = None
    """Median seconds of a step, one token of every sequence; and the 95th percentile."""
    student_decode_latency_p95_s: float | None = None
    teacher_decode_latency_p50_s: float | None = None
    teacher_decode_latency_p95_s: float | None = None
    break_even_verdict: str | None = None
    """reached, never, unresolved or unknown: whether serving the student repays its building."""
    break_even_tokens: float | None = None
    """Tokens served in the teacher's place that repay own and inherited energy (unamortised)."""
    break_even_tokens_low: float | None = None
    """Its 95 % interval; and break_even_tokens_high."""
    break_even_tokens_high: float | None = None
    water_l: float | None = None
    """Litres that the site evaporates for own_energy_j; None where its figure is not known."""
    wue_l_per_kwh: float | None = None
    power_limit_w: float | None = None
    """Limit that the first GPU enforced, set by whoever runs it; None without a GPU."""
    own_energy_random_sd_j: float | None = None
    """Part of own_energy_uncertainty_j that differs from one window to the next."""
    own_energy_shared_sd_j: float | None = None
    """The rest of it: calibration, which all readings of one meter share."""
    inherited_energy_random_sd_j: float | None = None
    """The same two parts, of inherited_energy_j."""
    inherited_energy_shared_sd_j: float | None = None
    teacher_quantization: str | None = None
    """int8 or int4 where the teacher's linear layers were kept so, in its joules and scores too."""
    student_serving_key: str | None = None
    """Key of what serves alike, whatever it was taught; None where serving was not asked for."""
    teacher_serving_key: str | None = None
    student_serving_measurements: int | None = None
    """How many independent measurements the student's serving figures pool; 0 where all of them
    were being made by other runs."""
    teacher_serving_measurements: int | None = None
    serving_batch_size: int | None = None
    """The point of the grid that the serving figures are of; and the two lengths below."""
    serving_prompt_tokens: int | None = None
    serving_new_tokens: int | None = None
    student_total_j_per_token_least: float | None = None
    """Least and most of student_total_j_per_token over the points of the grid."""
    student_total_j_per_token_most: float | None = None
    teacher_total_j_per_token_least: float | None = None
    teacher_total_j_per_token_most: float | None = None
    accuracy_kept: float | None = None
    """Mean over benchmarks of (student - chance) / (teacher - chance), of those whose teacher is at
    least two standard errors above chance; None where there is none: it cannot be told."""
    accuracy_kept_low: float | None = None
    """Its 95 % interval over the benchmarks' samples; and accuracy_kept_high."""
    accuracy_kept_high: float | None = None
    accuracy_kept_benchmarks: list[str] | None = None
    """The benchmarks in that mean."""
    teacher_at_chance: list[str] | None = None
    """Benchmarks on which it is less than two standard errors above chance; and the student's."""
    student_at_chance: list[str] | None = None
    benchmarks_without_chance: list[str] | None = None
    """Left out of accuracy_kept, as guessing has no score there, such as of TruthfulQA mc2."""
    grid_source: str | None = None
    grid_boundary: str | None = None
    """This and the six below are as in the section `site`; None in a record reads as unstated."""
    grid_basis: str | None = None
    grid_kind: str | None = None
    grid_gases: str | None = None
    grid_year: int | None = None
    grid_release: str | None = None
    grid_licence: str | None = None
    setting_name: str | None = None
    """Name of an imported run's method: its folder's without what tells repeats apart."""
    repeat: str | None = None
    """What tells an imported run from its method's other repeats, such as 1; it is no seed."""
    schema: int = SCHEMA
