"""Figures and their numbers as files: for papers, slides and spreadsheets."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.report.latex import latex_table
from multirun_analysis.report.render import render_markdown
from multirun_analysis.report.table_layouts import layout_of
from multirun_analysis.report.typeset import typeset
from multirun_analysis.values.atomic import csv_text, replace_whole

KINDS = ("png", "svg", "pdf")
"""What figures are drawn as."""
FORMATS = ("csv", "md", "tex")
"""What tables are written as."""

MAX_TYPESET = 200
"""Rows of a Markdown or LaTeX table, which is read and not computed with; CSV has all."""
NO_BROWSER = (
    "the browser that draws it does not start, or ended too early; install another, or set "
    "BROWSER_PATH"
)
WIDTH_PX = 900
_SCALE = {"png": 2.0}
"""Dots a pixel: print wants more than a screen, and lines need none."""


def write_exhibit_tables(shown: Mapping[str, Exhibit], out_dir: Path) -> list[Path]:
    """Paths of tables/NAME.csv, .md and .tex of each exhibit; older ones there are removed.

    CSV keeps all columns and digits, and an empty cell where a number is missing. The others have
    the columns of the exhibit's layout, with numbers rounded to their errors.
    """
    tables_dir = out_dir / "tables"
    tables_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, exhibit in shown.items():
        for kind, text in _texts(name, exhibit).items():
            path = tables_dir / f"{name}.{kind}"
            replace_whole(path, partial(Path.write_text, data=text, encoding="utf-8"))
            paths.append(path)
    _remove_others(tables_dir, paths, FORMATS)
    return paths


def _texts(name: str, exhibit: Exhibit) -> dict[str, str]:
    """The table in each of FORMATS; what nobody reads stays in CSV."""
    whole = typeset(exhibit.table, layout_of(name))
    shown = replace(whole, rows=whole.rows[:MAX_TYPESET])
    left_out = len(whole.rows) - len(shown.rows)
    more = f"{left_out} more rows are in the CSV file." if left_out else ""
    return {
        "csv": csv_text(exhibit.table),
        "md": render_markdown(
            "exhibit_table", {"title": exhibit.title, "shown": shown, "more": more}
        ),
        "tex": latex_table(name, exhibit.title, shown, more),
    }


def why_not(what: str) -> str | None:
    """Why no browser can draw files such as `png figures`, and what to install; None if one can."""
    if find_spec("kaleido") is None:
        return f"kaleido draws {what}, and it is not installed; pip install 'kdwatts[static]'"
    from choreographer.browsers.chromium import Chromium

    if Chromium.find_browser(skip_local=False) is None:
        return (
            f"a Chrome or Chromium draws {what}, and none was found; install one, or set "
            "BROWSER_PATH"
        )
    return None


def write_figures(
    shown: Mapping[str, Exhibit], out_dir: Path, kind: str, *, width_px: int = WIDTH_PX
) -> list[Path]:
    """Paths of figures/NAME.KIND of each exhibit, drawn by a browser that fetches nothing.

    Equal figures are equal files where they are SVG. Older ones of the kind are removed. `why_not`
    tells beforehand whether they can be drawn. Raises OSError where the browser fails.
    """
    import kaleido

    logging.getLogger("choreographer").setLevel(logging.ERROR)  # The browser's end is told by us.
    figures_dir = out_dir / "figures"
    figures_dir.mkdir(parents=True, exist_ok=True)
    paths = {figures_dir / f"{name}.{kind}": exhibit.figure for name, exhibit in shown.items()}
    size = {"width": width_px, "scale": _SCALE.get(kind, 1.0)}
    wanted = [
        {
            "fig": _with_names(figure.to_dict()),
            "path": str(path),
            "opts": {"format": kind, "height": figure.layout.height, **size},
        }
        for path, figure in paths.items()
    ]
    # MathJax would be fetched; no label of ours needs it.
    try:
        kaleido.write_fig_from_object_sync(wanted, kopts={"mathjax": False})
    except RuntimeError as error:
        raise OSError(NO_BROWSER) from error
    if kind == "svg":
        for path in paths:
            path.write_text(_without_chance(path.read_text("utf-8")), encoding="utf-8")
    _remove_others(figures_dir, list(paths), [kind])
    return list(paths)


def _with_names(figure: dict[str, Any]) -> dict[str, Any]:
    """The figure with a name for each trace, which plotly.js would draw by lot."""
    for index, trace in enumerate(figure["data"]):
        trace["uid"] = f"t{index}"
    return figure


def _without_chance(svg: str) -> str:
    """The drawing with a fixed name in the place of the one that plotly.js drew by lot for it."""
    drawn = re.search(r'id="defs-([0-9a-f]{6})"', svg)
    return re.sub(rf"(?<=[a-z-]){drawn[1]}", "0", svg) if drawn else svg


def _remove_others(directory: Path, paths: list[Path], kinds: tuple[str, ...] | list[str]) -> None:
    """Removes files of these kinds that are none of `paths`."""
    for kind in kinds:
        for path in set(directory.glob(f"*.{kind}")) - set(paths):
            path.unlink()
