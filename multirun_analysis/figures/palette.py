"""One look for all figures: ink, grid, colour, shape and dash per paradigm, quieter stages."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from kdwatts.records.quantized_model import without_bits
from multirun_analysis.values.order import PARADIGMS

INK, MUTED, GRID, ACCENT = "#1d2730", "#66717b", "#e6e8ea", "#0f6e6e"

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"

# Hues that stay apart under the common colour-vision deficiencies (after Okabe and Ito).
_COLORS = ("#7a828a", "#0072b2", "#d55e00", "#009e73", "#8a4f9e", "#b88a00", "#4ca9dd")
PARADIGM_COLORS: dict[str, str] = dict(zip(PARADIGMS, _COLORS, strict=True))
_OTHER_COLORS = ("#a3475c", "#5b6f1f", "#35507a", "#8c6239")

# Shapes and dashes tell apart what colours do, also in grey and by eyes that see few hues. A dotted
# line is not measured, and `dash` is the line of a baseline: no paradigm has these two.
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "x")
DASHES = ("solid", "longdash", "dashdot", "longdashdot", "16px,3px,3px,3px,3px,3px",
          "24px,4px", "10px,3px,10px,3px,3px,3px")  # fmt: skip
PARADIGM_SHAPES: dict[str, str] = dict(zip(PARADIGMS, SHAPES, strict=True))
PARADIGM_DASHES: dict[str, str] = dict(zip(PARADIGMS, DASHES, strict=True))
OTHER_SHAPES = ("star", "pentagon", "hourglass", "hexagram")

STAGE_COLORS = {
    "shards": "#c9c3b8",
    "generate": "#a99a80",
    "teacher": "#8d7f6c",
    "distill": "#0f6e6e",
    "quantize_student": "#c08457",
    "quantize_teacher": "#e2c3a6",
    "evaluate_student": "#7fb2ab",
    "evaluate_teacher": "#bcd8d3",
    "inference_student": "#5d6f94",
    "inference_teacher": "#b9c2d6",
    "serving_student": "#7d5a86",
    "serving_teacher": "#cdb9d3",
}
_OTHER_STAGE = "#dddddd"


def paradigm_color(paradigm: object) -> str:
    """The paradigm's colour, the same in every figure and on the page."""
    return PARADIGM_COLORS.get(str(paradigm)) or _of_name(paradigm, _OTHER_COLORS)


def paradigm_shape(paradigm: object) -> str:
    """The paradigm's mark, named as plotly names it; the same in every figure and on the page."""
    return PARADIGM_SHAPES.get(str(paradigm)) or _of_name(paradigm, OTHER_SHAPES)


def paradigm_dash(paradigm: object) -> str:
    """How the paradigm's lines are drawn where they are measured."""
    return PARADIGM_DASHES.get(str(paradigm)) or _of_name(paradigm, DASHES[1:])


def _of_name(name: object, choices: tuple[str, ...]) -> str:
    """One of them, the same for a name on every page."""
    return choices[sum(str(name).encode()) % len(choices)]


def stage_color(stage: object) -> str:
    """The stage's colour; that of a model in few bits is the model's."""
    return STAGE_COLORS.get(without_bits(str(stage)), _OTHER_STAGE)


def stage_words(stage: object) -> str:
    """The stage's name for readers, such as "evaluate student" for `evaluate_student`."""
    return str(stage).replace("_", " ")


def faded(color: str, alpha: float) -> str:
    """A hex colour with an opacity, as CSS."""
    red, green, blue = hex_to_rgb(color)
    return f"rgba({red},{green},{blue},{alpha})"


def styled(fig: go.Figure, *, height: int, x: str = "", y: str = "") -> go.Figure:
    """The figure with the common look. Axes get the given titles, and keep theirs otherwise."""
    axis = {
        "gridcolor": GRID,
        "linecolor": "#b9bfc5",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "#b9bfc5",
        "ticklen": 4,
        "title": {"standoff": 10, "font": {"size": 13, "color": MUTED}},
        "automargin": True,
    }
    fig.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="#fff",
        plot_bgcolor="#fff",
        margin={"l": 8, "r": 16, "t": 8, "b": 8},
        hoverlabel={"bgcolor": "white", "bordercolor": "#b9bfc5", "align": "left"},
        hoverlabel_font={"family": FONT, "size": 13, "color": INK},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        bargap=0.35,
    )
    fig.update_xaxes(**axis)
    fig.update_yaxes(**axis)
    if x:
        fig.update_xaxes(title_text=x)
    if y:
        fig.update_yaxes(title_text=y)
    return fig
