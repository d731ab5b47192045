"""What marks and short words of the page mean: each is explained once, where its links lead."""

from __future__ import annotations

from dataclasses import dataclass

from multirun_analysis.statistics.comparison_words import verdict_note
from multirun_analysis.values import units


@dataclass(frozen=True)
class Sign:
    """One mark, or words that are read together."""

    name: str
    """Part of the address of its explanation."""
    shown: str
    """As the page shows it; plain text."""
    meaning: str


SIGNS = (
    Sign("missing", units.MISSING, "The number was not measured or cannot be computed. It is "
         "never 0."),
    Sign("interval", "± and small numbers", "± is one standard deviation (sd) or one standard "
         "error (se), as the head of the column says. Two small numbers below a number are the "
         "ends of its 95 % interval."),
    Sign("obtained", "measured, estimated, mixed", "How the energy was obtained. measured: from "
         "the sensors of the devices. estimated: from the load and the rated power of a "
         "processor, because no sensor was readable. mixed: a sum of measured and estimated "
         "parts. reported: as other software states it, without a trace."),
    Sign("verdict", "better, worse, within noise", verdict_note()),
    Sign("unresolved", "unresolved", "The interval of the saving includes 0, or there is one "
         "measurement only. A small \"not before\" is the least number that it takes."),
    Sign("never", "never, not reached", "never: the student saves nothing for a token, so no "
         "number of tokens repays it. not reached: fine-tuning without a teacher never came to "
         "the same held-out quality."),
    Sign("chance", "at chance", "The score is less than two standard errors above the score of "
         "guessing."),
)  # fmt: skip

_FIGURE_SIGNS = (
    ("Small and large marks", "A small mark is one run. A large mark is the mean of several runs "
     "of one setting."),
    ("Open marks, dotted lines", "The energy is not measured. In \"Serving under load\" an open "
     "mark is a load that was not steady. In \"Training loss\" a dotted line is held-out text. A "
     "dotted line without marks joins the students that no other student "
     "beats on both axes."),
    ("Hatched bars", "In \"Energy by stage\" the work was reused from another run. In bars of "
     "accuracy the student is above its teacher."),
    ("Thin lines across marks", "95 % intervals. Of the energy of one run: one standard "
     "deviation."),
)  # fmt: skip
_IMPORTED = (("A dot in a mark", "The run is imported: other software recorded it."),)

_EVERYWHERE = ("missing", "interval", "obtained")
_NAMES = {
    word: sign.name
    for sign in SIGNS
    for word in sign.shown.replace(" and ", ", ").split(", ")
    if sign.name not in ("missing", "interval")
} | {"reported": "obtained"}


def sign_name(text: object) -> str:
    """The name of the sign that a text is, by which its meaning is linked to; empty for others."""
    return _NAMES.get(str(text), "")


def signs_of(sections: list[str]) -> list[Sign]:
    """The signs that the sections of a page show, and those that any table may have."""
    text = "".join(sections)
    return [sign for sign in SIGNS if sign.name in _EVERYWHERE or f"#sign-{sign.name}" in text]


def figure_signs(*, any_imported: bool) -> list[tuple[str, str]]:
    """Marks of figures and their meanings: those that all settings share."""
    return [*_FIGURE_SIGNS, *(_IMPORTED if any_imported else ())]
