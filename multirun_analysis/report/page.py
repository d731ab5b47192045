"""One offline page about a folder of runs: the answer first, then figures, tables and caveats.

Everything is inside the file. A content security policy forbids every request, so the page cannot
leak what it shows, and all text that comes from run folders is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from pathlib import Path

import pandas as pd
from plotly.offline import get_plotlyjs

from multirun_analysis.collect.collection import Collected
from multirun_analysis.collect.siting import RECORDED, at_site
from multirun_analysis.figures.catalogue import exhibits
from multirun_analysis.figures.looks import hue_of
from multirun_analysis.narrative.answer import answer
from multirun_analysis.narrative.site_words import site_words
from multirun_analysis.report.esg import esg_sections
from multirun_analysis.report.html import filters
from multirun_analysis.report.imported_section import imported_section
from multirun_analysis.report.page_tables import runs_section, scores_section, unfinished_section
from multirun_analysis.report.provider import provider_section
from multirun_analysis.report.repayment_section import repayment_section
from multirun_analysis.report.sections import (
    Exhibits,
    caveats_section,
    comparison_section,
    devices_section,
    exhibit_section,
    expense_section,
    loss_section,
    quality_section,
    stage_section,
)
from multirun_analysis.statistics.site import Site, common_site
from multirun_analysis.values import units
from multirun_analysis.values.rows import Row, distinct_students, known, to_rows

# fmt: off
PROFILES = {
    "research": (
        "quality", "comparisons", "kept", "learning", "loss", "stages", "why", "serving",
        "repayment", "break_even", "carbon", "runs", "scores", "imported", "unfinished", "devices",
        "caveats",
    ),
    "provider": (
        "provider", "serving", "break_even", "repayment", "kept", "quality", "comparisons",
        "stages", "why", "carbon", "runs", "scores", "imported", "unfinished", "learning", "loss",
        "devices", "caveats",
    ),
    "esg": (
        "esg", "carbon", "stages", "caveats", "why", "repayment", "break_even", "serving",
        "quality", "kept", "comparisons", "runs", "scores", "imported", "unfinished", "learning",
        "loss", "devices",
    ),
}
# fmt: on
"""Reader to the sections of the page, in order."""

FACETS = ("paradigm", "model", "gpu")
"""What the page is filtered by."""


def report_name(profile: str) -> str:
    """Name of the page's file."""
    return "report.html" if profile == "research" else f"report_{profile}.html"


def exhibits_of(collected: Collected, site: Site | None = None) -> Exhibits:
    """Every exhibit over all runs, by name; CO2e at `site` alone where one is asked for."""
    return exhibits(
        *(collected.runs, collected.stages, collected.train, collected.inference),
        collected.summaries,
        site=site,
    )


def write_report(
    collected: Collected,
    out_dir: Path,
    *,
    profile: str = "research",
    site: Site | None = None,
    tokens_per_day: float = 1e9,
    shown: Exhibits | None = None,
) -> Path:
    """Path of the page; see `report_html`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / report_name(profile)
    text = report_html(
        collected, profile=profile, site=site, tokens_per_day=tokens_per_day, shown=shown
    )
    path.write_text(text, encoding="utf-8")
    return path


def report_html(
    collected: Collected,
    *,
    profile: str = "research",
    site: Site | None = None,
    tokens_per_day: float = 1e9,
    shown: Exhibits | None = None,
) -> str:
    """The page as text, for one of PROFILES.

    All cost and emissions are those at `site`, or where it is None at the runs' own; those of a
    service are of so many tokens served a day. `shown` are the exhibits, where they are made
    already, for the same site.
    """
    shown = exhibits_of(collected, site) if shown is None else shown
    collected = collected if site is None else at_site(collected, site)
    runs, stages, train = collected.runs, collected.stages, collected.train
    rows = to_rows(runs)
    site = site or common_site(distinct_students(rows))
    builders = {
        "quality": lambda: quality_section(runs, shown),
        "comparisons": lambda: comparison_section(runs),
        "kept": lambda: exhibit_section(
            shown, "accuracy_kept", "eff_overall", title="Accuracy kept, and what for"
        ),
        "stages": lambda: stage_section(runs, stages, shown),
        "why": lambda: expense_section(shown),
        "serving": lambda: exhibit_section(
            shown, "energy_per_token", "energy_per_token_by_length", title="Energy to serve"
        ),
        "repayment": lambda: repayment_section(runs, train),
        "break_even": lambda: exhibit_section(
            shown, "break_even_over_tokens", "break_even_over_students", title="Break-even"
        ),
        "carbon": lambda: exhibit_section(shown, "co2e_by_site", title="CO2e by site"),
        "provider": lambda: provider_section(runs, train, site, tokens_per_day=tokens_per_day),
        "esg": lambda: esg_sections(runs, stages, train, site, tokens_per_day=tokens_per_day),
        "runs": lambda: runs_section(rows),
        "scores": lambda: scores_section(rows, to_rows(collected.scores)),
        "imported": lambda: imported_section(rows),
        "unfinished": lambda: unfinished_section(rows),
        "devices": lambda: devices_section(rows, collected),
        "learning": lambda: exhibit_section(
            shown, "quality_against_joules", title="Quality while training"
        ),
        "loss": lambda: loss_section(runs, train, shown),
        "caveats": lambda: caveats_section(collected),
    }
    return _page(runs, [builders[name]() for name in PROFILES[profile]], profile=profile)


def _page(runs: pd.DataFrame, sections: list[str], *, profile: str) -> str:
    own = files("multirun_analysis.report")
    style, script = (own.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    scripts = [get_plotlyjs(), script]
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src "
        f"{' '.join(map(_hash, scripts))}"
    )
    folders = sorted({str(Path(folder).parent) for folder in runs["folder"]})
    students = distinct_students(runs)
    as_recorded = ", CO2e at the site of each run's record" if RECORDED in runs else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Students and their energy</title>
<style>{style}</style>
</head>
<body class="{profile}">
{_header(runs)}
{filters(_choices(students))}
<main>
{"".join(sections)}
</main>
<footer>Made by multirun_analysis from {escape(", ".join(folders))}. Beside this page: runs.csv and
runs.parquet hold every number{as_recorded}, tables/ those of each figure.</footer>
<script type="application/json" id="facets">{_facets(to_rows(runs))}</script>
{"".join(f"<script>{text}</script>" for text in scripts)}
</body>
</html>
"""


def _choices(students: list[Row]) -> dict[str, list[str]]:
    """Facet to its values, where there are several."""
    found = {key: sorted({str(run[key]) for run in known(students, key)}) for key in FACETS}
    return {key: values for key, values in found.items() if len(values) > 1}


def _facets(runs: list[Row]) -> str:
    """Runs and groups to their facets as JSON that cannot end its element."""
    found = {
        name: {key: str(run[key]) for key in FACETS}
        for run in runs
        for name in (run["run"], run["group"])
    }
    return json.dumps(found).replace("<", "\\u003c")


def _hash(script: str) -> str:
    """The policy's name for an inline script, so that no other script can run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _header(runs: pd.DataFrame) -> str:
    found = answer(runs)
    num_students, num_open = len(distinct_students(runs)), list(runs["finished"]).count(False)
    listed = (
        f'<a href="#unfinished">{num_open} failed or unfinished</a>' if num_open else "all finished"
    )
    if num_imported := len(known(to_rows(runs), "origin")):
        listed += f' · <a href="#imported">{num_imported} imported</a>'
    leads = [text for text in (*found.sureness, site_words(to_rows(runs))) if text]
    hue = hue_of(to_rows(runs))
    highlights = "".join(
        f'<div class="highlight" style="--hue:{hue(highlight.group)}">'
        f'<div class="question">{escape(highlight.question)}</div>'
        f'<div class="student">{escape(highlight.student)}</div>'
        f'<div class="figure">{escape(highlight.figure)}</div>'
        f'<div class="detail">{escape(highlight.detail)}</div></div>'
        for highlight in found.highlights
    )
    counted = f"{units.count(num_students, 'student')} of {units.count(len(runs), 'run')}"
    return f"""<header>
<p class="eyebrow"><b>kdwatts</b> · {counted} · {listed}</p>
<h1>{escape(found.headline)}</h1>
{"".join(f'<p class="lead">{escape(text)}</p>' for text in leads)}
{f'<p class="warn">{escape(found.warning)}</p>' if found.warning else ""}
<div class="highlights">{highlights}</div>
</header>"""
