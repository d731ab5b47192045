"""metrics.json and eval.json of a run, from its artifacts and their energy."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdwatts.artifacts.artifact import Artifact, component_energy_j, net_energy_j
from kdwatts.artifacts.manifest import add_to_manifest
from kdwatts.config.experiment import Config
from kdwatts.memory.model_shape import parameters_of
from kdwatts.metrics.accuracy_kept import accuracy_kept, om_perf
from kdwatts.metrics.break_even import tokens_to_break_even
from kdwatts.metrics.efficiency import eff_overall, j_per_token
from kdwatts.metrics.footprint import co2e_kg, cost_usd, water_l
from kdwatts.metrics.quantity import Quantity, add, common_quality
from kdwatts.metrics.scores import benchmark_scores, benchmarks_at_chance, with_chance
from kdwatts.metrics.student_t import to_sd
from kdwatts.records.files import read_json, write_json
from kdwatts.records.run_metrics import Metrics
from kdwatts.records.schema import StageRow
from kdwatts.stages.distill import LOG_NAME, STUDENT_NAME, SUMMARY_NAME, trained_models
from kdwatts.stages.engine_measurements import EngineServed, engine_columns, engines
from kdwatts.stages.evaluate import SCORES_NAME, primaries
from kdwatts.stages.inference import COST_NAME
from kdwatts.stages.quantized_metrics import quantized_models
from kdwatts.stages.serving import RECORD_NAME
from kdwatts.stages.serving_measurements import Point, Pooled, Served
from kdwatts.telemetry.nvml import Device


def summarize(
    config: Config,
    run_dir: Path,
    artifacts: Mapping[str, Artifact],
    served: Mapping[str, Served],
    by_engine: Mapping[str, EngineServed],
    root: StageRow,
    gpus: Sequence[Device],
) -> Metrics:
    """The metrics of a run, which are written with eval.json, inference.json, serving.json, links.

    A reused student brings the log of its training, and its pairs of blocks. `served` has each
    subject's measurements by the eager loop in the store, whichever runs made them, and `by_engine`
    those behind an engine.
    """
    student_artifact = artifacts["distill"]
    _link(run_dir / STUDENT_NAME, student_artifact.directory / STUDENT_NAME)
    if student_artifact.reused:
        shutil.copyfile(student_artifact.directory / LOG_NAME, run_dir / LOG_NAME)
    summary = read_json(student_artifact.directory / SUMMARY_NAME)
    add_to_manifest(run_dir, stopped_by=summary["stopped_by"])
    if student_artifact.reused and summary.get("feature_pairs"):
        add_to_manifest(run_dir, feature_pairs=summary["feature_pairs"])
    scores = [
        score
        for name in artifacts
        if name.startswith("evaluate_")
        for score in read_json(artifacts[name].directory / SCORES_NAME)
    ]
    # Artifacts of older versions do not say what guessing scores, so the configuration tells it.
    scores = with_chance(scores, primaries(config.eval.tasks))
    if scores:
        write_json(run_dir / "eval.json", scores)
    costs = [row for measured in served.values() for row in measured.rows]
    if costs:
        write_json(run_dir / COST_NAME, costs)
    if records := [record for one in by_engine.values() for record in one.records]:
        write_json(run_dir / RECORD_NAME, records)
        add_to_manifest(run_dir, serving_engine=engines(by_engine))
    result = _metrics(config, run_dir.name, artifacts, scores, served, by_engine, root, gpus)
    write_json(run_dir / "metrics.json", asdict(result))
    return result


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target)


def _metrics(
    config: Config,
    run: str,
    artifacts: Mapping[str, Artifact],
    scores: list[dict[str, Any]],
    served: Mapping[str, Served],
    by_engine: Mapping[str, EngineServed],
    root: StageRow,
    gpus: Sequence[Device],
) -> Metrics:
    # In few bits they are other models, with figures of their own.
    as_they_are = {name: one for name, one in by_engine.items() if name in ("student", "teacher")}
    student = artifacts["distill"]
    summary = read_json(student.directory / SUMMARY_NAME)
    own = student.energy
    ancestors = _inherited(config, artifacts)
    inherited = add(ancestors.values(), unit="J")
    saved = add((a.energy for a in artifacts.values() if a.reused), unit="J")
    point = config.eval.inference.point if served and config.eval.inference else None
    pooled = {
        subject: figures
        for subject, measured in served.items()
        if point and (figures := measured.at(point))
    }
    serving = {subject: figures.cost for subject, figures in pooled.items()}
    counted = primaries(config.eval.tasks)
    benchmarks = benchmark_scores(scores, counted)
    plain, kept = om_perf(benchmarks), accuracy_kept(benchmarks)
    at_chance = {
        subject: benchmarks_at_chance(scores, counted, subject=subject)
        for subject in ("student", "teacher")
    }
    site = config.site
    total = add([own, inherited])
    repaid = tokens_to_break_even(
        total, *(_per_token(pooled, subject) for subject in ("teacher", "student"))
    )
    place = {"pue": site.pue, "grid_gco2e_per_kwh": site.grid_gco2e_per_kwh}
    teacher = config.model.teacher
    return Metrics(
        run=run,
        paradigm=config.paradigm.name,
        model=config.model.name,
        data=config.data.name,
        gpu=config.gpu.name,
        gpu_name=gpus[0].name if gpus else None,
        num_gpus=len(gpus),
        site=site.name,
        seed=config.training.seed,
        own_energy_j=own.value,
        own_energy_quality=own.quality,
        own_energy_uncertainty_j=own.sd,
        own_net_energy_j=net_energy_j(student.record),
        inherited_energy_j=inherited.value,
        inherited_energy_quality=inherited.quality,
        inherited_energy_by_artifact_j={key: e.value for key, e in ancestors.items()},
        evaluation_energy_j=_sum_of(artifacts, "evaluate"),
        inference_energy_j=_measuring_j(artifacts, "inference", served),
        spent_energy_j=root.energy.value,
        saved_energy_j=saved.value,
        gpu_energy_j=component_energy_j(student.record, "gpu"),
        cpu_energy_j=component_energy_j(student.record, "cpu"),
        dram_energy_j=component_energy_j(student.record, "dram"),
        num_attempts=len(student.record["attempts"]),
        train_duration_s=summary["train_duration_s"],
        train_tokens=summary["num_targets"],
        train_tokens_per_s=_per_second(summary, "num_targets"),
        train_j_per_token=j_per_token(own.value, summary["num_targets"]),
        data_wait_share=_per_second(summary, "data_wait_s"),
        student_params=summary["student_params"],
        teacher_params=parameters_of(teacher.architecture) if teacher else None,
        student_prefill_j_per_token=_phase(serving, "student", "prefill", "j_per_token"),
        student_decode_j_per_token=_phase(serving, "student", "decode", "j_per_token"),
        student_total_j_per_token=_of(serving, "student", "total_j_per_token"),
        teacher_prefill_j_per_token=_phase(serving, "teacher", "prefill", "j_per_token"),
        teacher_decode_j_per_token=_phase(serving, "teacher", "decode", "j_per_token"),
        teacher_total_j_per_token=_of(serving, "teacher", "total_j_per_token"),
        inference_energy_quality=common_quality(cost["quality"] for cost in serving.values()),
        student_decode_tokens_per_s=_phase(serving, "student", "decode", "tokens_per_s"),
        teacher_decode_tokens_per_s=_phase(serving, "teacher", "decode", "tokens_per_s"),
        student_bits_per_byte=_score(scores, "student", "bits_per_byte"),
        teacher_bits_per_byte=_score(scores, "teacher", "bits_per_byte"),
        om_perf=plain.ratio,
        om_perf_stderr=plain.stderr,
        om_perf_corrected=plain.corrected,
        eff_overall=eff_overall(
            plain.ratio,
            _of(serving, "teacher", "total_j_per_token"),
            _of(serving, "student", "total_j_per_token"),
        ),
        co2e_kg=co2e_kg(own.value, **place),
        total_co2e_kg=co2e_kg(total.value, **place),
        cost_usd=cost_usd(own.value, pue=site.pue, price_usd_per_kwh=site.price_usd_per_kwh),
        grid_gco2e_per_kwh=site.grid_gco2e_per_kwh,
        pue=site.pue,
        student_key=student.key,
        stopped_by=summary["stopped_by"],
        heldout_ce_nats=summary["heldout"].get("ce_nats"),
        heldout_bits_per_byte=summary["heldout"].get("bits_per_byte"),
        heldout_energy_j=summary["heldout_energy_j"],
        om_perf_low=plain.low,
        om_perf_high=plain.high,
        student_total_interval_95_j=_of(serving, "student", "total_interval_95_j"),
        teacher_total_interval_95_j=_of(serving, "teacher", "total_interval_95_j"),
        student_net_total_j_per_token=_of(serving, "student", "net_total_j_per_token"),
        teacher_net_total_j_per_token=_of(serving, "teacher", "net_total_j_per_token"),
        student_prefill_latency_p50_s=_phase(serving, "student", "prefill", "latency_p50_s"),
        teacher_prefill_latency_p50_s=_phase(serving, "teacher", "prefill", "latency_p50_s"),
        student_decode_latency_p50_s=_phase(serving, "student", "decode", "latency_p50_s"),
        student_decode_latency_p95_s=_phase(serving, "student", "decode", "latency_p95_s"),
        teacher_decode_latency_p50_s=_phase(serving, "teacher", "decode", "latency_p50_s"),
        teacher_decode_latency_p95_s=_phase(serving, "teacher", "decode", "latency_p95_s"),
        break_even_verdict=repaid.verdict,
        break_even_tokens=repaid.value,
        break_even_tokens_low=repaid.low,
        break_even_tokens_high=repaid.high,
        water_l=water_l(own.value, wue_l_per_kwh=site.wue_l_per_kwh),
        wue_l_per_kwh=site.wue_l_per_kwh,
        power_limit_w=gpus[0].power_limit_w if gpus else None,
        own_energy_random_sd_j=own.random_sd,
        own_energy_shared_sd_j=own.shared_sd,
        inherited_energy_random_sd_j=inherited.random_sd,
        inherited_energy_shared_sd_j=inherited.shared_sd,
        teacher_quantization=teacher.quantization if teacher else None,
        **_serving_point(served, pooled, point),
        accuracy_kept=kept.value,
        accuracy_kept_low=kept.low,
        accuracy_kept_high=kept.high,
        accuracy_kept_benchmarks=list(kept.benchmarks),
        teacher_at_chance=at_chance["teacher"],
        student_at_chance=at_chance["student"],
        benchmarks_without_chance=list(kept.without_chance),
        grid_source=site.grid_source,
        grid_boundary=site.grid_boundary,
        grid_basis=site.grid_basis,
        grid_kind=site.grid_kind,
        grid_gases=site.grid_gases,
        grid_year=site.grid_year,
        grid_release=site.grid_release,
        grid_licence=site.grid_licence,
        serving_energy_j=_measuring_j(artifacts, "serving", as_they_are),
        **engine_columns(as_they_are, config.eval.serving, has_loop=bool(served)),
        quantized=quantized_models(config, artifacts, scores, counted, by_engine),
    )


def _inherited(config: Config, artifacts: Mapping[str, Artifact]) -> dict[str, Quantity]:
    """Key of each ancestor of the student to its energy: artifacts, and models that we trained."""
    ancestors = {
        artifacts[name].key: artifacts[name].energy
        for name in ("shards", "generate", "teacher")
        if name in artifacts
    }
    return ancestors | trained_models(config)


def _serving_point(
    served: Mapping[str, Served], pooled: Mapping[str, Pooled], point: Point | None
) -> dict[str, Any]:
    """At which point the figures are, what they pool, and their range over the grid."""
    batch_size, prompt_tokens, new_tokens = point or (None, None, None)
    columns: dict[str, Any] = {
        "serving_batch_size": batch_size,
        "serving_prompt_tokens": prompt_tokens,
        "serving_new_tokens": new_tokens,
    }
    for subject, measured in served.items():
        least, most = measured.range_j_per_token()
        columns |= {
            f"{subject}_serving_key": measured.key,
            f"{subject}_serving_measurements": (
                pooled[subject].measurements if subject in pooled else 0
            ),
            f"{subject}_total_j_per_token_least": least,
            f"{subject}_total_j_per_token_most": most,
        }
    return columns


def _measuring_j(
    artifacts: Mapping[str, Artifact], stage: str, subjects: Collection[str]
) -> float | None:
    """Joules of the measurement of each subject that this run made, or found where it made none.

    Those that other runs made for the same figure are in theirs. None where one subject has none.
    """
    has_all = all(f"{stage}_{subject}" in artifacts for subject in subjects)
    return _sum_of(artifacts, stage) if has_all else None


def _sum_of(artifacts: Mapping[str, Artifact], stage: str) -> float | None:
    """Joules of both subjects; None where the stage did not run or was not measured."""
    names = [f"{stage}_{subject}" for subject in ("student", "teacher")]
    energies = [artifacts[name].energy for name in names if name in artifacts]
    return add(energies).value if energies else None


def _per_second(summary: Mapping[str, Any], name: str) -> float | None:
    """A figure over the seconds of training; None where there were none."""
    duration_s = summary["train_duration_s"]
    return summary[name] / duration_s if duration_s else None


def _score(scores: list[dict[str, Any]], subject: str, metric: str) -> float | None:
    return next(
        (s["value"] for s in scores if s["subject"] == subject and s["metric"] == metric), None
    )


def _phase(serving: dict[str, Any], subject: str, phase: str, name: str) -> float | None:
    return serving[subject][phase][name] if subject in serving else None


def _of(serving: dict[str, Any], subject: str, name: str) -> Any:
    return serving[subject][name] if subject in serving else None


def _per_token(pooled: Mapping[str, Pooled], subject: str) -> Quantity:
    """Joules per token served; a single measurement tells nothing of what other runs would find."""
    if subject not in pooled:
        return Quantity(None, unit="J/token", quality="missing")
    cost, degrees = pooled[subject].cost, pooled[subject].measurements - 1
    half_width_j = cost["total_interval_95_j"] if degrees else None
    return Quantity(
        cost["total_j_per_token"],
        None if half_width_j is None else to_sd(half_width_j, degrees),
        unit="J/token",
        quality=cost["quality"],
        degrees=max(1, degrees),
    )
