"""How serving under load is measured: the engine, the requests, their load, the limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdwatts.config.ranges import above_zero, at_least, choice
from kdwatts.runtime.paths import check_path
from kdwatts.traffic.traffic_summary import FORMATS

ENGINES = ("loop", "transformers", "vllm", "url")
"""`loop` is our own eager loop, which `eval.inference` sets. The others answer HTTP requests."""

ARRIVALS = ("poisson", "gamma", "constant")
LENGTHS = ("forced", "natural")
SESSIONS = ("ordered", "apart")

QUANTIZATIONS = ("int8", "int4", "fp8")
"""What linear layers can be rounded to, in folders that servers which we start read."""


@dataclass
class Workload:
    """What each request asks for."""

    prompt_tokens: int = 64
    """Tokens of a prompt; with prompt_tokens_p95 their mean."""
    prompt_tokens_p95: int | None = None
    """95th percentile of the tokens of a prompt: lengths are lognormal. null gives every prompt
    the same length."""
    output_tokens: int = 32
    """Tokens that a request asks for; with output_tokens_p95 their mean."""
    output_tokens_p95: int | None = None
    """95th percentile of the tokens asked for: lengths are lognormal. null asks for as many each
    time."""
    length: str = "forced"
    """forced writes exactly the tokens asked for, so that engines can be compared. natural lets an
    end token end an answer."""
    prompts: str | None = None
    """Text that prompts are cut from: a text file, or JSONL with the column `text`. null takes the
    end of the corpus."""

    def __post_init__(self) -> None:
        choice("eval.serving.workload.length", self.length, LENGTHS)
        at_least("eval.serving.workload.prompt_tokens", self.prompt_tokens, 1)
        at_least("eval.serving.workload.output_tokens", self.output_tokens, 1)
        _check_p95("prompt_tokens", self.prompt_tokens, self.prompt_tokens_p95)
        _check_p95("output_tokens", self.output_tokens, self.output_tokens_p95)
        check_path("eval.serving.workload.prompts", self.prompts)


def _check_p95(name: str, mean: int, p95: int | None) -> None:
    if p95 is not None and p95 <= mean:
        raise ValueError(
            f"eval.serving.workload.{name}_p95={p95} is not above the mean, "
            f"eval.serving.workload.{name}={mean}; give a larger number, or none for one length"
        )


@dataclass
class Replay:
    """A log of requests that is sent again."""

    log: str | None = None
    """File of the log. null replays none. With rates_per_s requests come at those rates, and the
    log gives their lengths and texts."""
    format: str = "auto"
    """Format of the log: kdwatts, azure, burstgpt or mooncake. auto knows it by the first line."""
    speeds: list[float] = field(default_factory=lambda: [1.0])
    """How fast the log is replayed, once for each: at 2 the gaps between requests are half as long.
    """
    from_s: float = 0.0
    """Where the replayed stretch begins, in seconds after the first request of the log."""
    for_s: float | None = None
    """How much of the log is replayed, in its own seconds. null goes on to its end."""
    sessions: str = "ordered"
    """ordered sends a turn of a conversation once the turn before it has ended, and where the log
    has lengths alone its prompt begins as the earlier one. apart sends each request at its logged
    time with a text of its own."""

    def __post_init__(self) -> None:
        check_path("eval.serving.replay.log", self.log)
        choice("eval.serving.replay.format", self.format, FORMATS)
        choice("eval.serving.replay.sessions", self.sessions, SESSIONS)
        at_least("eval.serving.replay.from_s", self.from_s, 0.0)
        if self.for_s is not None:
            above_zero("eval.serving.replay.for_s", self.for_s)
        for value in self.speeds:
            above_zero("eval.serving.replay.speeds", value)
        if not self.speeds or len(set(self.speeds)) < len(self.speeds):
            raise ValueError(
                f"eval.serving.replay.speeds={self.speeds} is empty or has a number twice; give "
                "each speed once, such as [0.5,1,2]"
            )


@dataclass
class Slo:
    """Service-level objective: what 99 of 100 requests must keep to. null sets no limit."""

    ttft_p99_s: float | None = None
    """Seconds until the first token."""
    tpot_p99_s: float | None = None
    """Seconds between two tokens of an answer, on average over the answer."""
    e2e_p99_s: float | None = None
    """Seconds until the last token."""

    def __post_init__(self) -> None:
        if self.ttft_p99_s is not None:
            above_zero("eval.serving.slo.ttft_p99_s", self.ttft_p99_s)
        if self.tpot_p99_s is not None:
            above_zero("eval.serving.slo.tpot_p99_s", self.tpot_p99_s)
        if self.e2e_p99_s is not None:
            above_zero("eval.serving.slo.e2e_p99_s", self.e2e_p99_s)

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return any(value is not None for value in vars(self).values())


@dataclass
class TransformersServe:
    """`transformers serve`, in the interpreter that runs kdwatts: pip install kdwatts[serving]."""

    flags: list[str] = field(default_factory=list)
    """More of its flags, such as --continuous-batching."""


@dataclass
class Vllm:
    """vLLM, in an interpreter of its own."""

    python: str | None = None
    """Python interpreter of an environment with vLLM. null takes the one that runs kdwatts."""
    flags: list[str] = field(default_factory=list)
    """More flags of its server, such as --max-num-seqs=64 or --quantization=fp8."""

    def __post_init__(self) -> None:
        check_path("eval.serving.vllm.python", self.python)


@dataclass
class RunningServers:
    """Servers that run already and answer OpenAI's /v1/completions."""

    student: str | None = None
    """Address of the student's server, such as http://127.0.0.1:8000."""
    teacher: str | None = None
    """Address of the teacher's server."""
    student_model: str | None = None
    """The student's name in requests. null takes the only model that the server lists."""
    teacher_model: str | None = None
    """The teacher's name in requests."""
    student_meter: str | None = None
    """Address of `python -m kdwatts.telemetry --listen` on the host of the student's server, such
    as http://node7:9400: joules are then those of that host. null measures the host of the run."""
    teacher_meter: str | None = None
    """Address of the meter on the host of the teacher's server."""


@dataclass
class Serving:
    """Serving under load: requests that reach a server at once or at random times."""

    engine: str = "loop"
    """What serves: loop (our own eager loop, set by eval.inference), transformers, vllm or url."""
    concurrency: list[int] = field(default_factory=list)
    """Closed loop: so many requests are always under way. With no rates_per_s either, these are 1,
    4 and 16."""
    rates_per_s: list[float] = field(default_factory=list)
    """Open loop: requests a second, whatever the server does. Give one or more numbers, or
    concurrency."""
    arrivals: str = "poisson"
    """When requests of an open loop come: poisson, gamma or constant."""
    burstiness: float = 1.0
    """Shape of gamma gaps: 1 is poisson, less comes in bursts, more is more even."""
    workload: Workload = field(default_factory=Workload)
    """What each request asks for."""
    replay: Replay = field(default_factory=Replay)
    """A log of requests in place of lengths and loads of one's own."""
    slo: Slo = field(default_factory=Slo)
    """What answers must keep to. With a limit, the greatest rate that keeps it is looked for."""
    point: float | None = None
    """The load that metrics.json states, one of concurrency, rates_per_s or replay.speeds. null
    takes the largest."""
    min_window_s: float = 30.0
    """Least time over which a load is measured, after it is steady."""
    max_window_s: float = 300.0
    """Most time for one load, with the time until it is steady. Figures of a load that then still
    lacks requests say so. A replay is cut there."""
    parking_settle_s: float = 30.0
    """Wait after the last answer, before the power of the idle server is measured."""
    parking_s: float = 10.0
    """Time over which the power of the idle server is measured. 0 measures none."""
    request_timeout_s: float = 120.0
    """A request without an answer for so long has failed."""
    start_timeout_s: float = 600.0
    """A server that does not answer so long after its start is ended."""
    measurements: int = 3
    """Independent measurements of one model that the store keeps, each with a fresh server. A run
    makes the next one that is missing."""
    quantizations: list[str] = field(default_factory=list)
    """Teacher and student are also rounded to these, scored and served so: int8, int4, fp8. Only
    with engine transformers or vllm."""
    transformers: TransformersServe = field(default_factory=TransformersServe)
    """How `transformers serve` is started."""
    vllm: Vllm = field(default_factory=Vllm)
    """How vLLM is started."""
    url: RunningServers = field(default_factory=RunningServers)
    """Servers that run already."""

    def __post_init__(self) -> None:
        choice("eval.serving.engine", self.engine, ENGINES)
        choice("eval.serving.arrivals", self.arrivals, ARRIVALS)
        above_zero("eval.serving.burstiness", self.burstiness)
        at_least("eval.serving.min_window_s", self.min_window_s, 2.0)
        at_least("eval.serving.max_window_s", self.max_window_s, 2.0)
        at_least("eval.serving.parking_settle_s", self.parking_settle_s, 0.0)
        at_least("eval.serving.parking_s", self.parking_s, 0.0)
        at_least("eval.serving.measurements", self.measurements, 1)
        above_zero("eval.serving.request_timeout_s", self.request_timeout_s)
        above_zero("eval.serving.start_timeout_s", self.start_timeout_s)
        for value in self.concurrency:
            at_least("eval.serving.concurrency", value, 1)
        for value in self.rates_per_s:
            above_zero("eval.serving.rates_per_s", value)
        if self.burstiness != 1.0 and self.arrivals != "gamma":
            raise ValueError(
                f"eval.serving.burstiness={self.burstiness} shapes gamma arrivals, but "
                f"eval.serving.arrivals={self.arrivals}; set "
                "eval.serving.arrivals=gamma, or leave the burstiness at 1"
            )
        self._check_loads()
        self._check_quantizations()

    @property
    def is_measured(self) -> bool:
        """Whether a server is measured, and not only our own loop."""
        return self.engine != "loop"

    @property
    def is_replayed(self) -> bool:
        """Whether requests come when those of a log came."""
        return self.replay.log is not None and not self.rates_per_s

    @property
    def loads(self) -> list[float]:
        """Requests at once, requests a second, or speeds of a replay, in the order given."""
        if self.is_replayed:
            return list(self.replay.speeds)
        return [float(level) for level in (self.rates_per_s or self.concurrency or (1, 4, 16))]

    def _check_loads(self) -> None:
        if self.replay.log is not None and self.concurrency:
            raise ValueError(
                "eval.serving.replay.log and eval.serving.concurrency were both given, but a log "
                "says itself when requests come; leave the concurrency out"
            )
        if len(set(self.loads)) < len(self.loads):
            name = "rates_per_s" if self.rates_per_s else "concurrency"
            raise ValueError(
                f"eval.serving.{name}={getattr(self, name)} has a number twice; give each once"
            )
        if self.rates_per_s and self.concurrency:
            raise ValueError(
                "eval.serving.concurrency and eval.serving.rates_per_s were both given; give one "
                "of them"
            )
        if self.max_window_s < self.min_window_s:
            raise ValueError(
                f"eval.serving.max_window_s={self.max_window_s} is less than "
                f"eval.serving.min_window_s={self.min_window_s}; give at least as much"
            )
        if self.point is not None and self.point not in self.loads:
            raise ValueError(
                f"eval.serving.point={self.point} is none of the loads {self.loads}; give one of "
                "them, or null"
            )

    def _check_quantizations(self) -> None:
        for name in self.quantizations:
            choice("eval.serving.quantizations", name, QUANTIZATIONS)
        if len(set(self.quantizations)) < len(self.quantizations):
            raise ValueError(
                f"eval.serving.quantizations={self.quantizations} has one twice; give each once"
            )
        if self.quantizations and self.engine not in ("transformers", "vllm"):
            raise ValueError(
                f"eval.serving.quantizations={self.quantizations} needs a server that kdwatts "
                f"starts, and eval.serving.engine={self.engine} is none; set "
                "eval.serving.engine=vllm or transformers, or leave the list empty"
            )
