"""What the page says of imported runs: where they come from, and what else to know of them."""

from __future__ import annotations

from collections.abc import Iterator

from kdwatts.records.schema import COMPONENTS
from multirun_analysis.collect.labels import run_name
from multirun_analysis.values import units
from multirun_analysis.values.notices import Notice, Passage, notices_of
from multirun_analysis.values.rows import Row, grouped, known


def imported_passages(students: list[Row], stages: list[Row]) -> list[Passage]:
    """Origin, repeats, what was corrected, and what the foreign records cannot tell."""
    imported = known(students, "origin")
    if not imported:
        return []
    parts: list[Passage] = [f"{len(imported)} of {len(students)} students are imported."]
    origins = grouped(imported, lambda run: format_of(run["origin"]))
    parts += [
        Notice(f"Imported records of {records}", tuple(source_of(run["origin"]) for run in runs))
        for records, runs in origins.items()
    ]
    parts += _repeats(imported)
    names = {run["run"]: run_name(run) for run in imported}
    reasons = ((names[w["run"]], w["gpu_reason"] or "") for w in stages if w["run"] in names)
    parts += notices_of((run, words) for run, reason in reasons for words in _pieces(reason))
    missing = [
        part.upper()
        for part in COMPONENTS
        if all(run[f"{part}_energy_j"] is None for run in imported)
    ]
    if missing:
        parts.append(f"Not measured (unknown, not 0): {', '.join(missing)}.")
    if sampled := known(imported, "sampling_mean_s", "sampling_longest_s"):
        means = [run["sampling_mean_s"] for run in sampled]
        ends = dict.fromkeys(units.significant(end) for end in (min(means), max(means)))
        longest = units.significant(max(run["sampling_longest_s"] for run in sampled))
        parts.append(
            f"Power was sampled every {' to '.join(ends)} s on average, every {longest} s at worst."
        )
    parts += notices_of(
        (run_name(run), f"Accuracy kept is not known, because {run['om_perf_reason']}")
        for run in known(imported, "om_perf_reason")
    )
    parts += notices_of(
        (run_name(run), f"Serving energy: {remark}")
        for run in known(imported, "inference_reason")
        for remark in run["inference_reason"].split("; ")
    )
    parts.append("Cells are empty where the records say nothing: tokens, data, seed, site.")
    return parts


def _pieces(reason: str) -> Iterator[str]:
    """The remarks of an import on its counters, without the word that marks it."""
    return (words for words in reason.split("; ") if words not in ("", "imported"))


def _repeats(imported: list[Row]) -> list[Passage]:
    """Which folders were taken for repeats of one method, as no record says so."""
    settings = grouped(known(imported, "repeat"), "group").values()
    several = [rows for rows in settings if len(rows) > 1]
    if not several:
        return []
    runs = tuple(run_name(run) for rows in several for run in rows)
    counts = ", ".join(f"{rows[0]['setting_name']} ({len(rows)})" for rows in several)
    return [
        Notice(
            "Means and intervals count each repeat of a method once. Repeats of two methods are "
            "not compared in pairs. Taken as repeats, because the names of their folders differ "
            f"only by a number ({counts})",
            runs,
        )
    ]


def format_of(origin: str) -> str:
    """`import of a/b: FORMAT` without the folder."""
    return origin.rpartition(": ")[2]


def source_of(origin: str) -> str:
    """The folder alone."""
    return origin.rpartition(": ")[0].removeprefix("import of ") or origin
