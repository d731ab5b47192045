"""What metrics.json says of teacher and student in few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdwatts.artifacts.artifact import Artifact
from kdwatts.config.experiment import Config
from kdwatts.metrics.accuracy_kept import accuracy_kept, om_perf
from kdwatts.metrics.scores import Primaries, benchmark_scores
from kdwatts.models.rounding_to_bits import scheme_words
from kdwatts.records.quantized_model import QuantizedModel
from kdwatts.stages.engine_measurements import EngineServed, engine_figures
from kdwatts.stages.quantize import weights_bytes
from kdwatts.stages.quantized_subjects import (
    each_quantized,
    name_of,
    quantize_node,
    shape_source,
)


def quantized_models(
    config: Config,
    artifacts: Mapping[str, Artifact],
    scores: Sequence[Mapping[str, Any]],
    counted: Primaries,
    by_engine: Mapping[str, EngineServed],
) -> dict[str, QuantizedModel] | None:
    """Name, such as teacher_int4, to the figures of the model. None where none was made."""
    found = {
        name_of(subject, bits): _model(config, artifacts, scores, counted, by_engine, subject, bits)
        for subject, bits in each_quantized(config, ("teacher", "student"))
        if quantize_node(subject, bits) in artifacts
    }
    return found or None


def _model(
    config: Config,
    artifacts: Mapping[str, Artifact],
    scores: Sequence[Mapping[str, Any]],
    counted: Primaries,
    by_engine: Mapping[str, EngineServed],
    subject: str,
    bits: str,
) -> QuantizedModel:
    name, made = name_of(subject, bits), artifacts[quantize_node(subject, bits)]
    benchmarks = benchmark_scores(scores, counted, subject=name)
    kept, plain = accuracy_kept(benchmarks), om_perf(benchmarks)
    scored, served = artifacts.get(f"evaluate_{name}"), by_engine.get(name)
    own = [one["value"] for one in scores if one["subject"] == name
           and one["metric"] == "bits_per_byte"]  # fmt: skip
    return QuantizedModel(
        subject=subject,
        quantization=bits,
        scheme=scheme_words(bits, shape_source(config, subject).architecture),
        key=made.key,
        weights_bytes=weights_bytes(made.directory),
        quantizing_energy_j=made.energy.value,
        quantizing_energy_quality=made.energy.quality,
        quantizing_energy_random_sd_j=made.energy.random_sd,
        quantizing_energy_shared_sd_j=made.energy.shared_sd,
        evaluation_energy_j=scored.energy.value if scored else None,
        accuracy_kept=kept.value,
        accuracy_kept_low=kept.low,
        accuracy_kept_high=kept.high,
        accuracy_kept_benchmarks=list(kept.benchmarks),
        om_perf=plain.ratio,
        om_perf_low=plain.low,
        om_perf_high=plain.high,
        bits_per_byte=own[0] if own else None,
        engine=engine_figures(served, config.eval.serving) if served else None,
    )
