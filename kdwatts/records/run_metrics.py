"""metrics.json: one finished run in one record."""

from __future__ import annotations

from dataclasses import dataclass

from kdwatts.records.quantized_model import QuantizedModel
from kdwatts.records.schema import SCHEMA


@dataclass(frozen=True)
class Metrics:
    """Everything a plot needs of one run. Energies are gross, in joules.

    A value is None where it was not measured or does not apply. What a run was asked for is always
    known; it is None only in an imported run (`origin`) whose records do not say it. An energy is
    the sum of its measured components. If none is measured it is the estimate. The `_quality`
    beside it says so: measured, attributed, estimated, missing, or mixed when artifacts of
    different quality are added.
    """

    run: str
    """Name of the run's folder."""
    paradigm: str | None
    """Name of the option."""
    model: str | None
    """Name of the option."""
    data: str | None
    """Name of the option."""
    gpu: str | None
    """Name of the option that was found; never auto."""
    gpu_name: str | None
    """What NVML calls the GPU; None without one."""
    num_gpus: int
    """GPUs that the run used; 0 without one."""
    site: str | None
    """Name of the option."""
    seed: int | None
    """The option training.seed."""
    own_energy_j: float | None
    """Building this student: all attempts, whether built now or reused."""
    own_energy_quality: str
    """measured, attributed, estimated, missing or mixed; so too in other fields of this ending."""
    own_energy_uncertainty_j: float | None
    """One standard deviation."""
    own_net_energy_j: float | None
    """`own_energy_j` less idle power times duration; None where idle power is not known."""
    inherited_energy_j: float | None
    """Its ancestors, not divided among students: shards, text and signals of the teacher, and
    training the teacher if that is recorded."""
    inherited_energy_quality: str
    """As `own_energy_quality`."""
    inherited_energy_by_artifact_j: dict[str, float | None] | None
    """Key of each ancestor to its energy, so that it can be divided among its students."""
    evaluation_energy_j: float | None
    """Scoring student and teacher once, now or as recorded."""
    inference_energy_j: float | None
    """Measuring the serving of each model once, now or as recorded. Other runs' measurements are in
    their own records."""
    spent_energy_j: float | None
    """What this command drew from start to end. Reused artifacts cost nothing here."""
    saved_energy_j: float | None
    """What building the reused artifacts once cost."""
    gpu_energy_j: float | None
    """The GPUs' part of own_energy_j."""
    cpu_energy_j: float | None
    """The CPUs' part of own_energy_j."""
    dram_energy_j: float | None
    """Main memory's part of own_energy_j."""
    num_attempts: int
    """Attempts that built the student."""
    train_duration_s: float | None
    """Time in the steps of training, all attempts."""
    train_tokens: int | None
    """Target tokens that were trained on."""
    train_tokens_per_s: float | None
    """`train_tokens` over `train_duration_s`."""
    train_j_per_token: float | None
    """`own_energy_j` over `train_tokens`."""
    data_wait_share: float | None
    """Share of the training time in which the step waited for its data, 0 to 1."""
    student_params: int | None
    """Weights of the student."""
    teacher_params: int | None
    student_prefill_j_per_token: float | None
    """Reading prompts, per prompt token, at the point `serving_*`."""
    student_decode_j_per_token: float | None
    """Writing, per token written, at that point."""
    student_total_j_per_token: float | None
    """Whole batch at that point: joules over prompt and new tokens together."""
    teacher_prefill_j_per_token: float | None
    teacher_decode_j_per_token: float | None
    teacher_total_j_per_token: float | None
    inference_energy_quality: str
    """As own_energy_quality, or reported: a foreign figure that no trace can check."""
    student_decode_tokens_per_s: float | None
    """Speed of writing, of the whole batch."""
    teacher_decode_tokens_per_s: float | None
    student_bits_per_byte: float | None
    """On held-out text. Lower is better, so it never enters om_perf."""
    teacher_bits_per_byte: float | None
    om_perf: float | None
    """Mean over benchmarks of student score over teacher score; scores of which higher is better
    alone."""
    om_perf_stderr: float | None
    """One standard error over the benchmarks' questions."""
    om_perf_corrected: float | None
    """The same, with chance subtracted from both scores."""
    eff_overall: float | None
    """om_perf times teacher over student joules per token served."""
    co2e_kg: float | None
    """Of own_energy_j at `site`."""
    total_co2e_kg: float | None
    """Of own and inherited energy together, not divided among students."""
    cost_usd: float | None
    """Electricity for own_energy_j at `site`, the building's overhead (PUE) included."""
    grid_gco2e_per_kwh: float | None
    """Grid factor of `site`."""
    pue: float | None
    """Power usage effectiveness of `site`."""
    student_key: str
    """Key of the student in the store: equal keys are the same student."""
    origin: str | None = None
    """Where an imported run comes from; None for a run of ours."""
    unit_correction: float | None = None
    """Factor by which an import multiplied the energy counters; None where they were right."""
    stopped_by: str | None = None
    """What ended training: target_tokens or budget_kj; None where it is not known."""
    heldout_ce_nats: float | None = None
    """Cross entropy of a target at the end of training, on rows held out of it."""
    heldout_bits_per_byte: float | None = None
    """The same, in bits per byte of text."""
    heldout_energy_j: float | None = None
    """Part of own_energy_j that reading held-out rows took; 0 where none are read."""
    om_perf_low: float | None = None
    """Lower end of the 95 % interval of om_perf over the benchmarks' questions (bootstrap)."""
    om_perf_high: float | None = None
    student_total_interval_95_j: float | None = None
    """Half width of the 95 % interval of student_total_j_per_token: Student's t over independent
    measurements; of a single measurement, from the spread of its repeats."""
    teacher_total_interval_95_j: float | None = None
    student_net_total_j_per_token: float | None = None
    """student_total_j_per_token less what idle devices would have drawn."""
    teacher_net_total_j_per_token: float | None = None
    student_prefill_latency_p50_s: float | None = None
    """Median time until a batch of prompts has its first tokens."""
    teacher_prefill_latency_p50_s: float | None = None
    student_decode_latency_p50_s: float | None = None
    """Median time of a step, which writes one token of every sequence."""
    student_decode_latency_p95_s: float | None = None
    """95th percentile of the same."""
    teacher_decode_latency_p50_s: float | None = None
    teacher_decode_latency_p95_s: float | None = None
    break_even_verdict: str | None = None
    """Whether serving the student repays its building: reached, never, unresolved or unknown."""
    break_even_tokens: float | None = None
    """Tokens to be served in the teacher's place until own and inherited energy are repaid."""
    break_even_tokens_low: float | None = None
    """Lower end of its 95 % interval."""
    break_even_tokens_high: float | None = None
    water_l: float | None = None
    """Water that the site evaporates for own_energy_j; None where its WUE is not known."""
    wue_l_per_kwh: float | None = None
    """Water usage effectiveness of `site`."""
    power_limit_w: float | None = None
    """Limit that the first GPU enforced; None without a GPU."""
    own_energy_random_sd_j: float | None = None
    """Part of own_energy_uncertainty_j that differs from window to window."""
    own_energy_shared_sd_j: float | None = None
    """Its other part, the meter's calibration, which all its readings share."""
    inherited_energy_random_sd_j: float | None = None
    """Of inherited_energy_j, what differs from window to window."""
    inherited_energy_shared_sd_j: float | None = None
    """Of inherited_energy_j, the meter's calibration."""
    teacher_quantization: str | None = None
    """int8 or int4 where the teacher's linear layers were kept so; None where they were not."""
    student_serving_key: str | None = None
    """Equal keys serve alike, whatever the student was taught; None where serving was not
    measured."""
    teacher_serving_key: str | None = None
    student_serving_measurements: int | None = None
    """Independent measurements in the student's serving figures. 0 where other runs were still
    making them."""
    teacher_serving_measurements: int | None = None
    serving_batch_size: int | None = None
    """The point of the grid that the serving figures are of: sequences at once."""
    serving_prompt_tokens: int | None = None
    """Tokens of a prompt at that point."""
    serving_new_tokens: int | None = None
    """Tokens written after a prompt at that point."""
    student_total_j_per_token_least: float | None = None
    """Least student_total_j_per_token over the points of the grid."""
    student_total_j_per_token_most: float | None = None
    """Most of it over the points of the grid."""
    teacher_total_j_per_token_least: float | None = None
    teacher_total_j_per_token_most: float | None = None
    accuracy_kept: float | None = None
    """Mean over benchmarks of (student - chance) / (teacher - chance). A benchmark counts if its
    teacher is at least two standard errors above chance. None where none counts."""
    accuracy_kept_low: float | None = None
    """Lower end of its 95 % interval over the benchmarks' questions."""
    accuracy_kept_high: float | None = None
    accuracy_kept_benchmarks: list[str] | None = None
    """The benchmarks that count."""
    teacher_at_chance: list[str] | None = None
    """Benchmarks on which the teacher is less than two standard errors above chance."""
    student_at_chance: list[str] | None = None
    """Benchmarks on which the student is less than two standard errors above chance."""
    benchmarks_without_chance: list[str] | None = None
    """Benchmarks left out of accuracy_kept: guessing has no score there."""
    grid_source: str | None = None
    """Where the grid factor was published."""
    grid_boundary: str | None = None
    """What the factor counts: combustion or lifecycle. Here and below unstated where the site does
    not say, None in a record that is older than the field."""
    grid_basis: str | None = None
    """generation or consumption."""
    grid_kind: str | None = None
    """average or marginal."""
    grid_gases: str | None = None
    """co2 or co2e."""
    grid_year: int | None = None
    """Year of the factor."""
    grid_release: str | None = None
    """Release of the publication that it was read from."""
    grid_licence: str | None = None
    """Terms of use of the factor."""
    setting_name: str | None = None
    """Name of an imported run's method: its folder without what tells repeats apart."""
    repeat: str | None = None
    """What tells an imported run from its method's other repeats, such as 1. It is no seed."""
    serving_engine: str | None = None
    """What the figures of serving are of: transformers, vllm, url or loop, our own eager loop; None
    where serving was not measured. The fields `*_engine_*` are null with loop."""
    serving_engine_version: str | None = None
    """Version of the engine; None where it does not tell it, and with loop."""
    serving_load: str | None = None
    """Load of the fields `*_engine_*`: closed, poisson, gamma, constant or replay."""
    serving_level: float | None = None
    """How much of it: requests at once in a closed loop, else requests a second; their mean in a
    replay, None where it is not measured yet."""
    serving_energy_j: float | None = None
    """Measuring each model behind the engine once, now or as recorded; waits and the server's start
    included."""
    student_engine_j_per_output_token: float | None = None
    """Joules of the server over tokens written, at the load `serving_*`; mean over measurements."""
    student_engine_j_per_output_token_low: float | None = None
    """Lower end of its 95 % interval."""
    student_engine_j_per_output_token_high: float | None = None
    student_engine_j_per_token: float | None = None
    """Joules over tokens read and written."""
    student_engine_j_per_token_low: float | None = None
    """Lower end of its 95 % interval."""
    student_engine_j_per_token_high: float | None = None
    student_engine_j_per_request: float | None = None
    """Joules over requests that ended well."""
    student_engine_j_per_request_low: float | None = None
    """Lower end of its 95 % interval."""
    student_engine_j_per_request_high: float | None = None
    student_engine_j_per_good_request: float | None = None
    """Joules over requests that kept the SLO; None without an SLO."""
    student_engine_j_per_good_request_low: float | None = None
    """Lower end of its 95 % interval."""
    student_engine_j_per_good_request_high: float | None = None
    student_engine_energy_quality: str | None = None
    """As own_energy_quality."""
    student_engine_verdict: str | None = None
    """steady, unsteady, saturated, client_bound or failed: whether the figures stand."""
    student_engine_power_w: float | None = None
    """Mean power of the server at that load."""
    student_engine_parking_power_w: float | None = None
    """Power of the idle server, model loaded, after its last answer. None where it was not
    measured: an estimate has no idle power."""
    student_engine_ttft_p99_s: float | None = None
    """99th percentile of the time to the first token, from when a request was due."""
    student_engine_tpot_p99_s: float | None = None
    """99th percentile of the time per token after the first."""
    student_engine_e2e_p99_s: float | None = None
    """99th percentile of the time to the last token, from when a request was due."""
    student_engine_output_tokens_per_s: float | None = None
    """Tokens written a second, of all requests together."""
    student_engine_requests_per_s: float | None = None
    """Requests that ended well a second."""
    student_engine_goodput_per_s: float | None = None
    """Requests a second that kept the SLO; None without an SLO."""
    student_engine_capacity_per_s: float | None = None
    """Greatest Poisson rate that keeps the SLO, the least of the measurements; None where it was
    not found."""
    student_engine_measurements: int | None = None
    """Independent measurements in these figures, each of a fresh server. 0 where other runs were
    still making them."""
    teacher_engine_j_per_output_token: float | None = None
    teacher_engine_j_per_output_token_low: float | None = None
    teacher_engine_j_per_output_token_high: float | None = None
    teacher_engine_j_per_token: float | None = None
    teacher_engine_j_per_token_low: float | None = None
    teacher_engine_j_per_token_high: float | None = None
    teacher_engine_j_per_request: float | None = None
    teacher_engine_j_per_request_low: float | None = None
    teacher_engine_j_per_request_high: float | None = None
    teacher_engine_j_per_good_request: float | None = None
    teacher_engine_j_per_good_request_low: float | None = None
    teacher_engine_j_per_good_request_high: float | None = None
    teacher_engine_energy_quality: str | None = None
    teacher_engine_verdict: str | None = None
    teacher_engine_power_w: float | None = None
    teacher_engine_parking_power_w: float | None = None
    teacher_engine_ttft_p99_s: float | None = None
    teacher_engine_tpot_p99_s: float | None = None
    teacher_engine_e2e_p99_s: float | None = None
    teacher_engine_output_tokens_per_s: float | None = None
    teacher_engine_requests_per_s: float | None = None
    teacher_engine_goodput_per_s: float | None = None
    teacher_engine_capacity_per_s: float | None = None
    teacher_engine_measurements: int | None = None
    quantized: dict[str, QuantizedModel] | None = None
    """Teacher and student in few bits, such as `teacher_int4`; None where none was asked for."""
    schema: int = SCHEMA
