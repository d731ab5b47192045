"""Tables and one page about the runs below some folders: `python -m multirun_analysis DIR`.

`python -m multirun_analysis import DIR --out DIR` reads foreign records into such folders;
`python -m multirun_analysis status DIR` tells how far a sweep is;
`python -m multirun_analysis choose DIR` says which student to serve.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdwatts.runtime.paths import argument_path
from kdwatts.runtime.streams import aligned
from multirun_analysis.collect.collection import collect, table_paths
from multirun_analysis.collect.labels import run_name
from multirun_analysis.collect.record_files import TORN
from multirun_analysis.collect.siting import at_site
from multirun_analysis.commands.service_options import (
    add_service_options,
    at_measured_limits,
    service_of,
)
from multirun_analysis.figures.catalogue import curves_by_setting, with_comparisons
from multirun_analysis.report.export import KINDS, why_not, write_exhibit_tables, write_figures
from multirun_analysis.report.page import PAPERS, PROFILES, exhibits_of, write_report
from multirun_analysis.report.page_pdf import write_pdf
from multirun_analysis.report.readme_page import write_readme
from multirun_analysis.statistics.accuracy_words import at_chance_words, kept_words
from multirun_analysis.statistics.site import site_of
from multirun_analysis.values import units
from multirun_analysis.values.notices import notice_line, notices_of
from multirun_analysis.values.order import options_of
from multirun_analysis.values.refusals import in_words
from multirun_analysis.values.rows import to_rows

DESCRIPTION = """\
Makes tables and a report, one web page, of the runs in the folders DIR and below them.
"""

EPILOG = """\
other commands, each with a --help of its own:
  status DIR             how far the runs of a sweep are, and why one failed
  choose DIR             what to serve at a load, and on how many GPUs
  import DIR --out DIR2  turn records of another program into run folders

examples:
  python -m multirun_analysis multirun/2026-11-30/09-00-00
  python -m multirun_analysis runs multirun --out analysis --site germany
  python -m multirun_analysis status multirun/2026-11-30/09-00-00

It prints a line for each run, then the folders and files that it wrote. Open report.html in a
browser. docs/glossary.md explains the words.
exit codes: 0 all went well; 1 a run, a folder or a figure is left out, and a sentence says why;
  2 the command was refused
"""


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0, 1 where figures, folders or all runs are left out, 2 where asked amiss.

    A sentence on stderr says what and why.
    """
    options = parser().parse_intermixed_args(arguments)
    try:
        if not 0 < options.tokens_per_day < math.inf:
            raise ValueError(f"--tokens-per-day {options.tokens_per_day:g}: give a number above 0")
        service = service_of(options)
        _check_pdf(options.pdf)
        site = None if options.site is None else site_of(options.site)
        out_dir = options.out or _default_out(options.directories)
        collected = collect(options.directories, out_dir)
        collected = collected if site is None else at_site(collected, site)
        missing = [*collected.left_out, *_unreadable(collected.runs)]
        if len(collected.runs) and True not in list(collected.runs["finished"]):
            missing.append("no run is finished, so the report has no figures and says why")
        if service is not None:
            try:
                service = at_measured_limits(service, collected)
            except ValueError as error:  # The page then has the answer of the eager loop.
                missing.append(f"no answer at this load: {in_words(error)}")
                service = None
        shown = exhibits_of(collected, site, service)
        report_path = write_report(
            collected,
            out_dir,
            profile=options.profile,
            site=site,
            tokens_per_day=options.tokens_per_day,
            service=service,
            shown=shown,
            paper=PAPERS[options.paper],
        )
        # Tables change with the figures' code too, not with the runs alone.
        by_setting = curves_by_setting(collected.train, collected.runs)
        tables = with_comparisons(shown, collected.runs) | by_setting
        written = write_exhibit_tables(tables, out_dir)
        if options.static:
            if problem := why_not(f"{options.static} figures"):
                missing.append(f"--static {options.static}: {problem}")
            else:
                try:
                    written += write_figures(shown | by_setting, out_dir, options.static)
                except OSError as error:  # The tables and the page are written.
                    missing.append(f"--static {options.static}: {in_words(error)}")
        if options.pdf:
            if problem := why_not("the page as PDF"):
                missing.append(f"--pdf {options.pdf}: {problem}")
            else:
                try:
                    written.append(write_pdf(report_path, options.pdf))
                except OSError as error:  # The tables and the page are written.
                    missing.append(f"--pdf {options.pdf}: {in_words(error)}")
        if options.readme:
            typed = shlex.join(arguments)
            written += write_readme(collected, options.readme, shown, arguments=typed)
    except (ValueError, OSError) as error:
        print(f"multirun_analysis: {in_words(error)}", file=sys.stderr)
        return 2
    for problem in missing:
        print(f"multirun_analysis: {problem}", file=sys.stderr)
    if len(collected.runs):
        print(table(collected.runs))
    folders = dict.fromkeys(path.parent for path in written if path != options.pdf)
    printed = [path for path in written if path == options.pdf]
    for path in (*folders, *table_paths(out_dir), report_path, *printed):
        print(path)
    return int(bool(missing))


def parser() -> argparse.ArgumentParser:
    """Of the options of a report."""
    parser = argparse.ArgumentParser(
        prog="python -m multirun_analysis",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directories",
        nargs="+",
        type=argument_path,
        metavar="DIR",
        help="folder of a run, of a sweep, or of many",
    )
    parser.add_argument(
        "--out",
        type=argument_path,
        metavar="DIR",
        help="where tables and report go (default: DIR/analysis, if there is one DIR)",
    )
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="research",
        help="the reader for whom the report is ordered (default research)",
    )
    parser.add_argument(
        "--site",
        metavar="NAME",
        help="count CO2e with the electricity of this site: an option of conf/site, or a YAML file "
        "of yours (default: the site that the runs state)",
    )
    add_service_options(parser)
    parser.add_argument(
        "--static",
        choices=KINDS,
        help="write the figures as files, too; needs an installed Chrome or Chromium",
    )
    parser.add_argument(
        "--pdf",
        type=argument_path,
        metavar="FILE",
        help="the page as PDF too, where a browser is installed",
    )
    parser.add_argument(
        "--paper", choices=PAPERS, default="a4", help="of --pdf and of the page's own print"
    )
    parser.add_argument(
        "--readme",
        type=argument_path,
        metavar="DIR",
        help="write a page in Markdown, too, with its figures as SVG",
    )
    return parser


def _unreadable(runs: pd.DataFrame) -> list[str]:
    """Files of our own runs that do not read; a torn last line is what a kill leaves, no fault."""
    found = notices_of(
        (run["run"], note)
        for run in to_rows(runs)
        if not run["origin"]
        for note in (run["notes"] or "").split("; ")
        if re.match(r"[\w-]+\.jsonl?\b", note) and TORN not in note
    )
    return [notice_line(said) for said in found]


def _check_pdf(path: Path | None) -> None:
    """Raise ValueError for a path that is no PDF's: what is there would be replaced."""
    if path is not None and (path.is_dir() or path.suffix.lower() != ".pdf"):
        found = "is a folder" if path.is_dir() else "does not end with .pdf"
        raise ValueError(f"--pdf {path} {found}; name the file that is to be written, as page.pdf")


def _default_out(directories: Sequence[Path]) -> Path:
    if len(directories) > 1:
        raise ValueError(
            f"{len(directories)} folders are given and no --out; say by --out where to write"
        )
    return directories[0] / "analysis"


def table(runs: pd.DataFrame) -> str:
    """One line per run with every option that varies, and below them why runs are in no figure."""
    rows = to_rows(runs)
    options = list(dict.fromkeys(key for run in rows for key in options_of(run)))
    heads = ("seed", "own energy", "accuracy kept", "OM_perf", "bits/byte", "state")
    lines: list[tuple[str, ...]] = [("run", "paradigm", *options, *heads)]
    for run in rows:
        values = options_of(run)
        own = units.energy(run["own_energy_j"], error_j=run["own_energy_uncertainty_j"])
        lines.append(
            (
                run_name(run),
                run["paradigm"] or units.MISSING,
                *(values.get(key, units.MISSING) for key in options),
                units.MISSING if run["seed"] is None else str(run["seed"]),
                own if run["own_energy_j"] is None else f"{own} {run['own_energy_quality']}",
                ", ".join(filter(None, (kept_words([run]), at_chance_words([run])))),
                units.with_error(run["om_perf"], run["om_perf_stderr"]),
                units.number(run["student_bits_per_byte"]),
                f"{run['state']}, imported" if run["origin"] else run["state"],
            )
        )
    reasons = notices_of((run_name(run), run["reason"]) for run in rows if not run["finished"])
    return "\n".join([aligned(lines), *map(notice_line, reasons)])
