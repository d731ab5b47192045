"""Templates of the page and of the README: numbers get units, and text of runs stays text."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from html import escape
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from multirun_analysis.collect.labels import run_name
from multirun_analysis.report.signs import sign_name
from multirun_analysis.report.table_layouts import layout_of
from multirun_analysis.report.typeset import numbers_of
from multirun_analysis.values import units

Values = dict[str, Any]
"""What a template is given, by name."""

_BEFORE_A_UNIT = re.compile(r"(?<=\d) (?=%|[kMGmµ]?(?:J|Wh|W|g)\b)")
"""Where a line of large type is not broken."""

_MARKDOWN_SIGNS = ("\\", "|", "<", ">", "*", "_", "`", "[", "]", "~", "$")


def render_html(name: str, values: Values) -> str:
    """The template NAME.html.j2, in which every value is escaped that is not marked `safe`."""
    return _environment().get_template(f"{name}.html.j2").render(values)


def render_markdown(name: str, values: Values) -> str:
    """The template NAME.md.j2, which passes text of runs through the filter `md`.

    Its blocks stand one blank line apart, whichever of them there are.
    """
    text = _environment().get_template(f"{name}.md.j2").render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("multirun_analysis.report"),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "counted": units.count,
        "duration": units.duration,
        "energy": units.energy,
        "figure_json": figure_json,
        "general": lambda number: f"{number:g}",
        "sign_name": sign_name,
        "html": lambda text: escape(one_line(text)),
        "md": markdown_text,
        "number": units.number,
        "numbers_of": lambda table, name: numbers_of(table, layout_of(name)),
        "plain_count": units.plain_count,
        "paragraph": lambda text: f"{one_line(text)}\n",
        "quantity": units.quantity,
        "run_name": run_name,
        "sha256": script_hash,
        "significant": units.significant,
        "with_error": units.with_error,
        "with_units": lambda text: _BEFORE_A_UNIT.sub("\u00a0", text),
    }
    return found


def markdown_text(words: str) -> str:
    """Plain text on one line: no sign of it is markup, no break of it ends a row."""
    for sign in _MARKDOWN_SIGNS:
        words = words.replace(sign, f"\\{sign}")
    return one_line(words)


def one_line(text: str) -> str:
    """Text without breaks, which would end a row or a paragraph."""
    return " ".join(text.split())


def figure_json(figure: go.Figure) -> str:
    """A figure inside a script, where a closing tag in a label would end the element."""
    return str(figure.to_json()).replace("<", "\\u003c")


def script_hash(script: str) -> str:
    """The policy's name for an inline script, so that no other script can run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
