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
    """The GPU that a run expects, with its data sheet."""

    name: str = MISSING
    """Name of the GPU in records and tables."""
    device: str = "cuda"
    """What computes: cuda is an NVIDIA GPU, auto looks for one and takes the CPU if there is
    none."""
    nvml_names: list[str] = field(default_factory=list)
    """Names that NVML, NVIDIA's management library, gives this product. A run that finds another
    GPU is refused."""
    memory_gib: float | None = None
    """Memory of the GPU. null if it is not known; the plan then checks no memory."""
    tdp_w: float | None = None
    """Rated power (thermal design power). null if it is not known: the plan then has no kWh, and
    hours only where `python -m kdwatts.doctor` measured products and memory."""
    bf16_dense_tflops: float | None = None
    """Peak rate of bfloat16 in the tensor cores, without sparsity, from the data sheet. null if it
    is not known."""
    fp32_dense_tflops: float | None = None
    """Peak rate of float32 outside the tensor cores, from the data sheet. Training in float32 does
    not use TF32. null if it is not known."""
    memory_bandwidth_gb_s: float | None = None
    """Peak rate at which the GPU reads its memory. null if it is not known."""
    link_gb_s: float | None = None
    """Peak rate at which the GPU sends to the GPUs of its node, one way. null if it is not known.
    The plan alone reads it."""
    network_gb_s: float | None = None
    """Peak rate at which the GPU sends to other nodes, one way: its part of the network cards of
    the node. null if it is not known. The plan alone reads it."""
    links_source: str | None = None
    """Where these two rates were published. null where neither is stated."""
    partition: str | None = None
    """Partition of Slurm with this GPU: the default of cluster.partition. null asks for none."""
    gres: str | None = None
    """What Slurm is asked for to get this GPU: the default of cluster.gres. null asks for none."""
    source: str = MISSING
    """Where these figures were published."""
    cpu_estimate: str = "off"
    """Default of telemetry.cpu_estimate with this option."""

    def __post_init__(self) -> None:
        choice("gpu.device", self.device, ("auto", "cuda", "cpu"))


@dataclass
class Telemetry:
    """How energy is measured."""

    interval_s: float = 0.1
    """Time between two samples of power."""
    slow_interval_s: float = 1.0
    """Time between two samples of utilisation, memory, temperature, clocks and power limit. They
    change slowly and cost more to read. It is at least interval_s."""
    cpu_estimate: str = "off"
    """Whether the CPU's energy is estimated where no counter can be read: tdp estimates it from
    processor time and rated power."""
    cpu_tdp_w: float = 280.0
    """Rated power of the processor behind the estimate, of all its threads together."""
    cpu_tdp_threads: int = 128
    """Hardware threads of that processor."""
    cpu_tdp_source: str = "AMD EPYC 7763 data sheet: 280 W, 64 cores, 128 threads"
    """Where these two figures were published. The manifest repeats it."""
    cpu_scope: str = "auto"
    """How much of the energy of the node's CPUs is this job's. node: all of it. job: a share by CPU
    time. auto: by CPU time if the job holds only some of the node's CPUs, else all."""
    rapl_root: str = "/sys/class/powercap"
    """Folder of the RAPL counters, which count the energy of CPU and memory."""
    cgroup_root: str = "/sys/fs/cgroup"
    """Folder of the control groups. The CPU quota of this job's container is read there."""
    allow_shared: bool = False
    """Measure a GPU that another process uses too. Its energy is then marked."""
    idle_s: float = 0.0
    """How long idle power is measured before the first window. Net figures need it. 0 skips it."""
    openmetrics: str | None = None
    """File (.prom or .om) that holds live figures for Prometheus, or a folder that gets one file
    per process. null writes none."""

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
    """What a job asks Slurm for. Nothing here changes a result, and nodes alone changes a key."""

    partition: str | None = None
    """sbatch --partition. null takes the cluster's default."""
    account: str | None = None
    """sbatch --account. null states none."""
    qos: str | None = None
    """sbatch --qos. null states none."""
    constraint: str | None = None
    """sbatch --constraint: a feature that nodes must have. null states none."""
    gres: str | None = None
    """sbatch --gres, such as `gpu:1`. null asks for none."""
    nodes: int = 1
    """Nodes of a run, each with its own meter. hydra.launcher.tasks_per_node is the number of ranks
    on each of them."""
    cpus_per_task: int = 8
    """CPU cores of each rank."""
    mem_gb: int | None = 64
    """Main memory of a job on each of its nodes. null leaves it to the partition's default."""
    timeout_min: int = 720
    """Time limit of a job. A run that is not finished then is sent again and goes on."""
    max_requeues: int = 3
    """How often a run may be cut off by the time limit and go on. Preemptions are not counted."""
    signal_delay_s: int = 120
    """How long before the time limit Slurm warns the job. In this time the step ends and the run
    saves its state."""
    concurrent: int = 16
    """Jobs of one sweep that run at once."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other option of sbatch, by its long name. true gives an option without a value. null
    leaves the option out."""
    setup: list[str] = field(default_factory=list)
    """Shell commands that each job runs first, such as `module load cuda`."""

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus_per_task", "timeout_min", "concurrent"):
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
class SweepLaunch:
    """How the runs of a sweep are sent to Slurm."""

    teacher_first: bool = True
    """Whether jobs of their own first make the teacher's signals and texts that the store lacks.
    The runs wait for these jobs, so no GPU waits for another. false leaves it to the runs."""


@dataclass
class StoreRules:
    """When the store's artifacts may be reused."""

    code: str = "warn"
    """What happens if the code of an option (a divergence, a distance) has changed since an
    artifact was built. warn: the artifact is reused, with a warning. strict: the code is part of
    the key, so the artifact is built again."""

    def __post_init__(self) -> None:
        choice("store.code", self.code, ("warn", "strict"))


@dataclass
class Site:
    """What a kWh of electricity emits, costs and evaporates. None of it enters a key."""

    name: str = MISSING
    """Name of the site in records and reports."""
    grid_gco2e_per_kwh: float = MISSING
    """Grid factor: what a kWh of electricity emits."""
    grid_source: str = MISSING
    """Where the grid factor was published."""
    grid_boundary: str = UNSTATED
    """What the grid factor counts: combustion is burning fuel alone, lifecycle also counts building
    plants and extracting fuel. Factors are compared only if this and the three options below are
    stated and equal."""
    grid_basis: str = UNSTATED
    """Electricity of which the factor speaks: generated in the region, or consumed there."""
    grid_kind: str = UNSTATED
    """average is the mean of all plants. marginal is the plant that answers the next demand."""
    grid_gases: str = UNSTATED
    """co2 is carbon dioxide alone. co2e counts all greenhouse gases by their warming."""
    grid_year: int | None = None
    """Year of the factor. null if it is not stated."""
    grid_release: str = UNSTATED
    """Release of the publication that the factor was read from."""
    grid_licence: str = UNSTATED
    """Terms of use of the factor."""
    pue: float = MISSING
    """Power usage effectiveness: energy of the building over energy of its computers."""
    pue_source: str = MISSING
    """Where the PUE was published."""
    price_usd_per_kwh: float = MISSING
    """Price of electricity."""
    price_source: str = MISSING
    """Where the price was published."""
    wue_l_per_kwh: float | None = None
    """Water usage effectiveness: litres that the site evaporates for a kWh of its computers (The
    Green Grid, white paper 35). null if it is not known; no water is then stated."""
    wue_source: str | None = None
    """Where the WUE was published. null where none is stated."""

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
