"""The groups of conf/ as dataclasses, one a group, each with its range checks.

These dataclasses alone are not frozen: OmegaConf makes frozen ones read-only and overrides fail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
SUPPORTS = ("dense", "top_k")
LAYER_MAPS = ("uniform", "last", "explicit")
PROJECTORS = ("linear", "none")
DISTANCES = ("normalized_mse", "mse", "cosine")


def choice(key: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{key}={value} is unknown; choose one of {', '.join(valid)}")


def _at_least(key: str, value: float, low: float) -> None:
    if not low <= value < math.inf:
        raise ValueError(f"{key}={value} is out of range; give at least {low}")


def _above_zero(key: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{key}={value} is out of range; give a number above 0")


def _between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}={value} is out of range; give {low} to {high}")


@dataclass
class CrossEntropy:
    weight: float = 1.0

    def __post_init__(self) -> None:
        _above_zero("paradigm.ce.weight", self.weight)


@dataclass
class Response:
    weight: float = 1.0
    divergence: str = "forward_kl"
    temperature: float = 1.0
    support: str = "top_k"
    k: int = 64
    beta: float = 0.5
    """Weight of the teacher in the mixture of jsd; other divergences ignore it."""
    teacher_temperatures: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0])
    """Temperatures whose log Z the top-k cache keeps: a sweep over them shares one cache."""

    def __post_init__(self) -> None:
        _above_zero("paradigm.response.weight", self.weight)
        choice("paradigm.response.divergence", self.divergence, DIVERGENCES)
        choice("paradigm.response.support", self.support, SUPPORTS)
        _above_zero("paradigm.response.temperature", self.temperature)
        for temperature in self.teacher_temperatures:
            _above_zero("paradigm.response.teacher_temperatures", temperature)
        _at_least("paradigm.response.k", self.k, 1)
        if not 0 < self.beta < 1:
            raise ValueError(f"paradigm.response.beta={self.beta} is not between 0 and 1; try 0.5")
        if self.support == "top_k" and self.divergence != "forward_kl":
            raise ValueError(
                f"paradigm.response.divergence={self.divergence} with support=top_k is unstable: "
                "the teacher's tail is unknown; choose divergence=forward_kl or support=dense"
            )


@dataclass
class Feature:
    weight: float = 1.0
    layers: str = "uniform"
    pairs: list[list[int]] = field(default_factory=list)
    """For layers=explicit: [student block, teacher block] pairs, counted from 0."""
    projector: str = "linear"
    distance: str = "normalized_mse"
    skip_first_position: bool = True
    """First positions are attention sinks whose norm dwarfs the rest."""

    def __post_init__(self) -> None:
        _above_zero("paradigm.feature.weight", self.weight)
        choice("paradigm.feature.layers", self.layers, LAYER_MAPS)
        choice("paradigm.feature.projector", self.projector, PROJECTORS)
        choice("paradigm.feature.distance", self.distance, DISTANCES)
        if (self.layers == "explicit") != bool(self.pairs):
            raise ValueError(
                f"paradigm.feature.layers={self.layers} with pairs={self.pairs}; "
                "give pairs with layers=explicit and only then"
            )
        for pair in self.pairs:
            if len(pair) != 2 or min(pair) < 0:
                raise ValueError(
                    f"paradigm.feature.pairs has {pair}; give [student block, teacher block] from 0"
                )


@dataclass
class Relational:
    weight: float = 1.0
    distance_weight: float = 1.0
    angle_weight: float = 2.0
    level: str = "sequence"
    group_size: int = 8
    """Sequences among which distances and angles are taken."""

    def __post_init__(self) -> None:
        _above_zero("paradigm.relational.weight", self.weight)
        _at_least("paradigm.relational.distance_weight", self.distance_weight, 0)
        _at_least("paradigm.relational.angle_weight", self.angle_weight, 0)
        _above_zero(
            "paradigm.relational.distance_weight + angle_weight",
            self.distance_weight + self.angle_weight,
        )
        choice("paradigm.relational.level", self.level, ("sequence",))
        _at_least("paradigm.relational.group_size", self.group_size, 3)


@dataclass
class Paradigm:
    name: str = MISSING
    text: str = "corpus"
    teacher: str = "cached"
    ce: CrossEntropy | None = None
    response: Response | None = None
    feature: Feature | None = None
    relational: Relational | None = None

    def __post_init__(self) -> None:
        choice("paradigm.text", self.text, ("corpus",))
        choice("paradigm.teacher", self.teacher, ("cached", "online"))
        if self.ce is None and not self.needs_teacher:
            raise ValueError(
                f"paradigm={self.name} has no term; "
                "set at least one of ce, response, feature, relational"
            )

    @property
    def needs_teacher(self) -> bool:
        return any((self.response, self.feature, self.relational))


@dataclass
class Architecture:
    """The shape of a decoder of the Llama or Qwen2 family."""

    family: str = "llama"
    num_layers: int = MISSING
    hidden_size: int = MISSING
    intermediate_size: int = MISSING
    num_heads: int = MISSING
    num_kv_heads: int = MISSING
    head_dim: int = MISSING
    vocab_size: int = MISSING
    """Rows of the embedding, padding rows included."""
    tied_head: bool = MISSING
    max_positions: int = MISSING
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        choice("model architecture family", self.family, ("llama", "qwen2"))
        for name in ("num_layers", "hidden_size", "intermediate_size", "num_heads"):
            _at_least(f"model: {name}", getattr(self, name), 1)
        for name in ("num_kv_heads", "head_dim", "vocab_size", "max_positions"):
            _at_least(f"model: {name}", getattr(self, name), 1)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model: num_heads={self.num_heads} is no multiple of "
                f"num_kv_heads={self.num_kv_heads}; correct the file in conf/model"
            )


@dataclass
class ModelSource:
    path: str | None = None
    """Hub id, local folder, or `tiny:NAME`; None starts from random weights of `architecture`."""
    revision: str | None = None
    architecture: Architecture = MISSING


@dataclass
class Pair:
    name: str = MISSING
    tokenizer: str = MISSING
    """Hub id, local folder or `tiny:NAME` of the student's tokenizer."""
    student: ModelSource = MISSING
    teacher: ModelSource | None = None
    licence: str = MISSING


@dataclass
class TextSource:
    path: str = MISSING
    """Hub id, `tiny:NAME`, or a local .txt, .txt.xz, .jsonl or .parquet file."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    revision: str | None = None
    text_field: str | None = "text"
    messages_field: str | None = None
    """Field with a list of {role, content}; rendered by the tokenizer's chat template."""
    prompt_field: str | None = None
    response_field: str | None = None
    """With `prompt_field`: two fields that become a conversation of two turns."""

    def __post_init__(self) -> None:
        if bool(self.prompt_field) != bool(self.response_field):
            raise ValueError(
                f"data.source.prompt_field={self.prompt_field} with "
                f"response_field={self.response_field}; set both or neither"
            )
        chosen = [n for n in (self.text_field, self.messages_field, self.prompt_field) if n]
        if len(chosen) != 1:
            raise ValueError(
                f"data.source reads {' and '.join(chosen) or 'no field'}; set exactly one of "
                "text_field, messages_field and prompt_field, the others to null"
            )


@dataclass
class Data:
    name: str = MISSING
    source: TextSource = MISSING
    licence: str = MISSING
    num_documents: int | None = None
    """Take only the first documents; None takes all."""
    shard_tokens: int = 16_777_216

    def __post_init__(self) -> None:
        _at_least("data.shard_tokens", self.shard_tokens, 1024)
        if self.num_documents is not None:
            _at_least("data.num_documents", self.num_documents, 1)


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
class Training:
    seed: int = 0
    target_tokens: int = MISSING
    """Loss-bearing tokens to train on, rounded up to whole optimizer steps."""
    sequence_length: int = MISSING
    micro_batch: int = MISSING
    """Sequences per forward pass."""
    accumulation: int = 1
    """Forward passes per optimizer step."""
    learning_rate: float = MISSING
    min_learning_rate_ratio: float = 0.1
    warmup_ratio: float = 0.05
    weight_decay: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    clip_norm: float = 1.0
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = False
    chunk_rows: int = 256
    """Rows of logits held at once by the response loss."""
    checkpoint_every_s: float = 900.0
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("target_tokens", "micro_batch", "accumulation", "chunk_rows", "log_every"):
            _at_least(f"training.{name}", getattr(self, name), 1)
        _at_least("training.seed", self.seed, 0)
        _at_least("training.sequence_length", self.sequence_length, 2)
        for name in ("learning_rate", "clip_norm", "checkpoint_every_s"):
            _above_zero(f"training.{name}", getattr(self, name))
        _between("training.warmup_ratio", self.warmup_ratio, 0, 1)
        _between("training.min_learning_rate_ratio", self.min_learning_rate_ratio, 0, 1)
        _at_least("training.weight_decay", self.weight_decay, 0)
        choice("training.precision", self.precision, ("fp32", "bf16"))
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(
                f"training.betas={self.betas} is out of range; give two numbers from 0 to below 1"
            )


@dataclass
class InferenceGrid:
    """What the energy-per-token benchmark serves: the same for teacher and student."""

    batch_size: int = 8
    prompt_tokens: int = 64
    new_tokens: int = 32
    min_window_s: float = 2.0
    """A window repeats the work at least this long; shorter ones cannot be measured."""
    max_repeats: int = 10
    """Windows repeat, three times at least, until the 95 % interval is within 5 % of the mean."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "prompt_tokens", "new_tokens"):
            _at_least(f"eval.inference.{name}", getattr(self, name), 1)
        _at_least("eval.inference.min_window_s", self.min_window_s, 2.0)
        _at_least("eval.inference.max_repeats", self.max_repeats, 3)


@dataclass
class EvalTask:
    name: str = MISSING
    """Task of the harness, or `tiny:NAME` for one that ships with the package."""
    primary_metric: str = MISSING
    chance: float | None = None
    """Score of guessing, for the chance-corrected ratio; None where it has no meaning."""
    num_fewshot: int = 0
    limit: int | None = None
    """First documents only, for smoke runs."""

    def __post_init__(self) -> None:
        _at_least("eval.tasks.num_fewshot", self.num_fewshot, 0)
        if self.limit is not None:
            _at_least("eval.tasks.limit", self.limit, 1)
        if self.chance is not None:
            _between("eval.tasks.chance", self.chance, 0, 1)


@dataclass
class Eval:
    name: str = MISSING
    tasks: list[EvalTask] = field(default_factory=list)
    batch_size: int = 16
    apply_chat_template: bool = False
    inference: InferenceGrid | None = None

    def __post_init__(self) -> None:
        _at_least("eval.batch_size", self.batch_size, 1)


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
    allow_shared: bool = False
    idle_s: float = 0.0
    """Seconds of idle measured before the first window, for net figures; 0 skips it."""
    openmetrics: str | None = None
    """A .prom or .om file, or a folder for one per process, with live figures for Prometheus."""

    def __post_init__(self) -> None:
        _between("telemetry.interval_s", self.interval_s, 0.01, 10)
        if not self.slow_interval_s >= self.interval_s:
            raise ValueError(
                f"telemetry.slow_interval_s={self.slow_interval_s} is below "
                f"interval_s={self.interval_s}; give at least the sampling interval"
            )
        choice("telemetry.cpu_estimate", self.cpu_estimate, ("off", "tdp"))
        choice("telemetry.cpu_scope", self.cpu_scope, ("auto", "node", "job"))
        _above_zero("telemetry.cpu_tdp_w", self.cpu_tdp_w)
        _at_least("telemetry.cpu_tdp_threads", self.cpu_tdp_threads, 1)
        _at_least("telemetry.idle_s", self.idle_s, 0)
        if self.openmetrics == "":
            raise ValueError(
                "telemetry.openmetrics is empty; give a .prom or .om file, a folder, or null"
            )


@dataclass
class Site:
    name: str = MISSING
    grid_gco2e_per_kwh: float = MISSING
    grid_source: str = MISSING
    pue: float = MISSING
    """Power usage effectiveness: energy of the building over energy of its computers."""
    pue_source: str = MISSING
    price_usd_per_kwh: float = MISSING
    price_source: str = MISSING

    def __post_init__(self) -> None:
        _at_least("site.grid_gco2e_per_kwh", self.grid_gco2e_per_kwh, 0)
        _at_least("site.pue", self.pue, 1)
        _at_least("site.price_usd_per_kwh", self.price_usd_per_kwh, 0)
