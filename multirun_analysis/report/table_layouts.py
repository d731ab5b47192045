"""What of each exhibit's table is read: in papers, in Markdown, and below its figure."""

from __future__ import annotations

from multirun_analysis.figures.accuracy_against_energy import (
    ACCURACY_KEPT,
    BITS_PER_BYTE,
    ENERGY_TITLES,
)
from multirun_analysis.figures.palette import stage_words
from multirun_analysis.figures.serving_by_architecture import (
    limit_words,
    machine_words,
    served_model,
)
from multirun_analysis.report.typeset import (
    Column,
    Layout,
    Maker,
    in_prefix,
    joules,
    mark_of,
    number,
    once_per,
    plain,
    whole,
    with_interval,
    words,
)
from multirun_analysis.statistics.accuracy_words import KEPT
from multirun_analysis.statistics.comparison_words import p_words
from multirun_analysis.statistics.comparisons import COLUMNS
from multirun_analysis.statistics.serving_curves import verdict_words
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, grouped

_IN_BRACKETS = "95 % intervals are in brackets."
_PLUS_MINUS = "± is half of a 95 % interval."

_BOUNDARIES = {"lifecycle": "life cycle", "combustion": "combustion", "unstated": "unstated"}
_SHORT = {
    "total_amortised_energy_j": "energy with share",
    "student_total_j_per_token": "serving (eager loop)",
}
"""Columns whose words are too long for a table."""


def layout_of(name: str) -> Layout | None:
    """Of the exhibit of that name; curves of one setting have the layout of all. None of others."""
    return _LAYOUTS.get(name.partition("-")[0])


def _ends(name: str) -> tuple[str, str]:
    return f"{name}_low", f"{name}_high"


def _subject(row: Row) -> str:
    if row["mark"] == "run":
        return str(row["label"])
    return f"{row['label']}, mean of {row['num_seeds']}"


def _quality_against(energy: str) -> dict[str, Layout]:
    note = (
        f"{_IN_BRACKETS} ± is one standard deviation for a run, half of a 95 % interval for a mean."
    )
    ends = ("quality_low", "quality_high")
    shared: list[Maker] = [
        words("Student", _subject),
        joules(energy, "Energy", error="energy_error_j"),
    ]
    front = words("Pareto front", lambda row: {True: "yes", False: "no"}.get(row["on_front"], "-"))
    kept = with_interval(KEPT, "Accuracy kept (%)", *ends, scale=100)
    bits = with_interval(BITS_PER_BYTE.column, "Bits per byte", *ends)
    return {
        f"{ACCURACY_KEPT.column}_against_{energy}": Layout([*shared, kept, front], note),
        f"{BITS_PER_BYTE.column}_against_{energy}": Layout([*shared, bits, front], note),
    }


def _both_forms(rows: list[Row]) -> list[Row]:
    """Accuracy kept and OM_perf of a setting in one row."""
    found = []
    for same in grouped(rows, lambda row: (row["group"], row["setting"])).values():
        row = dict(same[0])
        for form in (KEPT, "om_perf"):
            own = next((r for r in same if r["form"] == form), {})
            row |= {f"{form}{end}": own.get(end.strip("_") or "value")
                    for end in ("", "_low", "_high")}  # fmt: skip
        found.append(row)
    return found


def _gpu(rows: list[Row]) -> Column:
    machine = machine_words(rows)
    return Column("GPU", lambda row: f"{row['gpu']}{limit_words(row)}{machine(row)}", False, True)


_SERVED = Layout(
    [
        plain("model", "Pair", folds=True),
        _gpu,
        words("Model", served_model),
        plain("phase", "Phase"),
        whole("batch_size", "Batch size", folds=True),
        whole("prompt_tokens", "Prompt tokens", folds=True),
        whole("new_tokens", "New tokens", folds=True),
        joules("j_per_token", "Energy", error="half_width_j_per_token", per="/token"),
        whole("num_measurements", "Measurements"),
    ],
    f"Served by our eager loop. {_PLUS_MINUS}",
)


def _break_even(of: str) -> list[Maker]:
    name = f"break_even_{of}"

    def answer(row: Row) -> str:
        value = row[name]
        return (str(row["verdict"]) if value is None else units.plain_count(value)) + mark_of(row)

    def ends(row: Row) -> str:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if low is None and high is None:
            return units.MISSING
        return f"{units.plain_count(low)} to {units.plain_count(high)}"

    return [
        plain("setting", "Setting"),
        lambda _: Column(f"Break-even ({of})", answer),
        lambda _: Column("95 % interval", ends),
    ]


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return units.MISSING
    is_energy = "J" in row["unit"]  # Of the others the first column says what they are.
    unit, error = row["unit"] if is_energy else "", row["difference_half_width"]
    return units.signed(row["difference"], unit, error=error, prefixed=is_energy)


def _relative(row: Row) -> str:
    if row["effect_pct"] is None:
        return units.MISSING
    unit = COLUMNS[row["column"]].effect_unit
    return units.signed(row["effect_pct"], unit, error=row["effect_half_width_pct"], prefixed=False)


_COMPARED = Layout(
    [
        words("Compared", lambda row: _SHORT.get(row["column"], COLUMNS[row["column"]].words)),
        plain("label", "Setting"),
        lambda _: Column("Difference", lambda row: _difference(row) + mark_of(row)),
        lambda _: Column("Relative", _relative),
        lambda _: Column("p", lambda row: "-" if row["p_holm"] is None
                         else p_words(row["p_holm"])),
        whole("num_pairs", "Pairs"),
        plain("verdict", "Verdict"),
    ],
    "Each setting against plain fine-tuning (sft), by pairs of runs with the same seed. Energy "
    "with share includes the share of inherited work. ± is half of a 95 % interval. p is that of a "
    "paired t-test, corrected for all settings of a column (Holm).",
)  # fmt: skip


def _loss(rows: list[Row]) -> Column:
    """The term that the table is about, whichever it is."""
    known = {"run", "label", "group", "split", "step", "tokens"}
    term = next((name for name in (rows[0] if rows else {}) if name not in known), "loss")
    return Column(stage_words(term).capitalize(), lambda row: units.number(row[term], 4))


_SHARES = {
    "idle_pct": "Idle (%)",
    "data_wait_pct": "Data wait (%)",
    "gpu_util_pct": "GPU util. (%)",
    "host_util_pct": "CPU util. (%)",
}

_LAYOUTS: dict[str, Layout] = {
    **{
        name: layout
        for energy in ENERGY_TITLES
        for name, layout in _quality_against(energy).items()
    },
    "accuracy_kept": Layout(
        [
            plain("setting", "Setting"),
            whole("num_seeds", "Seeds"),
            with_interval(KEPT, "Accuracy kept (%)", f"{KEPT}_low", f"{KEPT}_high", scale=100),
            with_interval("om_perf", "OM_perf", "om_perf_low", "om_perf_high"),
            plain("at_chance", "At chance"),
        ],
        f"Accuracy kept: 0 % is guessing, 100 % is the teacher. OM_perf: mean of student score / "
        f"teacher score. {_IN_BRACKETS}",
        _both_forms,
    ),
    "eff_overall": Layout(
        [
            plain("setting", "Setting"),
            whole("num_seeds", "Seeds"),
            with_interval("value", "Eff_overall", "low", "high", kind="energy_class"),
        ],
        "OM_perf times teacher / student energy per token served by our eager loop, building not "
        "included. "
        f"{_IN_BRACKETS}",
    ),
    "energy_per_token": _SERVED,
    "energy_per_token_by_length": _SERVED,
    "serving_under_load": Layout(
        [
            plain("engine", "Engine", folds=True),
            plain("engine_version", "Version", folds=True),
            plain("flags", "Flags", folds=True),
            plain("precision", "Precision", folds=True),
            plain("load", "Arrivals", folds=True),
            whole("workload_prompt_tokens", "Prompt tokens", folds=True),
            whole("workload_output_tokens", "Output tokens", folds=True),
            words("Model", lambda row: row["curve"]),
            number("level", "Load"),
            with_interval("j_per_token", "J/token", *_ends("j_per_token"), kind="energy_class"),
            with_interval(
                "j_per_output_token",
                "J/output token",
                *_ends("j_per_output_token"),
                kind="energy_class",
            ),
            with_interval("ttft_p99_s", "First token, p99 (s)", *_ends("ttft_p99_s")),
            with_interval("tpot_p99_s", "Per output token, p99 (s)", *_ends("tpot_p99_s")),
            with_interval("goodput_per_s", "Goodput (requests/s)", *_ends("goodput_per_s")),
            words("Verdict", lambda row: verdict_words(row["verdict"])),
        ],
        "Load: requests at once in a closed loop, requests a second in an open one. "
        f"{_IN_BRACKETS}",
    ),
    "fleet_over_load": Layout(
        [
            plain("name", "Candidate"),
            whole("num_replicas", "Replicas"),
            whole("num_gpus", "GPUs"),
            plain("at", "Mark"),
            number("requests_per_s", "Requests/s"),
            with_interval(
                "j_per_request", "J/request", *_ends("j_per_request"), kind="energy_class"
            ),
            number("capacity_per_s", "Capacity (requests/s)"),
        ],
        "Requests a second, and the capacity, are those of the whole fleet, whose replicas share "
        f"the load evenly. {_IN_BRACKETS}",
    ),
    "traffic_by_hour": Layout(
        [
            number("from_h", "From hour"),
            whole("duration_s", "Seconds"),
            number("requests_per_s", "Requests/s"),
        ],
        "Hours count from the first request of the log.",
    ),
    "break_even_over_tokens": Layout(
        _break_even("tokens"),
        "Tokens that a student must serve in its teacher's place to repay building and its share "
        "of inherited work, each with the joules of our eager loop.",
        once_per("setting", "energy_class"),
    ),
    "break_even_over_students": Layout(
        [
            *_break_even("students"),
            joules("baseline_j", "Fine-tuning as good", error="baseline_sd_j"),
        ],
        "Students that must share the inherited work before distilling costs less than "
        "fine-tuning to the same quality on held-out text. ± is one standard deviation.",
        once_per("setting", "energy_class"),
    ),
    "co2e_by_site": Layout(
        [
            plain("setting", "Setting"),
            plain("site", "Site"),
            plain("what", "Energy of", folds=True),
            words("Factor covers", lambda row: _BOUNDARIES.get(row["grid_boundary"], "-")),
            number("grid_gco2e_per_kwh", "Grid (g/kWh)"),
            number("pue", "PUE"),
            in_prefix(
                "co2e_kg", "CO2e", "g", error="half_width_kg", kind="energy_class", scale=1000
            ),
        ],
        "CO2e of building one student. The grid factor is in gCO2e/kWh. "
        f"{_PLUS_MINUS} It holds the error of the energy alone.",
    ),
    "energy_by_stage": Layout(
        [
            plain("label", "Run"),
            words("Stage", lambda row: stage_words(row["stage"])),
            joules("energy_j", "Energy", kind="quality"),
            words("Work", lambda row: "reused" if row["inherited"] else "own"),
        ],
        "All attempts of each run. For reused work the energy is what building it once took.",
    ),
    "idle_and_wait": Layout(
        [
            plain("label", "Run"),
            words("Stage", lambda row: stage_words(row["stage"])),
            *(number(name, head) for name, head in _SHARES.items()),
        ],
        "Idle: what idle devices would have drawn, as a share of the energy. Data wait: share of "
        "the time. Utilisation: share of the time in which the device worked.",
    ),
    "waiting_nodes": Layout(
        [
            plain("label", "Run"),
            words("Stage", lambda row: stage_words(row["stage"])),
            whole("num_nodes", "Nodes", folds=True),
            joules("waiting_energy_j", "Waiting", error="waiting_half_width_j", kind="quality"),
            with_interval(
                "share_pct", "Of the run's joules (%)", "share_low_pct", "share_high_pct"
            ),
        ],
        f"Waiting: joules of nodes that wait for a stage that one rank builds alone. {_PLUS_MINUS} "
        f"{_IN_BRACKETS}",
    ),
    "quality_against_joules": Layout(
        [
            plain("label", "Run"),
            joules("energy_j", "Energy so far"),
            number("bits_per_byte", "Bits per byte", digits=4),
        ],
        "Bits per byte on held-out text: lower is better.",
    ),
    "loss_curves": Layout(
        [
            plain("label", "Run"),
            words("Text", lambda row: "held out" if row["split"] == "heldout" else "training"),
            whole("step", "Step"),
            whole("tokens", "Target tokens"),
            _loss,
        ],
    ),
    "comparisons": _COMPARED,
}
"""Exhibit to the layout of its table; CSV keeps all columns and digits."""
