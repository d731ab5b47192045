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
    """When this was read."""
    monotonic_s: float
    """A clock that never goes back; differences inside one attempt mean something."""
    attempt: int
    """Counts the starts of this run, from 1."""
    window: str
    """Path of the innermost open window, such as `run/distill/train`."""
    device_kind: str
    """gpu, cpu, dram or host; node_cpu and node_dram are the whole node's where the job gets a
    share."""
    device_index: int | None
    """Number of the GPU, CPU package or memory; None for the host."""
    uuid: str | None = None
    """NVML's name of the GPU; None for other devices."""
    method: str | None = None
    """How power and energy were read: a method as in StageRow."""
    power_w: float | None = None
    """At this moment, or since the last tick where the device counts energy alone."""
    refused_power_w: float | None = None
    """What the GPU said in place of `power_w` that no such GPU can draw."""
    power_average_w: float | None = None
    """NVML's mean over the last second; None on other devices."""
    energy_counter_j: float | None = None
    """Joules since an arbitrary start; differences inside one attempt mean something."""
    util_pct: float | None = None
    """Share of time in which the device was busy."""
    memory_used_gib: float | None = None
    """Memory in use on the GPU, or on the host, by all processes."""
    temperature_c: float | None = None
    """Temperature of the GPU."""
    sm_clock_mhz: float | None = None
    """Clock of the GPU's processors."""
    cpu_clock_mhz: float | None = None
    """Mean clock of the CPUs; only in rows of the host."""
    process_cpu_s: float | None = None
    """CPU time of this job's process tree since it began; only in rows of the host."""
    throttle_reasons: int | None = None
    """NVML's bits for why clocks are lower than they could be; 0 is no reason."""
    power_limit_w: float | None = None
    """Limit that the GPU enforces."""
    error: str | None = None
    """Why this device could not be read at this tick; None where it could."""
    host: str | None = None
    """Name of the node whose device this is, and whose clock `monotonic_s` is; None in older
    rows."""
    schema: int = SCHEMA


@dataclass(frozen=True)
class NodeShare:
    """What one node of a run on several drew in a window, by its own clock."""

    host: str
    """Name of the node."""
    number: int
    """Counts the nodes of a run from 1, the first rank's."""
    waits: bool
    """Whether the node only waited here, for a stage that the first rank builds alone."""
    duration_s: float | None
    """Between its two edges. None where the node gave none."""
    skew_s: float | None
    """How far its two edges lie from the window's, at most, both added."""
    energy_j: Components
    """Gross, per component."""
    quality: dict[str, str]
    """Per component, as in StageRow."""
    uncertainty_j: Components
    """One standard deviation, with what the skew adds."""
    shared_uncertainty_j: Components
    """The part of `uncertainty_j` that all windows of its meter share."""
    coverage: dict[str, float | None]
    """Share of its time that measurements span, 0 to 1."""
    reason: dict[str, str] = field(default_factory=dict)
    """Per component, why its figure is missing or doubtful."""


@dataclass(frozen=True)
class StageRow:
    """One window of one attempt: what happened between two moments, and what it drew."""

    window: str
    """Path from the outermost window, such as `run/distill/train`."""
    parent: str | None
    """Path of the window around it; None for the outermost."""
    key: str | None
    """Key of the artifact that the window built or reused; None if it is no stage's."""
    attempt: int
    """Counts the starts of this run, from 1."""
    outcome: str
    """done, reused, preempted or failed."""
    start_utc: str
    """When the window opened."""
    start_s: float
    """Monotonic seconds of this host, comparable with telemetry rows of the same attempt."""
    duration_s: float
    """Time from its opening to its end."""
    data_wait_s: float | None
    """Time in which training waited for its data; None where nothing trains."""
    energy_j: Components
    """Gross, per component: gpu, cpu, dram."""
    method: dict[str, str | None]
    """Per component: nvml_counter, nvml_samples, rapl, attributed, tdp_model, or None."""
    quality: dict[str, str]
    """Per component: measured, attributed, estimated or missing."""
    uncertainty_j: Components
    """One standard deviation."""
    coverage: dict[str, float | None]
    """Share of the window's time that measurements span, 0 to 1."""
    idle_power_w: Components
    """Mean power before the first window; None where idle power was not measured."""
    tokens: int | None = None
    """Tokens that the window trained on, wrote or scored; None where it counts none."""
    steps: int | None = None
    """Steps of the optimizer; None where nothing trains."""
    reason: dict[str, str] = field(default_factory=dict)
    """Per component, why its figure is missing or doubtful."""
    sampled_energy_j: Components = field(default_factory=dict)
    """Integral of the power samples: the check on counters, never mixed with `energy_j`."""
    net_energy_j: Components = field(default_factory=dict)
    """`energy_j` less idle power times the seconds covered; None where idle was not measured."""
    shared_uncertainty_j: Components = field(default_factory=dict)
    """The part of `uncertainty_j` that all windows of one meter share: its calibration."""
    node_energy_j: Components = field(default_factory=dict)
    """Gross of the whole node, where `energy_j` is an attributed share of it."""
    host: str | None = None
    """Name of the first rank's node, whose clock `start_s` is; None in older rows."""
    nodes: list[NodeShare] = field(default_factory=list)
    """What each node drew; `energy_j` is their sum. Empty where the window is of one node."""
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
    """student or teacher, or one of them in few bits, such as teacher_int4."""
    harness: str
    """lm-evaluation-harness or lighteval."""
    harness_version: str
    """Version of that software."""
    task: str
    """Name of the task, or of a child of a group of tasks."""
    metric: str
    """Name of the metric, as the harness has it."""
    value: float | None
    """None where the metric came out as no number, such as a perplexity that overflows."""
    stderr: float | None
    """One standard error over the questions; None where the harness states none."""
    higher_is_better: bool
    """Whether a higher value is better."""
    num_fewshot: int
    """Solved examples before each question."""
    num_samples: int
    """Questions that were asked."""
    energy_j: float | None
    """Energy of evaluating `benchmark`, all components of the best quality."""
    energy_quality: str | None = None
    """As in Metrics; None in records that do not say."""
    benchmark: str | None = None
    """The metered window, which a group's children and a task's metrics share; None is the task."""
    tokens: int | None = None
    """Read and written in that window, without padding; None where the harness counts none."""
    duration_s: float | None = None
    """Duration of that window."""
    chance: float | None = None
    """Score of guessing, for the task's primary metric; None for others and where it has none."""
    schema: int = SCHEMA
