"""One offline page about a folder of runs: the answer first, then figures, tables and caveats.

Everything is inside the file. A content security policy forbids every request, so the page cannot
leak what it shows, and all text that comes from run folders is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from multirun_analysis.collect.collection import Collected
from multirun_analysis.collect.siting import RECORDED, at_site
from multirun_analysis.figures.catalogue import at_load, exhibits
from multirun_analysis.figures.looks import looks
from multirun_analysis.narrative.answer import answer
from multirun_analysis.narrative.caveats import caveat_passages
from multirun_analysis.narrative.site_words import site_words
from multirun_analysis.report import figure_sections, run_sections, service_section
from multirun_analysis.report.comparison_section import comparisons
from multirun_analysis.report.esg_sections import avoided, footprint
from multirun_analysis.report.few_bits_section import few_bits
from multirun_analysis.report.headlines import HEADLINES, servers_headline
from multirun_analysis.report.load_sections import load, load_by_model
from multirun_analysis.report.provider_section import provider
from multirun_analysis.report.render import Values, render_html
from multirun_analysis.report.repayment_section import repayment
from multirun_analysis.report.scores_section import scores
from multirun_analysis.report.service_section import answer_and_reasons
from multirun_analysis.report.signs import figure_signs, signs_of
from multirun_analysis.report.study import Exhibits, Service, Study
from multirun_analysis.statistics.fleets import fleets
from multirun_analysis.statistics.site import Site, common_site
from multirun_analysis.values.rows import Row, distinct_students, known, to_rows

# fmt: off
PROFILES = {
    "research": (
        "quality", "comparisons", "kept", "learning", "loss", "stages", "why", "serving",
        "load", "repayment", "break_even", "carbon", "runs", "scores", "few_bits", "imported",
        "unfinished", "devices", "caveats",
    ),
    "provider": (
        "service", "provider", "load", "load_by_model", "serving", "break_even", "repayment",
        "kept", "quality", "comparisons", "stages", "why", "carbon", "runs", "scores", "few_bits",
        "imported", "unfinished", "learning", "loss", "devices", "caveats",
    ),
    "esg": (
        "footprint", "avoided", "carbon", "stages", "caveats", "why", "repayment", "break_even",
        "serving", "load", "quality", "kept", "comparisons", "runs", "scores", "few_bits",
        "imported", "unfinished", "learning", "loss", "devices",
    ),
}
# fmt: on
"""Reader to the sections of the page, in order."""


def _caveats(study: Study) -> Values | None:
    found = caveat_passages(study.collected)
    return {"caveats": found} if found else None


SECTIONS: dict[str, Callable[[Study], Values | None]] = {
    "avoided": avoided,
    "caveats": _caveats,
    "comparisons": comparisons,
    "devices": figure_sections.devices,
    "few_bits": few_bits,
    "footprint": footprint,
    "imported": run_sections.imported,
    "load": load,
    "load_by_model": load_by_model,
    "loss": figure_sections.loss,
    "provider": provider,
    "quality": figure_sections.quality,
    "repayment": repayment,
    "runs": run_sections.runs,
    "scores": scores,
    "service": service_section.service,
    "stages": figure_sections.stages,
    "unfinished": run_sections.unfinished,
    "why": figure_sections.why,
}
"""Section to what makes the values of templates/SECTION.html.j2, or None for no section."""

EXHIBITS = {
    "break_even": ("Break-even", "break_even_over_tokens", "break_even_over_students"),
    "carbon": ("CO2e by site", "co2e_by_site"),
    "kept": ("Accuracy kept, and energy to serve", "accuracy_kept", "eff_overall"),
    "learning": ("Quality while training", "quality_against_joules"),
    "serving": ("Energy to serve (eager loop)", "energy_per_token", "energy_per_token_by_length"),
}
"""Section to its heading and its exhibits, where it is figures and their notes alone."""

PAPERS = {"a4": "A4", "letter": "Letter"}
"""Paper as it is asked for, and as CSS names it."""

FACETS = ("paradigm", "model", "gpu")
"""What the page is filtered by."""


def report_name(profile: str) -> str:
    """Name of the page's file."""
    return "report.html" if profile == "research" else f"report_{profile}.html"


def exhibits_of(
    collected: Collected, site: Site | None = None, service: Service | None = None
) -> Exhibits:
    """Every exhibit over all runs, by name; CO2e at `site` alone where one is asked for.

    With a service also its fleets, and the hours of its log. Raises ValueError where no server was
    measured in an open loop.
    """
    shown = exhibits(
        *(collected.runs, collected.stages, collected.train, collected.inference),
        collected.summaries,
        serving=collected.serving,
        site=site,
    )
    if service is None:
        return shown
    rows = to_rows(collected.runs)
    found = fleets(to_rows(collected.serving), rows, service.point)
    return shown | at_load(found, service.point, rows)


def write_report(
    collected: Collected,
    out_dir: Path,
    *,
    profile: str = "research",
    site: Site | None = None,
    tokens_per_day: float = 1e9,
    service: Service | None = None,
    shown: Exhibits | None = None,
    paper: str = "A4",
) -> Path:
    """Path of the page; see `report_html`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    path = out_dir / report_name(profile)
    text = report_html(
        collected,
        profile=profile,
        site=site,
        tokens_per_day=tokens_per_day,
        service=service,
        shown=shown,
        paper=paper,
    )
    path.write_text(text, encoding="utf-8")
    return path


def report_html(
    collected: Collected,
    *,
    profile: str = "research",
    site: Site | None = None,
    tokens_per_day: float = 1e9,
    service: Service | None = None,
    shown: Exhibits | None = None,
    paper: str = "A4",
) -> str:
    """The page as text, for one of PROFILES.

    All cost and emissions are those at `site`, or where it is None at the runs' own; those of a
    service are of so many tokens served a day, or of `service` where servers were measured. `shown`
    are the exhibits, where they are made already, for the same site and service. `paper`, as CSS
    names it, is what it prints on.
    """
    shown = exhibits_of(collected, site, service) if shown is None else shown
    collected = collected if site is None else at_site(collected, site)
    site = site or common_site(distinct_students(collected.runs))
    study = Study(collected, shown, site, tokens_per_day, service)
    sections = [*filter(None, (section_html(name, study) for name in PROFILES[profile]))]
    sections.append(_signs_html(study, sections))
    return render_html(
        "page",
        _frame(study, profile, paper)
        | {"sections": sections}
        | {"contents": [heading for text in sections if (heading := _heading(text))]},
    )


def _heading(section: str) -> tuple[str, Markup] | None:
    """Address and title of a section, as its template wrote them."""
    found = re.search(r'<section id="([\w-]+)">\s*<h2>([^<]+)', section)
    return (found[1], Markup(found[2])) if found else None


def _signs_html(study: Study, sections: list[str]) -> str:
    return render_html(
        "signs",
        {
            "signs": signs_of(sections),
            "figure_signs": figure_signs(any_imported=bool(known(study.rows, "origin"))),
            "settings": list(looks(study.rows).values()),
        },
    )


def section_html(name: str, study: Study) -> str:
    """One section of the page; empty where the study has nothing for it."""
    if name in EXHIBITS:
        template, values = "exhibits", figure_sections.exhibits(study, *EXHIBITS[name])
    else:
        template, values = name, SECTIONS[name](study)
    return render_html(template, values | {"look": study.look, "section": name}) if values else ""


def _frame(study: Study, profile: str, paper: str) -> Values:
    """What stands above and below the sections: the answer, filters, style and scripts."""
    rows, own = study.rows, files("multirun_analysis.report")
    found = answer(study.runs)
    servers = servers_headline(study)
    headline = HEADLINES[profile](study) if profile in HEADLINES and not servers else servers
    how_sure = answer_and_reasons(study)[0][1:]  # How sure the answer at a load is.
    others = [found.headline if headline else None, *found.sureness]
    leads = [*(how_sure or others), site_words(rows)]
    leads = [] if servers else leads
    return {
        "answer": found,
        "choices": _choices(study.students),
        "facets": {
            name: {key: str(run[key]) for key in FACETS}
            for run in rows
            for name in (run["run"], run["group"])
        },
        "folders": sorted({str(Path(run["folder"]).parent) for run in rows}) or ["serving.json"],
        "headline": headline or found.headline,
        "is_at_site": RECORDED in study.runs,
        "leads": [text for text in leads if text],
        "look": study.look,
        "num_imported": len(known(rows, "origin")),
        "num_open": sum(not run["finished"] for run in rows),
        "num_runs": len(rows),
        "num_students": len(study.students),
        "paper": paper,
        "profile": profile,
        "scripts": [get_plotlyjs(), own.joinpath("report.js").read_text("utf-8")],
        "style": "".join(
            own.joinpath(name).read_text("utf-8") for name in ("report.css", "print.css")
        ),
        "style_without_scripts": own.joinpath("no_scripts.css").read_text("utf-8"),
    }


def _choices(students: list[Row]) -> dict[str, list[str]]:
    """Facet to its values, where there are several."""
    found = {key: sorted({str(run[key]) for run in known(students, key)}) for key in FACETS}
    return {key: values for key, values in found.items() if len(values) > 1}
