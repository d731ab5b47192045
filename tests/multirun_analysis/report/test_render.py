"""Templates: what they are not given is an error, and text of a run folder stays text."""

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from multirun_analysis.report.page import EXHIBITS, PROFILES, SECTIONS
from multirun_analysis.report.render import render_html, render_markdown
from multirun_analysis.report.typeset import Typeset
from multirun_analysis.values.notices import Notice

ANALYSIS = Path(__file__).parents[3] / "multirun_analysis"
PASSAGES = ["Plain & simple.", Notice("x <i>", ("a",)), Notice("y", ("<b>", "*c*"), "folders")]


def test_a_value_that_a_template_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="'caveats' is undefined"):
        render_html("caveats", {})


def test_the_page_unfolds_the_names_of_a_notice_and_escapes_each_text_once():
    html = render_html("caveats", {"caveats": [("<Title>", PASSAGES)]})
    unfolding = '<details class="said"><summary>y: 2 folders</summary>&lt;b&gt;, *c*</details>'
    assert f"<dd>Plain &amp; simple. x &lt;i&gt;: a. {unfolding}</dd>" in html
    assert "<dt>&lt;Title&gt;</dt>" in html


def test_a_table_in_markdown_keeps_the_signs_of_its_cells():
    shown = Typeset(["a|b", "c"], "lr", [["*x*\ny", "1"]], [None], "A note.")
    text = render_markdown("exhibit_table", {"title": "T", "shown": shown, "more": ""})
    assert text == "**T**\n\n| a\\|b | c |\n| --- | ---: |\n| \\*x\\* y | 1 |\n\nA note.\n"


def test_every_section_of_a_profile_has_what_makes_it():
    assert {name for names in PROFILES.values() for name in names} == {*SECTIONS, *EXHIBITS}
    assert not set(SECTIONS) & set(EXHIBITS)


def test_elements_of_html_are_in_templates_and_in_hovers_of_figures_alone():
    rooms = ("values", "statistics", "collect", "narrative", "report")
    files = [path for room in rooms for path in (ANALYSIS / room).rglob("*.py")]
    assert len(files) > 40
    assert [path.name for path in files if re.search(r"</\w", path.read_text("utf-8"))] == []
