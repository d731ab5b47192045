"""What a run is on, how it is metered, and where its electricity comes from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from kdwatts.config.ranges import above_zero, at_least, between, choice
from kdwatts.config.sbatch_options import check_extra
from kdwatts.metrics.footprint import GRID_FACTS, UNSTATED
from kdwatts.runtime.paths import check_path


@dataclass
class Gpu:
    name: str = MISSING
    device: str = "cuda"
    nvml_names: list[str] = field(default_factory=list)
    """Names that NVML gives this product; a job on another one is refused."""
    memory_gib: float | None = None
    tdp_w: float | None = None
    bf16_dense_tflops: float | None = None
    """Tensor-core peak without sparsity, from the data sheet."""
    fp32_dense_tflops: float | None = None
    """Peak outside the tensor cores: float32 training switches TF32 on nowhere."""
    memory_bandwidth_gb_s: float | None = None
    partition: str | None = None
    gres: str | None = None
    source: str = MISSING
    """Where the figures come from."""
    cpu_estimate: str = "off"
    """Default of telemetry.cpu_estimate for this option."""

    def __post_init__(self) -> None:
        choice("gpu.device", self.device, ("auto", "cuda", "cpu"))


@dataclass
class Telemetry:
    interval_s: float = 0.1
    slow_interval_s: float = 1.0
    """Utilisation, memory, temperature, clocks and limits change slowly and cost more to ask."""
    cpu_estimate: str = "off"
    cpu_tdp_w: float = 280.0
    cpu_tdp_threads: int = 128
    cpu_tdp_source: str = "AMD EPYC 7763 data sheet: 280 W, 64 cores, 128 threads"
    cpu_scope: str = "auto"
    """node: the packages' energy is all this job's; job: its part by CPU time; auto: by CPU time
    where the job holds only some of the node's CPUs."""
    rapl_root: str = "/sys/class/powercap"
    cgroup_root: str = "/sys/fs/cgroup"
    """Where the quota of CPU time of this job's container is looked for."""
    allow_shared: bool = False
    idle_s: float = 0.0
    """Seconds of idle measured before the first window, for net figures; 0 skips it."""
    openmetrics: str | None = None
    """A .prom or .om file, or a folder for one per process, with live figures for Prometheus."""

    def __post_init__(self) -> None:
        between("telemetry.interval_s", self.interval_s, 0.01, 10)
        if not self.slow_interval_s >= self.interval_s:
            raise ValueError(
                f"telemetry.slow_interval_s={self.slow_interval_s} is below "
                f"interval_s={self.interval_s}; give at least the sampling interval"
            )
        choice("telemetry.cpu_estimate", self.cpu_estimate, ("off", "tdp"))
        choice("telemetry.cpu_scope", self.cpu_scope, ("auto", "node", "job"))
        above_zero("telemetry.cpu_tdp_w", self.cpu_tdp_w)
        at_least("telemetry.cpu_tdp_threads", self.cpu_tdp_threads, 1)
        at_least("telemetry.idle_s", self.idle_s, 0)
        check_path("telemetry.rapl_root", self.rapl_root)
        check_path("telemetry.cgroup_root", self.cgroup_root)
        check_path("telemetry.openmetrics", self.openmetrics)


@dataclass
class Cluster:
    """What a sweep asks of Slurm. Nothing of it changes a result, and none of it enters a key."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """A feature that nodes must have."""
    gres: str | None = None
    cpus_per_task: int = 8
    mem_gb: int | None = 64
    """Main memory of a job; null leaves it to the partition's default."""
    timeout_min: int = 720
    max_requeues: int = 3
    """Turns after the first that the time limit may end; preemptions are not counted."""
    signal_delay_s: int = 120
    """Warning before the time limit, in which the step ends and the state is saved."""
    concurrent: int = 16
    """Jobs of one sweep that run at once."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch by its long name; true gives it without a value, null leaves it
    out."""
    setup: list[str] = field(default_factory=list)
    """Shell commands of a site, such as `module load`, before the run in each job."""

    def __post_init__(self) -> None:
        for name in ("cpus_per_task", "timeout_min", "concurrent"):
            at_least(f"cluster.{name}", getattr(self, name), 1)
        if self.mem_gb is not None:
            at_least("cluster.mem_gb", self.mem_gb, 1)
        at_least("cluster.max_requeues", self.max_requeues, 0)
        at_least("cluster.signal_delay_s", self.signal_delay_s, 1)
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ValueError(
                f"cluster.signal_delay_s={self.signal_delay_s} is no shorter than cluster."
                f"timeout_min={self.timeout_min}; warn later, or ask for more time"
            )
        check_extra(self.extra, vars(self))


@dataclass
class Launch:
    """How the runs of a sweep are sent out."""

    teacher_first: bool = True
    """On Slurm: jobs of their own make what teachers say and the store lacks, and the array waits
    for them, so that no GPU waits for another."""


@dataclass
class StoreRules:
    """When an artifact of the store is the one that is asked for."""

    code: str = "warn"
    """What code that an option names (a divergence, a distance) and that changed since means: warn
    says so and reuses the artifact; strict puts the code into keys, so that it is built anew."""

    def __post_init__(self) -> None:
        choice("store.code", self.code, ("warn", "strict"))


@dataclass
class Site:
    name: str = MISSING
    grid_gco2e_per_kwh: float = MISSING
    grid_source: str = MISSING
    grid_boundary: str = UNSTATED
    """combustion or lifecycle. This and the three below say what the factor counts; a site that
    leaves one unstated is compared with no other."""
    grid_basis: str = UNSTATED
    """generation or consumption."""
    grid_kind: str = UNSTATED
    """average or marginal."""
    grid_gases: str = UNSTATED
    """co2 or co2e."""
    grid_year: int | None = None
    """Year that the factor is of; null is unstated."""
    grid_release: str = UNSTATED
    grid_licence: str = UNSTATED
    pue: float = MISSING
    """Power usage effectiveness: energy of the building over energy of its computers."""
    pue_source: str = MISSING
    price_usd_per_kwh: float = MISSING
    price_source: str = MISSING
    wue_l_per_kwh: float | None = None
    """Water usage effectiveness: litres of the site over kWh of its computers; null if unknown."""
    wue_source: str | None = None

    def __post_init__(self) -> None:
        at_least("site.grid_gco2e_per_kwh", self.grid_gco2e_per_kwh, 0)
        for fact, valid in GRID_FACTS.items():
            choice(f"site.{fact}", getattr(self, fact), (*valid, UNSTATED))
        if self.grid_year is not None:
            between("site.grid_year", self.grid_year, 1990, 2100)
        at_least("site.pue", self.pue, 1)
        at_least("site.price_usd_per_kwh", self.price_usd_per_kwh, 0)
        if self.wue_l_per_kwh is not None:
            at_least("site.wue_l_per_kwh", self.wue_l_per_kwh, 0)
