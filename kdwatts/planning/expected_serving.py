"""What the settings of an experiment say about serving under load, as the roofline takes it."""

from __future__ import annotations

from collections.abc import Sequence

from kdwatts.config.experiment import Config
from kdwatts.config.pair import ModelSource
from kdwatts.memory.budget import GIB
from kdwatts.memory.model_shape import QUANTIZED_BYTES
from kdwatts.planning.demands import workload_of
from kdwatts.planning.load_estimates import Limits
from kdwatts.planning.measured_rates import Rates
from kdwatts.planning.serving_roofline import Device, Served, Tokens
from kdwatts.serving.engines.plan import has_flag, value_of
from kdwatts.serving.load.replayed_log import log_path
from kdwatts.stages.serving import DRAFTS
from kdwatts.stages.serving_log import parts_of_log
from kdwatts.stages.started_engine import QUANTIZATION_FLAGS
from kdwatts.traffic.logs import summary

MEMORY_FILLED = 0.92
"""Share of a GPU's memory that vLLM fills by default (--gpu-memory-utilization, vLLM 0.32)."""

LARGE_GPU_GIB = 70
ENGINE_MOST = 1024
"""Sequences that vLLM 0.32 takes at once on a GPU of 70 GiB or more that is no A100
(--max-num-seqs). It is taken for engines whose own limit is not known, too."""
SMALL_GPU_MOST = 256
CPU_MOST = 128

PARALLEL_FLAGS = (
    *("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"),
    *("--data-parallel-size", "-dp"),
)

FLAG_BITS = {"fp8": "fp8", "bitsandbytes": "int4", "bnb-4bit": "int4", "bnb-8bit": "int8"}
"""Value of an engine's --quantization to what it makes of the weights."""


def is_wanted(config: Config) -> bool:
    """Whether an engine or a load is asked for."""
    asked = config.eval.serving
    return bool(asked.is_measured or asked.concurrency or asked.rates_per_s or asked.replay.log)


def why_unknown(config: Config, rates: Rates) -> str | None:
    """Why serving under load cannot be estimated and what to do, in words; None where it can."""
    flags = engine_flags(config)
    for flag in PARALLEL_FLAGS:
        value = value_of(flags, flag)
        if value is not None and value != "1":
            return f"{flag}={value} takes several GPUs, and the estimate is of one"
    if any(word in flag.lower() for flag in flags for word in DRAFTS):
        return "its engine guesses tokens ahead, and how many are right is not known before"
    bits = _bits_of_flag(flags)
    if bits and bits not in FLAG_BITS:
        return f"the bytes of a weight with --quantization={bits} are not known"
    if config.eval.serving.replay.log and _lengths_of_log(config) is None:
        return "the log does not state how many tokens its requests read and write"
    rate = f"{'bf16' if config.training.precision == 'bf16' else 'fp32'}_dense_tflops"
    known = {"memory_bandwidth_gb_s": rates.bandwidth_gb_s, rate: rates.tflops}
    if missing := [f"gpu.{name}" for name, value in known.items() if not value]:
        both, them = " and ".join(missing), "them" if missing[1:] else "it"
        return f"gpu={config.gpu.name} does not state {both}; set {them}, or name another GPU"
    return None


def device_of(config: Config, rates: Rates) -> Device:
    """The GPU that `gpu` names, in the precision that is served. Its figures must be known."""
    tflops, bandwidth_gb_s = rates.tflops, rates.bandwidth_gb_s
    assert tflops and bandwidth_gb_s, "why_unknown says so"
    return Device(
        bandwidth_gb_s * 1e9,
        tflops * 1e12,
        config.gpu.tdp_w,
        is_memory_measured=rates.is_bandwidth_measured,
        are_products_measured=bool(rates.measured),
    )


def tokens_of(config: Config) -> Tokens:
    """What requests read and write on average."""
    asked = config.eval.serving
    if asked.replay.log:
        lengths = _lengths_of_log(config)
        assert lengths, "why_unknown says so"
        return lengths
    return Tokens(asked.workload.prompt_tokens, asked.workload.output_tokens)


def _lengths_of_log(config: Config) -> Tokens | None:
    replay = config.eval.serving.replay
    traffic = summary(log_path(replay), replay.format)
    if traffic.prompt_tokens is None or traffic.output_tokens is None:
        return None
    return Tokens(traffic.prompt_tokens.mean, traffic.output_tokens.mean)


def levels_of(config: Config) -> tuple[list[float], bool]:
    """The loads, and whether they count requests at once and not requests a second."""
    asked = config.eval.serving
    if asked.is_replayed:
        return [part.rate_per_s for part in parts_of_log(asked)], False
    return asked.loads, not asked.rates_per_s


def served_models(config: Config) -> list[Served]:
    """Student and teacher as the engine serves them, also in each of the bits that are given."""
    value_bytes = workload_of(config).value_bytes
    both = {"student": config.model.student, "teacher": config.model.teacher}
    sources = {subject: source for subject, source in both.items() if source}
    own = [
        Served(subject, source.architecture, value_bytes, _quantization(config, source))
        for subject, source in sources.items()
    ]
    rounded = [
        Served(f"{subject} in {bits}", source.architecture, value_bytes, bits)
        for bits in config.eval.serving.quantizations
        for subject, source in sources.items()
    ]
    return own + rounded


def limits_of(config: Config) -> Limits:
    """How many sequences the engine takes, and the memory that it fills."""
    gpu, flags = config.gpu, engine_flags(config)
    share = _number(value_of(flags, "--gpu-memory-utilization")) or MEMORY_FILLED
    memory = share * gpu.memory_gib * GIB if gpu.memory_gib else None
    return Limits(_engine_most(config, flags), memory)


def engine_flags(config: Config) -> Sequence[str]:
    """Flags of the engine's own, as the settings give them."""
    asked = config.eval.serving
    own = {"transformers": asked.transformers.flags, "vllm": asked.vllm.flags}
    return own.get(asked.engine, [])


def _engine_most(config: Config, flags: Sequence[str]) -> int:
    engine, gpu = config.eval.serving.engine, config.gpu
    if engine == "transformers" and not has_flag(flags, ["--continuous-batching"]):
        return 1
    if engine != "vllm":
        return ENGINE_MOST
    if given := _number(value_of(flags, "--max-num-seqs")):
        return int(given)
    if gpu.device == "cpu":
        return CPU_MOST
    is_large = (gpu.memory_gib or 0) >= LARGE_GPU_GIB
    return ENGINE_MOST if is_large and not _is_a100(gpu.nvml_names) else SMALL_GPU_MOST


def _is_a100(names: Sequence[str]) -> bool:
    return any("A100" in name for name in names)


def _number(value: str | None) -> float | None:
    """A flag's number; None where it is none, which is the engine's to refuse."""
    try:
        return float(value) if value else None
    except ValueError:
        return None


def _bits_of_flag(flags: Sequence[str]) -> str | None:
    return value_of(flags, "--quantization") or value_of(flags, "-q")


def _quantization(config: Config, source: ModelSource) -> str | None:
    """How the weights are quantised: by a flag of the engine, or by the teacher's setting."""
    engine = config.eval.serving.engine
    if flag := _bits_of_flag(engine_flags(config)):
        return FLAG_BITS[flag]
    bits = source.quantization
    is_kept = bits in QUANTIZED_BYTES and (
        engine in ("loop", "url") or (engine, bits) in QUANTIZATION_FLAGS
    )
    return bits if is_kept else None
