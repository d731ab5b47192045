"""What each table of the analysis is, and what its columns hold, where no record says so."""

from __future__ import annotations

from docs.generate import plain_records

RUN_COLUMNS: plain_records.Fields = {
    "run": ("str", "Name of the run's folder; with folders above it where two are named alike."),
    "folder": ("str", "Path of the run's folder."),
    "state": ("str", "done, failed, preempted, unfinished, unreadable or unknown."),
    "reason": ("str | None", "Why the run is in no figure; null where it is in them."),
    "finished": ("bool", "Whether the run is in the figures."),
    "stage": ("str | None", "The stage that status.json names."),
    "attempt": ("int | None", "The attempt that status.json names."),
    "started_utc": ("str | None", "When the first attempt began."),
    "updated_utc": ("str | None", "When status.json was written."),
    "notes": ("str | None", "What is wrong with the run's files, and which run it repeats."),
    "duplicate_of": (
        "str | None",
        "The run that is the same student and counts in its place; null where this one counts.",
    ),
    "label": ("str", "Name of the run for readers: paradigm, what differs, seed."),
    "group": ("str", "Runs of one setting have one group: all but the seed is equal."),
    "group_label": ("str", "Name of the setting for readers."),
    "setting": (
        "str | None",
        "What the command line set, beside the groups and the seed; for a run on several nodes "
        "their number too.",
    ),
    "host": ("str | None", "Machine that the run was made on; of several, the first rank's."),
    "num_nodes": ("int | None", "Machines that the run was made on."),
    "hosts": ("str | None", "The names of all of them."),
    "cpu": ("str | None", "Their processors, each once."),
    "cpu_threads": ("int | None", "Hardware threads of all of them together."),
    "cards": ("str | None", "The GPUs of the run on all of them, counted by name."),
    "driver": ("str | None", "Version of NVIDIA's driver."),
    "cpu_estimate": ("str | None", "Source of the CPU's rated power, where it is estimated."),
    "precision": ("str | None", "training.precision."),
    "serving_prompts": ("str | None", "eval.inference.prompts."),
    "command": ("str | None", "The command line."),
    "git_commit": ("str | None", "Commit of kdwatts."),
    "versions": ("str | None", "Versions of packages, as JSON."),
    "doctor": (
        "str | None",
        "What manifest.json says of the last examinations of the machine, as JSON; null where it "
        "says nothing.",
    ),
    "sampling_mean_s": ("float | None", "Of an imported run: mean time between two samples."),
    "sampling_longest_s": ("float | None", "Of an imported run: longest time between two samples."),
    "om_perf_reason": ("str | None", "Of an imported run: why om_perf is missing."),
    "inference_reason": ("str | None", "Of an imported run: why its serving figures are missing."),
    "accuracy_kept_reason": ("str | None", "Why accuracy_kept is missing."),
    "imported_as": ("str | None", "Folder of an imported run below the folder it came from."),
    "options": ("str | None", "The options that vary between the runs, as JSON."),
    "inherited_amortised_energy_j": (
        "float | None",
        "Inherited energy, each artifact's divided by the students found that share it.",
    ),
    "total_energy_j": ("float | None", "Own and inherited energy, not divided."),
    "total_amortised_energy_j": ("float | None", "Own energy and the share of inherited energy."),
    "total_energy_quality": ("str | None", "Quality of total_amortised_energy_j."),
    "student_served_j_per_token": (
        "float | None",
        "Serving the student with our eager loop: mean over all measurements of what serves alike.",
    ),
    "student_served_random_sd_j": (
        "float | None",
        "Its standard error from measurement to measurement; null of a single one.",
    ),
    "student_served_shared_sd_j": ("float | None", "Its error from the meter's calibration."),
    "student_served_degrees": ("float | None", "Degrees of freedom of the standard error."),
    "student_served_measurements": ("int | None", "Measurements in the mean."),
    "student_served_key": ("str | None", "Equal keys have one figure."),
    "teacher_served_j_per_token": ("float | None", "The same of the teacher; also below."),
    "teacher_served_random_sd_j": ("float | None", "As for the student."),
    "teacher_served_shared_sd_j": ("float | None", "As for the student."),
    "teacher_served_degrees": ("float | None", "As for the student."),
    "teacher_served_measurements": ("int | None", "As for the student."),
    "teacher_served_key": ("str | None", "As for the student."),
    "eff_overall_low": ("float | None", "Lower end of the 95 % interval of eff_overall."),
    "eff_overall_high": ("float | None", "Upper end of the same interval."),
}
"""Columns of `runs` that metrics.json does not have."""

COMPONENT = {
    "energy_j": "Energy of the component, gross.",
    "quality": "measured, attributed, estimated or missing.",
    "method": "How it was obtained.",
    "coverage": "Share of the window's time that measurements span, 0 to 1.",
    "reason": "Why it is missing or doubtful.",
}
WINDOW = {
    "energy_j": "Sum of the measured components; of the estimated ones where none is measured.",
    "uncertainty_j": "One standard deviation of that sum.",
    "energy_quality": "Quality of that sum.",
    "net_energy_j": "That sum less idle power times duration; null where idle is not known.",
    "num_nodes": "Nodes whose joules are in it.",
    "waiting_energy_j": "Of that sum, the joules of nodes that wait for a stage that one rank "
    "builds alone; null where the window is of one node.",
    "waiting_uncertainty_j": "One standard deviation of these joules.",
}
NODE = "Number of the node in its run, from 1, the first rank's."
SUMMARY_COLUMNS = {
    "stage": "Name of the stage.",
    "num_ticks": "Samples of all devices in it.",
    "gpu_util_pct_mean": "Mean utilisation, over time and GPUs.",
    "gpu_power_w_mean": "Mean power of all GPUs together.",
    "gpu_memory_used_gib_max": "Most memory in use on one GPU.",
    "gpu_temperature_c_max": "Highest temperature of a GPU.",
    "gpu_throttled_share": "Share of samples in which a GPU was slowed down, 0 to 1.",
    "host_util_pct_mean": "Mean utilisation of the host's CPUs.",
    "gpu_floor_w": "Least power of all GPUs together while they report 0 %, in the whole run.",
}

SERVING_COLUMNS = {
    "run": "Name of the run, or of a folder with serving.json and no run.",
    "model": "The run's pair; null without a run.",
    "host": "Machine that the run was made on.",
    "cpu": "Its processor.",
    "power_limit_w": "Power limit of its GPUs; null where none was set.",
    "engine": "What served, such as vllm.",
    "engine_version": "Version of the engine.",
    "flags": "Every flag that it was started with, but the address and the model's folder.",
    "is_of_search": "Whether the load was tried in the search for the capacity.",
}
"""Columns of `serving` whose words are not those of a field."""
FIGURE = {
    "low": "Lower end of the 95 % interval of `{}`.",
    "high": "Upper end of the 95 % interval of `{}`.",
    "random_sd": "Of `{}`: one standard deviation of what repeats average out.",
    "shared_sd": "Of `{}`: one standard deviation of the meter's calibration.",
    "degrees": "Degrees of freedom of the standard deviation.",
    "quality": "Quality of `{}`.",
}

EXHIBITS = {
    "accuracy_kept_against_own_energy_j": "Accuracy kept, and the energy of building the student.",
    "accuracy_kept_against_total_energy_j": "The same, with inherited energy, not divided.",
    "accuracy_kept_against_total_amortised_energy_j": "The same, with the share of inherited "
    "energy.",
    "student_bits_per_byte_against_own_energy_j": "Bits per byte of held-out text, and the energy "
    "of building the student.",
    "student_bits_per_byte_against_total_energy_j": "The same, with inherited energy, not divided.",
    "student_bits_per_byte_against_total_amortised_energy_j": "The same, with the share of "
    "inherited energy.",
    "accuracy_kept": "Accuracy kept of each setting.",
    "eff_overall": "Of each setting, OM_perf times teacher over student joules per token of our "
    "eager loop.",
    "energy_per_token": "Joules per token served by our eager loop, of each architecture.",
    "energy_per_token_by_length": "The same by batch size, prompt length and new length.",
    "serving_under_load": "Joules per token and latencies of servers by load, one file for each "
    "engine and way of serving: the second is `serving_under_load-2.csv`.",
    "fleet_over_load": "Joules a request of the fleet of each candidate by load, where a load was "
    "given: measured loads, capacity, and your load.",
    "traffic_by_hour": "Requests a second in each hour of the log, where one was given.",
    "break_even_over_tokens": "Tokens to be served until building is repaid.",
    "break_even_over_students": "Students of one teacher until distilling costs less than "
    "fine-tuning to the same quality.",
    "co2e_by_site": "CO2e of building a student, at each site.",
    "energy_by_stage": "Energy of each stage.",
    "waiting_nodes": "Of each run on several nodes, the joules of nodes that waited for a stage "
    "that one rank builds alone.",
    "idle_and_wait": "Share of idle power, of waiting for data, and of utilisation, by stage.",
    "quality_against_joules": "Held-out bits per byte against the joules drawn by then.",
    "loss_curves": "The loss over the tokens trained on.",
    "comparisons": "Differences from fine-tuning seed by seed, with intervals and p-values.",
}
"""Tables of figures, by file name. A figure without data has no file."""

ABOUT = {
    "stages": "`stages.parquet` and `stages.csv`: one row for each window and attempt. The columns "
    "`energy_j` to `net_energy_j` add up the components.",
    "node_shares": "`node_shares.parquet`: one row for each node, window and attempt of a run on "
    "several nodes. The rows of a window add up to its row in `stages`.",
    "train": "`train.parquet`: one row for each row of train.jsonl. It has the terms that the runs "
    "have.",
    "scores": "`scores.parquet`: one row for each metric, task and model.",
    "inference": "`inference.parquet`: one row for each measurement of a model by our eager loop "
    "at a batch size, prompt length and new length.",
    "serving": "`serving.parquet` and `serving.csv`: one row for each load of each measurement "
    "of a server, also where the folder has serving.json and no run. Runs whose servers have one "
    "key hold the same measurements, and each has rows of its own.",
    "summaries": "`summaries.parquet`: one row for each run and stage: how busy and how hot its "
    "devices were.",
    "telemetry": "`telemetry.parquet/`: a folder with a file for each run, sorted by attempt and "
    "time. pandas and pyarrow read it as one table. One row for each device and sample, of all "
    "nodes.",
}
"""What each table is."""
