"""A table as LaTeX: a float that a paper can input, or a long table that breaks over pages."""

from __future__ import annotations

import re

import pandas as pd

from multirun_analysis.report.render import one_line
from multirun_analysis.report.typeset import Typeset
from multirun_analysis.values import units

MAX_FLOAT_ROWS = 40
"""Rows that fit a page; a table of more is a long one."""

_SIGNS = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
        # After the end of a row, brackets and an asterisk belong to it.
        "[": "{[}",
        "]": "{]}",
        "*": "{*}",
        "`": r"\textasciigrave{}",
        '"': "''",
        "±": r"$\pm$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "·": r"$\cdot$",
        "µ": r"$\mu$",
        "°": r"$^\circ$",
        "\N{MINUS SIGN}": "$-$",
        "≤": r"$\le$",
        "≥": r"$\ge$",
        "≈": r"$\approx$",
        "→": r"$\to$",
        "…": r"\ldots{}",
        "†": r"$^\dagger$",
        "‡": r"$^\ddagger$",
        "§": r"$^\S$",
    }
)

_UNPRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Signs without a shape, at which LaTeX stops."""
_FOREIGN = re.compile(
    r"[^\x00-\x7f\xa1-\xaa\xac-\xba\xbc-\xcf\xd1-\xdd\xdf-\xef\xf1-\xfd\xff"
    r"\u2013\u2014\u2018\u2019\u201c\u201d\u2022]"
)
"""Letters that pdfLaTeX stops at with its own fonts: all but those of western Europe."""


def latex_text(text: str) -> str:
    """Plain text that LaTeX prints as it stands; signs that steer a terminal are left out."""
    if text == units.MISSING:
        return "--"
    found = _UNPRINTED.sub("", one_line(text)).translate(_SIGNS).replace("CO2", "CO$_2$")
    return re.sub(r"(?<![\w.)}-])-(?=\d)", "$-$", found)  # A minus, and no hyphen of a name.


def _size(num_columns: int) -> str:
    """Letters that many columns fit the width of a page in."""
    if num_columns > 5:
        return r"\footnotesize\setlength{\tabcolsep}{3pt}"
    return r"\small" if num_columns > 4 else ""


def latex_table(name: str, title: str, shown: Typeset, more: str) -> str:
    """A table with caption and label `tab:NAME`; its first line says which packages it needs."""
    is_long = len(shown.rows) > MAX_FLOAT_ROWS
    frame = pd.DataFrame(
        [[latex_text(text) for text in row] for row in shown.rows],
        columns=[latex_text(head) for head in shown.heads],
    )
    caption = " ".join(filter(None, (f"{title}.", shown.note, more)))
    body = frame.to_latex(
        index=False,
        escape=False,
        longtable=is_long,
        column_format=shown.align,
        caption=(latex_text(caption), latex_text(title)),
        label=f"tab:{re.sub(r'[^A-Za-z0-9]+', '-', name)}",
        position=None if is_long else "htbp",
    )
    if not is_long:
        body = body.replace("\\caption", f"\\centering{_size(len(shown.heads))}\n\\caption", 1)
        body = body.replace("\\begin{tabular}", "\\smallskip\n\\begin{tabular}", 1)
    packages = "booktabs,longtable" if is_long else "booktabs"
    foreign = "".join(dict.fromkeys(_FOREIGN.findall(body)))
    more = f" and, for {foreign}, LuaLaTeX with a font that has these" if foreign else ""
    return f"% Needs \\usepackage{{{packages}}}{more}.\n{body}"
