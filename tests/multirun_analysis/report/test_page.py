"""The page in a real browser: Debian's chromium, driven without a display or a network."""

import re
import shutil

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.report.page import report_html
from multirun_analysis.statistics.site import site_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a page, scrolls it to its end, and gives what the console said and what was asked for.

    A context in a test that fails is closed all the same.
    """
    contexts = []

    def open_page(html, *, width=1280, height=900, **options):
        path = tmp_path / "report.html"
        path.write_text(html)
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.said, page.asked = [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(path.as_uri())
        end = page.evaluate("document.body.scrollHeight")
        for top in [*range(0, 2 * end, height), 0]:
            page.evaluate(f"window.scrollTo(0, {top})")
            page.wait_for_timeout(50)
        page.wait_for_function(f"{UNDRAWN} === 0")
        assert page.asked == [path.as_uri()]
        return page

    yield open_page
    for context in contexts:
        context.close()


UNDRAWN = "document.querySelectorAll('.plot:not(.js-plotly-plot)').length"


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
    page.wait_for_timeout(300)
    # The device picker has its own choice and keeps it.
    assert paradigms() - {"sft"} == {"feature"}
    names = rows.evaluate_all("rows => rows.map((row) => row.dataset.facet)")
    assert {facets[name]["paradigm"] for name in names} == {"feature"}
    page.locator("select.filter[data-key=paradigm]").select_option("")
    page.wait_for_timeout(300)
    assert rows.count() == num_rows
    assert {"feature", "sft", "combined"} <= paradigms()
    assert page.said == []


def test_the_summary_of_the_esg_page_prints_on_one_page(visit, sweep, tmp_path):
    html = report_html(sweep, profile="esg", site=site_of("france"))
    page = visit(html)
    page.pdf(path=tmp_path / "first.pdf", format="A4", page_ranges="1")
    whole = page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", whole)) > 2
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 within its margins at 96 dpi.
    height_px = page.evaluate(
        "document.getElementById('summary').getBoundingClientRect().bottom + window.scrollY"
    )
    assert height_px <= 1046
    assert page.said == []
