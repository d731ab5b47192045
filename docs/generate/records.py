"""reference/records.md: the files that a run, an artifact, a sweep and the meter leave."""

from __future__ import annotations

from dataclasses import dataclass

from docs.generate import plain_records
from docs.generate.class_fields import SourceClass, SourceField, classes_in
from docs.generate.value_kinds import cell, kind_in_words

INTRODUCTION = """\
# Records

What each file holds, field by field. [What a run leaves](run_folder.md) says which file lies where;
[Tables](tables.md) shows what the analysis makes of them.

- A file `*.json` is one object, or a list of objects. A file `*.jsonl` has an object on each line.
- Units end the names: `_j` is joules, `_w` watts, `_s` seconds. Times `_utc` are ISO 8601 in UTC.
- `null` is a value that was not measured or that does not apply. A missing value is never 0.
- New fields may be added in later versions. No field is renamed.
- A run that is killed may leave half a last line in a file `*.jsonl`. Readers pass over it.
"""

SCHEMA_PATH = "kdwatts/records/schema.py"


@dataclass(frozen=True)
class Record:
    """One kind of object in a file."""

    title: str
    anchor: str
    words: str
    fields: tuple[SourceField, ...]


def records() -> list[Record]:
    """Every record, in the order of the page."""
    rows, serving = classes_in(SCHEMA_PATH), classes_in("kdwatts/serving/eager_loop.py")
    metrics = classes_in("kdwatts/records/run_metrics.py")["Metrics"]
    quantized = classes_in("kdwatts/records/quantized_model.py")["QuantizedModel"]
    gpu = classes_in("kdwatts/telemetry/nvml.py")["Device"]
    under_load = classes_in("kdwatts/records/serving_record.py")
    doctor = classes_in("kdwatts/records/doctor_record.py")
    cost = serving["ServingCost"].fields
    phases = [field for field in cost if field.name in ("prefill", "decode")]
    is_phase = {
        field.name: SourceField(field.name, "dict", None, f"{field.words} See [below](#phase).")
        for field in phases
    }
    point = [is_phase.get(field.name, field) for field in cost]
    served = (
        SourceField("subject", "str", None, "student or teacher."),
        SourceField("measurement", "int", None, "Number of the measurement in the store, from 1."),
        SourceField("key", "str", None, "Key of that measurement."),
    )
    return [
        Record(
            "metrics.json", "metrics", f"In the run's folder. {metrics.words}", metrics.fields
        ),
        Record(
            "A model in few bits in metrics.json",
            "quantized",
            f"Below `quantized`. {quantized.words}",
            quantized.fields,
        ),
        Record(
            "stages.jsonl",
            "stages",
            f"In the run's folder. {rows['StageRow'].words} A component is gpu, cpu or dram.",
            rows["StageRow"].fields,
        ),
        Record(
            "A share of a node in stages.jsonl",
            "node-share",
            f"Below `nodes`. {rows['NodeShare'].words}",
            rows["NodeShare"].fields,
        ),
        Record(
            "telemetry.jsonl",
            "telemetry",
            f"In the folder of a run or of the meter. {rows['TelemetryRow'].words} null is what "
            "the device does not say.",
            rows["TelemetryRow"].fields,
        ),
        _plain("train.jsonl", "train", "In the run's folder: one step, or one reading of the "
               "held-out rows.", plain_records.TRAIN),
        Record(
            "eval.json",
            "eval",
            f"In the run's folder, a list. {rows['Score'].words}",
            rows["Score"].fields,
        ),
        Record(
            "inference.json",
            "inference",
            f"In the run's folder, a list. {serving['ServingCost'].words}",
            (*served, *point),
        ),
        Record(
            "A phase in inference.json",
            "phase",
            f"Below `prefill` and `decode`. {serving['Phase'].words}",
            serving["Phase"].fields,
        ),
        Record(
            "serving.json",
            "serving",
            "In the run's folder, and in that of `python -m kdwatts.serving`, a list: one model "
            "behind one fresh server. [How it is measured](../explanation/serving.md#under-load).",
            under_load["ServingRecord"].fields,
        ),
        _below_serving(
            "A load in serving.json",
            "load",
            "Below `points`, and below `tried` of a capacity",
            under_load["ServingPoint"],
        ),
        _below_serving(
            "An engine in serving.json", "engine", "Below `engine`", under_load["EngineRecord"]
        ),
        _below_serving(
            "A capacity in serving.json", "capacity", "Below `capacity`", under_load["Capacity"]
        ),
        _below_serving(
            "Percentiles in serving.json",
            "percentiles",
            "Below `ttft_s`, `tpot_s` and `e2e_s`",
            under_load["Percentiles"],
        ),
        _below_serving(
            "A figure in serving.json",
            "figure",
            "Whatever has an interval",
            under_load["Figure"],
        ),
        _plain("status.json", "status", "In the run's folder: how far the run is.",
               plain_records.STATUS),
        _plain("manifest.json", "manifest", "In the run's folder: what the run stood on.",
               plain_records.MANIFEST),
        Record("A GPU in manifest.json and summary.json", "gpus", gpu.words or "", gpu.fields),
        Record(
            "An examination in manifest.json",
            "last-doctor",
            f"Below `doctor`. {doctor['LastDoctor'].words}",
            doctor["LastDoctor"].fields,
        ),
        Record(
            "doctor.json",
            "doctor",
            "In the folder of `python -m kdwatts.doctor`, and in the store: `HOST-UUID.json` or "
            f"`HOST-cpu.json` in `doctor/`. {doctor['DoctorRecord'].words}",
            doctor["DoctorRecord"].fields,
        ),
        Record(
            "A verdict in doctor.json",
            "verdict",
            "Below `verdicts`, and below `counter` and `not_right` of a manifest. "
            f"{doctor['Verdict'].words}",
            doctor["Verdict"].fields,
        ),
        _plain("contamination.json", "contamination", "In the run's folder, if "
               "`data.decontaminate.mode` is report or drop: which texts of the benchmarks stand "
               "in the corpus.", plain_records.CONTAMINATION),
        _plain("A task in contamination.json", "contamination-tasks", "Below `tasks`.",
               plain_records.GRAMS),
        _plain("artifact.json", "artifact", "In each folder of the store: what the artifact is, "
               "and what building it cost.", plain_records.ARTIFACT),
        _plain("energy.json", "energy", "Beside the weights of a model that kdwatts trained: what "
               "it cost. A student of this model inherits it.", plain_records.ENERGY),
        _plain("jobs.jsonl", "jobs", "In the folder of a sweep on Slurm: which jobs were sent.",
               plain_records.JOBS),
        _plain("summary.json", "summary", "In the folder of `python -m kdwatts.telemetry`: what "
               "the command drew.", plain_records.SUMMARY),
    ]  # fmt: skip


def words_of(record: Record, field: SourceField) -> str:
    """The meaning of a field: its own words, or those of the field that it is the twin of."""
    names = {one.name for one in record.fields}
    if field.words:
        return field.words
    if field.name == "schema":
        return plain_records.SCHEMA["schema"][1]
    for end, twin, said in (
        ("teacher_", "student_", "As `{}`, of the teacher."),
        ("_high", "_low", "Upper end of the interval of `{}`."),
    ):
        other = field.name.replace(end, twin)
        if end in field.name and other in names:
            return said.format(other)
    return ""


def page() -> str:
    """The page in Markdown."""
    parts = [INTRODUCTION]
    for record in records():
        parts += [
            f"## {record.title} {{#{record.anchor}}}\n\n{cell(record.words)}\n",
            "| field | type | meaning |",
            "| --- | --- | --- |",
        ]
        for field in record.fields:
            # A long name may break after each word.
            shown = field.name.replace("_", "_<wbr>")
            name = f'<code id="{record.anchor}.{field.name}">{shown}</code>'
            kind = cell(kind_in_words(field.kind, field.name))
            parts.append(f"| {name} | {kind} | {cell(words_of(record, field))} |")
        parts.append("")
    return "\n".join(parts)


def _below_serving(title: str, anchor: str, where: str, found: SourceClass) -> Record:
    return Record(title, anchor, f"{where}. {found.words}", found.fields)


def _plain(title: str, anchor: str, words: str, fields: plain_records.Fields) -> Record:
    stated = (SourceField(name, kind, None, said) for name, (kind, said) in fields.items())
    return Record(title, anchor, words, tuple(stated))
