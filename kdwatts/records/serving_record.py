"""serving.json: what a server drew and how fast it answered, load by load."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdwatts.records.schema import SCHEMA, Components


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval. The unit ends the name of the field that holds it."""

    value: float | None
    """None where it was not measured, or has no meaning, such as joules of tokens where none came.
    """
    low: float | None = None
    """Lower end of the 95 % interval; None where the interval is not known or has no end."""
    high: float | None = None
    """Upper end of the 95 % interval; None where the interval is not known or has no end."""
    random_sd: float | None = None
    """One standard deviation of what repeats average out; None for a percentile of one measurement.
    """
    shared_sd: float | None = None
    """One standard deviation of the meter's calibration; None for what no meter measured."""
    degrees: float | None = None
    """Degrees of freedom of random_sd: one less than the number of batches, or of measurements.
    None where they are without end, as where the meter's own error is the wider."""
    quality: str | None = None
    """measured, attributed, estimated, mixed or missing; None for what no meter measured."""


UNKNOWN = Figure(None)


@dataclass(frozen=True)
class Percentiles:
    """Of the requests that ended well in the window; intervals by order statistics.

    One that failed has no latency: a server that lets slow requests fail looks faster.
    """

    p50: Figure = UNKNOWN
    """Half of the requests took no longer."""
    p90: Figure = UNKNOWN
    """90 % of the requests took no longer."""
    p99: Figure = UNKNOWN
    """99 % of the requests took no longer. With fewer than 299 requests it has no upper end."""


@dataclass(frozen=True)
class ServingPoint:
    """One load on one server: the figures of its steady part."""

    load: str
    """closed, poisson, gamma, constant or replay."""
    level: float
    """Requests at once in a closed loop, requests a second in an open one; of a replay their mean.
    """
    verdict: str
    """steady, unsteady, saturated, client_bound, or failed where there is no figure. A replay
    changes as its log does, and steady says of it only that its server kept up."""
    remarks: list[str] = field(default_factory=list)
    """What a reader must know of these figures, a sentence each."""
    seed: int = 0
    """Of arrivals, lengths and prompts."""
    burstiness: float = 1.0
    """Shape of the gaps between requests, where load is gamma."""
    speed: float = 1.0
    """How fast a log was replayed: at 2 its gaps were half as long."""
    duration_s: float | None = None
    """The window that the figures are of; None where there is none."""
    warm_up_s: float | None = None
    """Time from the first request to the window."""
    completed: int = 0
    """Requests that ended well in the window."""
    failed: int = 0
    """Requests that failed in the window. Their work is in the joules and never in the tokens."""
    failures: dict[str, int] = field(default_factory=dict)
    """Kind of failure to their number."""
    prompt_tokens: int = 0
    """Tokens of prompts whose first answer came in the window, of requests that did not fail."""
    output_tokens: int = 0
    """Tokens written that came in the window, of requests that did not fail."""
    energy_j: Components = field(default_factory=dict)
    """Gross joules of the server in the window, per component: gpu, cpu, dram. An estimate beside a
    sensor stands here and is in no figure below: `scope` says what is."""
    energy_quality: str = "missing"
    """Quality of the joules that the figures below are of."""
    scope: str = ""
    """What the joules are of, such as `gpu; cpu of the server's processes`."""
    j_per_output_token: Figure = UNKNOWN
    """Joules of the window over tokens written."""
    j_per_token: Figure = UNKNOWN
    """Joules of the window over tokens read and written."""
    j_per_request: Figure = UNKNOWN
    """Joules of the window over requests that ended well."""
    j_per_good_request: Figure = UNKNOWN
    """Joules of the window over requests that kept the SLO. Unknown without an SLO."""
    power_w: Figure = UNKNOWN
    """Mean power of the server in the window."""
    prefill_j_per_token: Figure = UNKNOWN
    """Joules above parking for each prompt token that the engine computed. Unknown where its
    counters do not tell reading from writing."""
    decode_j_per_token: Figure = UNKNOWN
    """Joules above parking for each token written. Unknown as prefill_j_per_token."""
    ttft_s: Percentiles = Percentiles()
    """Time to first token, from the moment a request was scheduled."""
    tpot_s: Percentiles = Percentiles()
    """Time per output token after the first chunk: a mean over each answer."""
    e2e_s: Percentiles = Percentiles()
    """Time to the last token, from the moment a request was scheduled."""
    send_lag_p99_s: float | None = None
    """99th percentile of sent less scheduled: how late our own client was."""
    requests_per_s: Figure = UNKNOWN
    """Requests that ended well a second."""
    goodput_per_s: Figure = UNKNOWN
    """Requests a second that kept the SLO. Unknown without an SLO."""
    good_share: Figure = UNKNOWN
    """Share of attempts that kept the SLO, 0 to 1. The interval is that of Clopper and Pearson
    (1934), with as many trials as independent_attempts."""
    independent_attempts: int | None = None
    """How many independent requests tell as much as those that ended: neighbours in one queue wait
    alike. None without an SLO."""
    output_tokens_per_s: Figure = UNKNOWN
    """Tokens written a second."""
    mean_in_flight: float | None = None
    """Mean number of requests under way."""
    server_cpu_s: float | None = None
    """CPU time of the server's processes in the window; None where they are not to be seen, as on
    another host."""
    client_cpu_s: float | None = None
    """CPU time of our client in the window."""
    usage_error: float | None = None
    """Relative difference between the tokens that answers state and the engine's own counter; None
    where it has none."""


@dataclass(frozen=True)
class Capacity:
    """The greatest Poisson rate that keeps the SLO."""

    requests_per_s: float | None
    """Greatest rate tried whose good_share is at least 0.99 by a one-sided 95 % bound; None where
    no rate's is."""
    first_too_much_per_s: float | None
    """Least rate above it that is decided not to keep the SLO; None where none is."""
    verdict: str
    """found, above (the greatest rate kept it), none (the least rate did not keep it) or undecided
    (too few requests or tries)."""
    tried: list[ServingPoint] = field(default_factory=list)
    """The loads of the search, in the order in which they were tried. Rates of the curve that
    decided something are not measured again."""
    remark: str | None = None
    """Why the search ended early, and what to do; None where it did not."""


@dataclass(frozen=True)
class EngineRecord:
    """What served, as the manifest and the key have it."""

    name: str
    """transformers, vllm or url; of a url, what the server says it is, such as url (vllm)."""
    version: str | None
    """Version of the engine; None where the server does not tell it."""
    flags: list[str]
    """Every flag that it was started with, but the address and the model's folder; and the engine's
    own variables, such as VLLM_CPU_KVCACHE_SPACE=1."""
    precision: str | None
    """Numbers in which weights are served, such as bfloat16; None where it is not known."""
    quantization: str | None
    """How weights are quantised, such as fp8; None where they are not, or it is not known."""


@dataclass(frozen=True)
class ServingRecord:
    """One model behind one server: serving.json holds a list of these."""

    subject: str
    """student, teacher or model."""
    engine: EngineRecord
    """What served it."""
    workload: dict[str, object]
    """The settings eval.serving.workload. Its prompts are the hash of their file. Of a log, the
    tokens are the log's mean and 95th percentile, and there are its hash, format and stretch
    (`replay_sha256` and others that begin so)."""
    slo: dict[str, float | None]
    """The settings eval.serving.slo."""
    points: list[ServingPoint]
    """The loads, in the order of the settings."""
    capacity: Capacity | None = None
    """None without an SLO."""
    parking_power_w: Figure = UNKNOWN
    """Power of the idle server, model loaded, after its last answer. Unknown where joules are
    estimated: the estimate has no idle power."""
    bare_power_w: Figure = UNKNOWN
    """Power of the idle components with a sensor before the server was started; on a shared node,
    this job's part. Unknown where telemetry.idle_s is 0, for one component of several, and for a
    server that ran already."""
    key: str | None = None
    """Key of what serves alike; None for the command of its own."""
    measurement: int = 1
    """Number of this independent measurement, each of a fresh server."""
    gpus: list[str] = field(default_factory=list)
    """What NVML calls the GPUs whose joules are counted: those of the server, or all of the job
    where it is not known which the server uses."""
    gpu_uuids: list[str] | None = None
    """NVML's names of these GPUs one by one; None in a record that is older than the field."""
    num_gpus_of_server: int | None = None
    """GPUs that one such server takes, 0 on a CPU. None where it is not known, as of a server that
    ran already; and in a record that is older than the field."""
    host: str | None = None
    """Name of the host whose joules are counted: the one that measured, or the server's where a
    meter there did. None in a record that is older than the field."""
    cpu: str | None = None
    """That host's processor as its kernel names it."""
    power_limit_w: float | None = None
    """Limit that the first GPU enforced; None without a GPU."""
    started_utc: str = ""
    """When the server was started, or the first request sent to a running one."""
    schema: int = SCHEMA
