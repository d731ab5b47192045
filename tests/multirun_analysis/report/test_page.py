"""The page in a real browser: Debian's chromium, driven without a display or a network."""

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.report.page import report_html
from multirun_analysis.statistics.site import site_of
from tests.waits import wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("profile", ["research", "provider", "esg"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_figure_is_drawn_in_silence_and_nothing_is_wider_than_the_screen(
    visit, sweep, tmp_path, profile, width
):
    html = report_html(sweep, profile=profile, site=site_of("france"))
    page = visit(html, width=width, is_mobile=width < 640, has_touch=width < 640)
    assert page.said == []
    slots = html.count('class="panel slot"')
    assert slots >= 10
    # Plotly draws three layers of svg in each figure.
    drawn = page.locator(".plot").evaluate_all(
        "plots => plots.map(p => p.querySelectorAll('.main-svg').length)"
    )
    assert drawn == [3] * slots
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_imported_runs_are_drawn_beside_ours(visit, imported_dir, sweep_dir):
    html = report_html(collect([imported_dir, sweep_dir]))
    page = visit(html)
    assert page.said == []
    assert page.locator(".main-svg").count() == 3 * html.count('class="panel slot"')


def test_another_run_is_drawn_when_it_is_chosen(visit, sweep_page):
    page = visit(sweep_page)
    section = page.locator("section", has=page.locator("h2", has_text="Devices over time"))

    def names():
        return section.locator(".plot").evaluate("plot => plot.data.map(trace => trace.name)")

    assert "teacher" not in names()
    section.locator("select").select_option(index=2)
    assert "teacher" in names()
    assert page.said == []


def test_a_filter_leaves_the_points_and_rows_of_its_runs_alone(visit, sweep_page):
    page = visit(sweep_page)
    groups = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => plot.data)
      .flatMap((t) => t.meta?.run ?? t.meta?.group ?? t.customdata ?? []).map(String)"""
    facets = page.evaluate("JSON.parse(document.getElementById('facets').textContent)")

    def paradigms():
        return {facets[name]["paradigm"] for name in page.evaluate(groups) if name in facets}

    rows = page.locator("tr[data-facet]:not([hidden])")
    num_rows = rows.count()
    assert {"feature", "sft", "combined"} <= paradigms()
    page.locator("select.filter[data-key=paradigm]").select_option("feature")
    # Figures are drawn again one after the other. The device picker has its own choice, and keeps
    # it.
    wait_until(lambda: paradigms() - {"sft"} == {"feature"})
    names = rows.evaluate_all("rows => rows.map((row) => row.dataset.facet)")
    assert {facets[name]["paradigm"] for name in names} == {"feature"}
    page.locator("select.filter[data-key=paradigm]").select_option("")
    wait_until(lambda: rows.count() == num_rows)
    wait_until(lambda: {"feature", "sft", "combined"} <= paradigms())
    assert page.said == []


def test_the_summary_of_the_esg_page_prints_on_one_page(visit, sweep):
    page = visit(report_html(sweep, profile="esg", site=site_of("france")))
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 within its margins at 96 dpi.
    height_px = page.evaluate(
        "document.getElementById('summary').getBoundingClientRect().bottom + window.scrollY"
    )
    assert 300 < height_px <= 1001
    assert page.said == []
