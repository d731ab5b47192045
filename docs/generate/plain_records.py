"""Records that no dataclass states: their fields, in words. A test holds them against real ones."""

from __future__ import annotations

Fields = dict[str, tuple[str, str]]
"""Name of a field to its type, as in a dataclass, and its meaning."""

SCHEMA: Fields = {"schema": ("int", "Version of the records: 1.")}

GRAMS: Fields = {
    "num_texts": ("int | None", "Texts of the task; null where the task could not be read."),
    "num_texts_too_short": ("int | None", "Texts shorter than `ngram` words, looked for whole."),
    "num_texts_unbroken": (
        "int | None",
        "Texts in a script without blanks, whose words cannot be told apart.",
    ),
    "num_texts_hit": ("int | None", "Texts that stand in the corpus."),
    "num_documents_hit": ("int | None", "Documents of the corpus that hold one of them."),
    "examples": ("list[dict]", "Some of them: document, number of the text, and the words."),
    "reason": ("str | None", "Why the task could not be read; null where it could."),
}
"""Of each task in contamination.json, below `tasks`."""

STATUS: Fields = {
    "state": ("str", "running, done, failed or preempted."),
    "stage": ("str | None", "The stage that the run is at, or ended at; null before the first."),
    "attempt": ("int", "Counts the starts of this run, from 1."),
    "error": ("str | None", "Why it failed or was preempted, in one sentence; else null."),
    "stopped_by": (
        "str | None",
        "What ended training, target_tokens or budget_kj; null where the run is not done.",
    ),
    "node": (
        "str | None",
        "Host of the rank that failed or was lost, in a run of several nodes; else null.",
    ),
    "host": ("str", "Machine that it runs on."),
    "pid": ("int", "Number of its process there."),
    "job": ("str | None", "Its Slurm job; null outside of Slurm."),
    "time_utc": ("str", "When this was written."),
    **SCHEMA,
}

MANIFEST: Fields = {
    "attempt": ("int", "Counts the starts of this run, from 1."),
    "time_utc": ("str", "When the attempt began."),
    "kdwatts": ("str", "Version of kdwatts."),
    "git_commit": (
        "str | None",
        "Commit of the checkout, `+changes` if files differ; null where kdwatts is installed.",
    ),
    "config_hash": ("str", "Hash of the whole configuration."),
    "overrides": ("list[str]", "What the command line chose."),
    "python": ("str", "Version of Python."),
    "versions": ("dict[str, str | None]", "Package to version; null where it is not installed."),
    "host": ("str", "Name of the first rank's machine."),
    "system": ("str", "Operating system."),
    "cpu": ("str | None", "Name of the processor."),
    "cpu_threads": ("int | None", "Hardware threads of the machine."),
    "memory_gib": ("float", "Main memory of the machine."),
    "launch": ("dict[str, int]", "How many nodes and ranks the attempt has."),
    "nodes": (
        "list[dict]",
        "Each node of the run: number, host, cpu, cpu_threads, memory_gib, ranks, trace (the file "
        "of its telemetry), clock_offset_s (its monotonic clock less the first node's) and "
        "clock_skew_s (the offset is within this much of the truth). The two are null until the "
        "node's meter has begun.",
    ),
    "gpus": ("list[dict]", "The GPUs of all nodes, each with its host: see [below](#gpus)."),
    "doctor": (
        "list[dict]",
        "The last examination of the machine, for each GPU of the run, or for the host without a "
        "GPU: see [below](#last-doctor).",
    ),
    "command": ("list[str]", "The command as it was started."),
    "slurm": ("dict[str, str]", "Slurm's variables SLURM_JOB*."),
    "cpu_estimate": ("dict | None", "How the CPU is estimated; null where it is not."),
    "site": ("dict", "The section `site` of the configuration."),
    "compile": (
        "dict",
        "value: whether models are compiled, true or false, also where training.compile is auto; "
        "why: the reason.",
    ),
    "teacher_quantization": ("str | None", "int8 or int4; null where the teacher is as published."),
    "serving_engine": (
        "dict",
        "Model, such as student or teacher_int4, to the engine that served it: name, version, "
        "flags, precision, quantization; only where one did.",
    ),
    "earlier_attempts": ("list[dict]", "The manifests of earlier attempts in this folder."),
    "stopped_by": ("str", "What ended training; only once it has ended."),
    "feature_pairs": (
        "list[dict]",
        "The blocks that were paired, [student, teacher], where a feature term chose them.",
    ),
    **SCHEMA,
}

TRAIN: Fields = {
    "attempt": ("int", "Counts the starts of this run, from 1."),
    "split": ("str", "train: the rows of this step. heldout: rows that are never trained on."),
    "step": ("int", "Steps done so far."),
    "tokens": ("int", "Target tokens trained on so far."),
    "seconds": ("float", "Time in the steps so far, s, all attempts."),
    "learning_rate": ("float", "Of this step; only with split=train."),
    "grad_norm": ("float", "Norm of the gradient before it is clipped; only with split=train."),
    "loss": ("float", "The weighted sum of the terms."),
    "ce_nats": ("float", "Cross entropy of a target token, before its weight; also below."),
    "response_nats": ("float", "The response term; only where the paradigm has one; also below."),
    "feature": ("float", "The feature term."),
    "relational": ("float", "The relational term with level=sequence or token."),
    "attention_nats": ("float", "The relational term with level=attention."),
    "bits_per_byte": ("float", "Cross entropy in bits per byte of text; only with split=heldout."),
    "energy_j": ("float | None", "What building the student has drawn by then; split=heldout."),
    "energy_quality": ("str", "Quality of energy_j; only with split=heldout."),
    **SCHEMA,
}

CONTAMINATION: Fields = {
    "mode": ("str", "report: documents were counted. drop: they were left out too."),
    "ngram": ("int", "Words in a row that must be equal."),
    "num_documents": ("int", "Documents that were looked at."),
    "num_documents_hit": ("int", "Documents that hold a text of a task."),
    "tasks": ("dict", "Task to its counts: see [below](#contamination-tasks)."),
    **SCHEMA,
}

ARTIFACT: Fields = {
    "stage": ("str", "The stage that built it."),
    "key": ("str", "Its key, which is also the name of its folder."),
    "parents": ("list[str]", "Keys of the artifacts that are part of its own key."),
    "reads": ("list[str]", "Keys of further artifacts that it was built from."),
    "settings": ("dict", "What its key was made of."),
    "code": ("dict[str, str | None]", "Option that names code to the key of that code."),
    "attempts": ("list[dict]", "What building it drew: a record as in stages.jsonl an attempt."),
    "run": ("str", "Folder of the run that built it."),
    "host": ("str", "Machine on which it was built."),
    "gpus": ("list[str]", "Names of the GPUs that built it."),
    "time_utc": ("str", "When it was finished."),
    **SCHEMA,
}

ENERGY: Fields = {
    "energy_j": ("float | None", "Building this model and all that it stands on."),
    "uncertainty_j": ("float | None", "One standard deviation."),
    "shared_sd_j": ("float | None", "The part of it that is the meter's calibration."),
    "quality": ("str", "measured, attributed, estimated, missing or mixed."),
    "key": ("str", "Key of the model in the store in which it was trained."),
    "time_utc": ("str", "When it was finished."),
    **SCHEMA,
}

JOBS: Fields = {
    "time_utc": ("str", "When the jobs were sent."),
    "jobs": ("dict[str, str]", "Folder of a run or of an artifact to the Slurm job that makes it."),
    "after": ("list[str]", "Jobs that these wait for."),
    **SCHEMA,
}

SUMMARY: Fields = {
    "command": ("list[str] | None", "What was measured; null where the meter ran beside a job."),
    "exit_code": ("int | None", "Of the command; null without one."),
    "attempt": ("int", "Counts the measurements in this folder, from 1."),
    "start_utc": ("str", "When the window opened."),
    "duration_s": ("float", "Time from its opening to its end."),
    "gpu_energy_j": ("float | None", "Gross, all GPUs of the job; null where none was measured."),
    "cpu_energy_j": ("float | None", "Gross, the CPUs; null where it is not known."),
    "dram_energy_j": ("float | None", "Gross, main memory; null where it was not measured."),
    "method": ("dict[str, str | None]", "As in stages.jsonl; also below."),
    "quality": ("dict[str, str]", "measured, attributed, estimated or missing."),
    "uncertainty_j": ("Components", "One standard deviation."),
    "coverage": ("dict[str, float | None]", "Share of the time that measurements span, 0 to 1."),
    "net_energy_j": ("Components", "Less idle power; null where idle was not measured."),
    "node_energy_j": ("Components", "Of the whole node, where the job's is a share of it."),
    "idle_power_w": ("Components", "Mean power before the window; null where not measured."),
    "reason": ("dict[str, str]", "Per component, why its figure is missing or doubtful."),
    "host": ("str", "Name of the machine."),
    "gpus": ("list[dict]", "The GPUs that were measured: see [above](#gpus)."),
    "interval_s": ("float", "Time between two samples."),
    "cpu_estimate": ("dict | None", "Rated power and threads of the estimate; null without one."),
    **SCHEMA,
}
