"""A page in Markdown for a repository: figures as SVG beside it, every number from the tables.

It is for readers without the report: what was run, the answer with its intervals, and what is
within noise. Neither hosts nor folders of the machine are in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from multirun_analysis.collect.collection import Collected
from multirun_analysis.collect.siting import site_words
from multirun_analysis.figures.accuracy_against_energy import BITS_PER_BYTE
from multirun_analysis.figures.catalogue import with_comparisons
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.narrative.answer import answer, energy_column
from multirun_analysis.narrative.caveats import caveat_parts, short_commit
from multirun_analysis.narrative.findings import (
    comparison_rows,
    noise_words,
    result_rows,
    served_alike_words,
    serving_rows,
)
from multirun_analysis.report import markdown
from multirun_analysis.report.export import readable, why_not, write_figures
from multirun_analysis.report.sections import Exhibits
from multirun_analysis.statistics.accuracy_words import KEPT
from multirun_analysis.statistics.comparison_words import verdict_note
from multirun_analysis.statistics.draws import draws_of
from multirun_analysis.statistics.site import factor_words, stated_sites
from multirun_analysis.values import units
from multirun_analysis.values.atomic import replace_whole
from multirun_analysis.values.rows import Row, distinct_students, known, to_rows

WIDTH_PX = 760
"""As wide as a page of a repository is: text of a figure is as large there as it was drawn."""
MAX_NUMBERS = 30
"""Rows of a figure's numbers that a reader scrolls past; `tables/` has all of them."""


_TOLD = ("comparisons",)
"""Exhibits whose numbers stand in a table of the page."""


def write_readme(
    collected: Collected, readme_dir: Path, shown: Exhibits, *, arguments: str
) -> list[Path]:
    """Paths of README.md and of its figures; `arguments` are those of this program.

    Raises ValueError where no run has finished, or nothing draws figures.
    """
    if not distinct_students(collected.runs):
        raise ValueError(f"--readme {readme_dir}: no run has finished, so there is nothing to tell")
    if problem := why_not("svg"):
        raise ValueError(f"--readme {readme_dir}: {problem}")
    shown = with_comparisons(shown, collected.runs)
    drawn = {name: shown[name] for name in figure_names(collected.runs) if name in shown}
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
    figures = _figures(runs)

    def exhibits(section: str) -> list[str]:
        return [_exhibit(name, drawn[name]) for name in figures[section] if name in drawn]

    pairs = ", ".join(dict.fromkeys(str(run["model"]) for run in students))
    gpus = ", ".join(dict.fromkeys(str(run["gpu"]) for run in students))
    draws = draws_of(students)
    blocks = [
        f"# A study: {len(students)} students of {markdown.text(pairs)} on {markdown.text(gpus)}",
        *_answer(runs),
        "## What was run",
        markdown.table(
            ["Subject", "As manifests and configurations say"], _what_was_run(rows, students)
        ),
        _commands(students, arguments),
        "## Quality and energy",
        f"Means over {draws} with 95 % intervals by Student's t; a dash is a number that nothing "
        "measured. Accuracy kept is the mean over benchmarks of (student - chance) over (teacher - "
        "chance), of those whose teacher is above chance; its interval is the wider of those over "
        f"{draws} and over the benchmarks' samples. OM_perf is the plain mean of student over "
        "teacher score. With share: the student's part of what several inherit (shards, the "
        "teacher's signals, training the teacher) is added to its building. CO2e is of the "
        "building alone.",
        *filter(None, [markdown.text(site_words(rows))]),
        markdown.table(*result_rows(students), align="lrrrrrrrrl"),
        *exhibits("quality"),
        *_comparisons(runs, exhibits("comparisons")),
        *_section("Quality while training", exhibits("learning")),
        *_section("Where the energy went", exhibits("stages")),
        *_serving(collected, exhibits("serving")),
        *_section("CO2e by site", exhibits("carbon")),
        "## Before you quote a number",
        "\n".join(
            f"- **{title}.** {markdown.said(parts)}"
            for title, parts in caveat_parts(collected, name_hosts=False)
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _section(title: str, blocks: list[str]) -> list[str]:
    """The blocks under a heading; nothing where there are none."""
    return [f"## {title}", *blocks] if blocks else []


def _exhibit(name: str, exhibit: Exhibit) -> str:
    """A figure, how to read it, and its numbers where they are few."""
    blocks = [markdown.image(f"figures/{name}.svg", exhibit.title), markdown.text(exhibit.note)]
    if len(exhibit.table) <= MAX_NUMBERS and name not in _TOLD:
        blocks.append(markdown.closed("Numbers", markdown.frame(readable(exhibit.table))))
    return "\n\n".join(blocks)


def _answer(runs: pd.DataFrame) -> list[str]:
    """The answer, how sure it is, and which differences are chance, as far as these seeds tell."""
    found = answer(runs)
    blocks = [f"**{markdown.text(found.headline)}**", markdown.text(" ".join(found.sureness))]
    if found.warning:
        blocks.append(f"> {markdown.text(found.warning)}")
    blocks += ["\n".join(f"- {markdown.text(words)}" for words in noise_words(runs))]
    return [block for block in blocks if block]


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
    return ", ".join(filter(None, (run["cards"], driver, run["cpu"], threads)))


def _commands(students: list[Row], arguments: str) -> str:
    """What was typed: the sweeps, as manifests have them, and this page."""
    typed = dict.fromkeys(f"kdwatts {run['command']}" for run in known(students, "command"))
    lines = [*typed, f"multirun_analysis {arguments}"]
    return "\n".join(["```bash", *(f"python -m {_without_roots(line)}" for line in lines), "```"])


def _without_roots(command: str) -> str:
    """The command with the last part alone of each absolute path: others have no such folder."""
    return re.sub(r"(?<![^\s='\"])/(?:[^\s'\"]*/)?(?=[^\s/])", "", command)


def _comparisons(runs: pd.DataFrame, exhibits: Sequence[str]) -> list[str]:
    heads, rows = comparison_rows(runs)
    note = (
        "Differences of runs with one seed and equal tokens, less the sft run of that seed: mean "
        "with its 95 % interval, and p of a paired t-test, corrected within each column (Holm "
        f"1979). {verdict_note()} A difference smaller than its interval would not have been seen. "
        "The intervals are not corrected: one of many may leave out 0 by chance. worse than sft in "
        "joules: more."
    )
    blocks = [*exhibits, note, markdown.table(heads, rows, align="llrrrrlr")] if rows else []
    return _section("Against plain fine-tuning", blocks)


def _serving(collected: Collected, exhibits: Sequence[str]) -> list[str]:
    heads, rows = serving_rows(collected.runs, collected.train)
    note = (
        "Joules for a token of prompt and answer together. Repaid: tokens served in the teacher's "
        "place until building the student and its share of inherited work are saved. Students: "
        "that must share what they inherit until distilling each costs less than fine-tuning to "
        "the same held-out quality; not reached: fine-tuning never got there. All with 95 % "
        "intervals, of ratios by Fieller; unresolved: the gain is not told from nothing."
    )
    blocks = [note, markdown.table(heads, rows, align="lrrrrl")] if rows else []
    alike = [markdown.text(words) for words in served_alike_words(collected.runs)]
    return _section("Serving, and when it repays", [*blocks, *alike, *exhibits])
