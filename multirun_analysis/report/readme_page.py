"""A page in Markdown for a repository: figures as SVG beside it, every number from the tables.

It is for readers without the report: what was run, the answer with its intervals, and what is
within noise. Neither hosts nor folders of the machine are in it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import pandas as pd

from multirun_analysis.collect.collection import Collected
from multirun_analysis.figures.accuracy_against_energy import BITS_PER_BYTE
from multirun_analysis.figures.catalogue import with_comparisons
from multirun_analysis.figures.under_load import load_names
from multirun_analysis.narrative.answer import answer, energy_column
from multirun_analysis.narrative.caveats import caveat_passages, short_commit
from multirun_analysis.narrative.findings import (
    comparison_rows,
    noise_words,
    result_rows,
    served_alike_words,
    serving_rows,
)
from multirun_analysis.narrative.server_methods import apart_from_the_loop
from multirun_analysis.narrative.site_words import factor_words, site_words
from multirun_analysis.report.export import why_not, write_figures
from multirun_analysis.report.render import render_markdown
from multirun_analysis.report.study import Exhibits
from multirun_analysis.statistics.accuracy_words import KEPT
from multirun_analysis.statistics.comparison_words import verdict_note
from multirun_analysis.statistics.loop_words import loop_words
from multirun_analysis.statistics.seeds import draws_of
from multirun_analysis.statistics.site import stated_sites
from multirun_analysis.values import units
from multirun_analysis.values.atomic import replace_whole
from multirun_analysis.values.rows import Row, distinct_students, known, to_rows

WIDTH_PX = 760
"""As wide as a page of a repository is: text of a figure is as large there as it was drawn."""
MAX_NUMBERS = 30
"""Rows of a figure's numbers that a reader scrolls past; `tables/` has all of them."""


def write_readme(
    collected: Collected, readme_dir: Path, shown: Exhibits, *, arguments: str
) -> list[Path]:
    """Paths of README.md and of its figures; `arguments` are those of this program.

    Raises ValueError where no run has finished, or nothing draws figures.
    """
    if not distinct_students(collected.runs):
        raise ValueError(f"--readme {readme_dir}: no run has finished, so there is nothing to tell")
    if problem := why_not("svg figures"):
        raise ValueError(f"--readme {readme_dir}: {problem}")
    shown = with_comparisons(shown, collected.runs)
    names = [*figure_names(collected.runs), *load_names(shown)]
    drawn = {name: shown[name] for name in names if name in shown}
    paths = write_figures(drawn, readme_dir, "svg", width_px=WIDTH_PX)
    path = readme_dir / "README.md"
    text = readme_text(collected, drawn, arguments=arguments)
    replace_whole(path, partial(Path.write_text, data=text, encoding="utf-8"))
    return [path, *paths]


def figure_names(runs: pd.DataFrame) -> list[str]:
    """The exhibits of the page, by section."""
    return [name for names in _figures(runs).values() for name in names]


def _figures(runs: pd.DataFrame) -> dict[str, list[str]]:
    energy = energy_column(distinct_students(runs))
    return {
        "quality": [f"{BITS_PER_BYTE.column}_against_{energy}", KEPT],
        "comparisons": ["comparisons"],
        "learning": ["quality_against_joules"],
        "stages": ["energy_by_stage"],
        "serving": ["energy_per_token", "eff_overall", "break_even_over_tokens"],
        "carbon": ["co2e_by_site"],
    }


def readme_text(collected: Collected, drawn: Exhibits, *, arguments: str) -> str:
    """The page; `drawn` are the exhibits whose figures lie beside it as figures/NAME.svg."""
    runs, rows = collected.runs, to_rows(collected.runs)
    students = distinct_students(rows)
    values = {
        "num_students": len(students),
        "pairs": ", ".join(dict.fromkeys(str(run["model"]) for run in students)),
        "gpus": ", ".join(dict.fromkeys(str(run["gpu"]) for run in students)),
        "answer": answer(runs),
        "noise": noise_words(runs),
        "subjects": _what_was_run(rows, students),
        "commands": _commands(students, arguments),
        "draws": draws_of(students),
        "site_words": site_words(rows),
        "results": result_rows(students),
        "comparisons": comparison_rows(runs),
        "verdict_note": verdict_note(),
        "serving": serving_rows(runs, collected.train),
        "served_alike": served_alike_words(runs),
        "loop_words": loop_words(rows),
        "load_words": apart_from_the_loop(rows),
        "exhibits": {
            section: [(name, drawn[name]) for name in names if name in drawn]
            for section, names in (_figures(runs) | {"load": load_names(drawn)}).items()
        },
        "max_numbers": MAX_NUMBERS,
        "caveats": caveat_passages(collected, name_hosts=False),
    }
    return render_markdown("readme", values)


def _what_was_run(rows: list[Row], students: list[Row]) -> list[tuple[str, str]]:
    """What manifests and configurations say, subject by subject; without what none says."""
    open_ = Counter(str(run["state"]) for run in rows if not run["finished"])
    states = ", ".join(f"{count} {state}" for state, count in sorted(open_.items()))
    settings = len({run["group"] for run in students})
    about = {
        "Students": f"{len(students)} of {settings} settings"
        + (f"; in no figure: {states}" if states else ""),
        "Paradigms": _distinct(students, "paradigm"),
        "Seeds": _distinct(students, "seed"),
        "Pair": "; ".join(dict.fromkeys(map(_pair, students))),
        "Corpus": _distinct(students, "data"),
        "Target tokens of each student": _range(students, "train_tokens"),
        "Precision of training": _distinct(students, "precision"),
        "Machine": "; ".join(dict.fromkeys(filter(None, map(_machine, students)))),
        "Electricity": "; ".join(map(factor_words, stated_sites(students))),
        "Finished": " to ".join(_ends(str(r["updated_utc"])[:10] for r in students)),
        "Commit": ", ".join(sorted({short_commit(r["git_commit"])
                                    for r in known(students, "git_commit")})),
    }  # fmt: skip
    return [(subject, words) for subject, words in about.items() if words]


def _distinct(rows: list[Row], column: str) -> str:
    return ", ".join(dict.fromkeys(str(run[column]) for run in known(rows, column)))


def _range(rows: list[Row], column: str) -> str:
    return " to ".join(f"{value:,}" for value in _ends(r[column] for r in known(rows, column)))


def _ends(values) -> list:
    """Least and most; one where they are equal, none where there is no value."""
    found = sorted(set(values))
    return found if len(found) < 2 else [found[0], found[-1]]


def _pair(run: Row) -> str:
    sizes = ", ".join(
        f"{subject} {units.quantity(run[f'{subject}_params'], '').rstrip()} parameters"
        for subject in ("student", "teacher")
        if run[f"{subject}_params"] is not None
    )
    bits = f", teacher in {run['teacher_quantization']}" if run["teacher_quantization"] else ""
    return f"{run['model']} ({sizes}{bits})" if sizes else str(run["model"])


def _machine(run: Row) -> str:
    threads = run["cpu_threads"] and f"{run['cpu_threads']} threads"
    driver = run["driver"] and f"driver {run['driver']}"
    nodes = f"{run['num_nodes']} nodes" if (run["num_nodes"] or 1) > 1 else None
    return ", ".join(filter(None, (nodes, run["cards"], driver, run["cpu"], threads)))


def _commands(students: list[Row], arguments: str) -> list[str]:
    """What was typed: the sweeps, as manifests have them, and this page."""
    typed = dict.fromkeys(f"kdwatts {run['command']}" for run in known(students, "command"))
    return [_without_roots(line) for line in (*typed, f"multirun_analysis {arguments}")]


def _without_roots(command: str) -> str:
    """The command with the last part alone of each absolute path: others have no such folder."""
    return re.sub(r"(?<![^\s='\"])/(?:[^\s'\"]*/)?(?=[^\s/])", "", command)
