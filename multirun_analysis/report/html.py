"""The pieces of HTML that the page is made of. Titles are ours; callers escape what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from multirun_analysis.collect.labels import run_name
from multirun_analysis.values.rows import Row


def section(title: str, subtitle: str, body: str, *, anchor: str = "") -> str:
    return f"""<section{f' id="{anchor}"' if anchor else ""}>
<h2>{title}</h2>
<p class="sub">{subtitle}</p>
{body}
</section>
"""


def slot(title: str, figures: Mapping[str, go.Figure]) -> str:
    """A panel that shows one of its figures, by the value of the section's control."""
    data = "".join(
        f'<script type="application/json" data-choice="{choice}">{_json(figure)}</script>'
        for choice, figure in figures.items()
    )
    plot = f'<div class="plot" role="img" aria-label="{title}"></div>'
    return f'<figure class="panel slot"><figcaption>{title}</figcaption>{plot}{data}</figure>'


def _json(figure: go.Figure) -> str:
    # A closing script tag inside a label would end the element; JSON may spell it otherwise.
    return str(figure.to_json()).replace("<", "\\u003c")


def radio(name: str, choices: Mapping[str, str]) -> str:
    options = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"{" checked" * (i == 0)}>'
        f"<span>{escape(text)}</span></label>"
        for i, (value, text) in enumerate(choices.items())
    )
    return f'<fieldset class="controls control">{options}</fieldset>'


def select(label: str, choices: Sequence[str]) -> str:
    options = "".join(
        f'<option value="{i}">{escape(text)}</option>' for i, text in enumerate(choices)
    )
    return f'<select class="control" aria-label="{label}">{options}</select>'


def table(heads: str, body: str) -> str:
    html = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" tabindex="0">{html}</div>'


def facet(*names: str) -> str:
    """The attribute by which filters find a row of a table: names of its runs, or of its group."""
    return f' data-facet="{escape(chr(10).join(names))}"'


def row_head(label: str, hue: str, small: str = "") -> str:
    """The first cell of a row: the colour of its setting, its label, and what stands below it."""
    below = f"<small>{escape(small)}</small>" if small else ""
    return (
        f'<th scope="row"><span class="dot" style="--hue:{hue}"></span>{escape(label)}{below}</th>'
    )


def run_head(run: Row, hue: str) -> str:
    """The first cell of a run's row, with its folder if that is another than its label."""
    name = run_name(run)
    return row_head(run["label"], hue, "" if run["label"].startswith(name) else name)


def escaped(value: object) -> str:
    """Text from a record as HTML; nothing for None."""
    return "" if value is None else escape(str(value))


def filters(choices: Mapping[str, Sequence[str]]) -> str:
    """A bar of one select for each facet, which hides runs in all figures and tables."""
    boxes = "".join(
        f'<label>{escape(facet)} <select class="filter" data-key="{escape(facet)}">'
        '<option value="">all</option>'
        + "".join(f'<option value="{escape(v)}">{escape(v)}</option>' for v in values)
        + "</select></label>"
        for facet, values in choices.items()
    )
    return boxes and f'<nav class="filters" aria-label="Filters">{boxes}</nav>'
