"""The metrics of an imported run: what its records say, and null for what they do not."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from kdwatts.metrics.efficiency import eff_overall
from kdwatts.metrics.scores import benchmarks_at_chance
from kdwatts.records.run_metrics import Metrics
from kdwatts.records.schema import StageRow
from multirun_analysis.importer.ept import Served, read_served, reservation
from multirun_analysis.importer.foreign import Source, load
from multirun_analysis.importer.known import GPUS, PAIRS, PRIMARIES, paradigm_of, seed_of
from multirun_analysis.importer.lm_eval_results import Evaluation, om_perf_and_kept, read_evaluation
from multirun_analysis.importer.repeats import Repeat
from multirun_analysis.importer.trace import Trace
from multirun_analysis.values.folders import FOREIGN

_UNKNOWN: dict[str, Any] = dict.fromkeys(
    field.name
    for field in fields(Metrics)
    if field.default is MISSING and field.default_factory is MISSING
)
"""What a run of ours always says and an imported one need not. What it inherited was made elsewhere
and left no trace: unknown, not nothing. Its trace spans loading and saving too, so that its length
is no training time."""


@dataclass(frozen=True)
class Model:
    """What is known of one model apart from its training."""

    sources: dict[str, Source]
    evaluation: Evaluation | None
    served: Served | None


def read_model(folder: Path, *, subject: str) -> Model:
    """Evaluation and inference energy of a folder, as far as they are there."""
    sources = {name: source for name in FOREIGN if (source := load(folder, name))}
    evaluation, served = sources.get("eval.json"), sources.get("ept.json")
    return Model(
        sources=sources,
        evaluation=read_evaluation(evaluation, subject=subject) if evaluation else None,
        served=read_served(served) if served else None,
    )


def summarize(
    run_name: str,
    trace: Trace,
    row: StageRow,
    student: Model,
    teacher: Model | None,
    *,
    origin: str,
    correction: float | None,
    repeat: Repeat,
) -> tuple[Metrics, dict[str, str | None]]:
    """Metrics, and the reasons for what is missing or doubtful in them."""
    own = row.energy
    teacher = teacher or Model({}, None, None)
    plain, kept, om_perf_reason = om_perf_and_kept(student.evaluation, teacher.evaluation)
    at_chance = {
        subject: benchmarks_at_chance(
            [asdict(score) for score in model.evaluation.scores], PRIMARIES, subject=subject
        )
        for subject, model in (("student", student), ("teacher", teacher))
        if model.evaluation
    }
    student_params, teacher_params = (
        model.evaluation.params if model.evaluation else None for model in (student, teacher)
    )
    inference_reason, is_credible = reservation(
        student.served,
        teacher.served,
        student_params=student_params,
        teacher_params=teacher_params,
    )
    served_j, its_served_j = (
        model.served.total_j_per_token if model.served else None for model in (student, teacher)
    )
    gpu_names = set(trace.devices.values())
    gpu_name = gpu_names.pop() if len(gpu_names) == 1 else None
    models = [m.evaluation.model if m.evaluation else None for m in (teacher, student)]
    has_served = student.served or teacher.served
    stated: dict[str, Any] = dict(
        run=run_name,
        paradigm=paradigm_of(run_name),
        model=PAIRS.get((models[0] or "", models[1] or "")),
        gpu=GPUS.get(gpu_name or ""),
        gpu_name=gpu_name,
        num_gpus=len(trace.devices),
        seed=seed_of(run_name),
        own_energy_j=own.value,
        own_energy_quality=own.quality,
        own_energy_uncertainty_j=own.sd,
        inherited_energy_quality="missing",
        gpu_energy_j=row.energy_j["gpu"],
        cpu_energy_j=row.energy_j["cpu"],
        dram_energy_j=row.energy_j["dram"],
        num_attempts=1,
        student_params=student_params,
        teacher_params=teacher_params,
        student_total_j_per_token=served_j,
        teacher_total_j_per_token=its_served_j,
        inference_energy_quality="reported" if has_served else "missing",
        om_perf=plain.ratio,
        om_perf_stderr=plain.stderr,
        om_perf_corrected=plain.corrected,
        eff_overall=eff_overall(plain.ratio, its_served_j, served_j) if is_credible else None,
        student_key=row.key or "",
        origin=origin,
        unit_correction=correction,
        om_perf_low=plain.low,
        om_perf_high=plain.high,
        accuracy_kept=kept.value,
        accuracy_kept_low=kept.low,
        accuracy_kept_high=kept.high,
        accuracy_kept_benchmarks=list(kept.benchmarks),
        teacher_at_chance=at_chance.get("teacher", []),
        student_at_chance=at_chance.get("student", []),
        benchmarks_without_chance=list(kept.without_chance),
        own_energy_random_sd_j=own.random_sd,
        own_energy_shared_sd_j=own.shared_sd,
        setting_name=repeat.setting,
        repeat=repeat.repeat,
    )
    return Metrics(**(_UNKNOWN | stated)), {
        "om_perf_reason": om_perf_reason,
        "inference_reason": inference_reason,
    }
