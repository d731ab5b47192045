"""Pages that several tests read."""

import shutil

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.report.page import report_html
from tests.waits import wait_until


@pytest.fixture(scope="session")
def sweep_page(sweep):
    return report_html(sweep)


@pytest.fixture(scope="session")
def imported_page(imported_dir):
    return report_html(collect([imported_dir]))


UNDRAWN = "document.querySelectorAll('.plot:not(.js-plotly-plot)').length"


@pytest.fixture(scope="session")
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
    from playwright.sync_api import TimeoutError

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

        def scroll_through():
            for top in [*range(0, 2 * end, height), 0]:
                page.evaluate(f"window.scrollTo(0, {top})")
                page.wait_for_timeout(50)

        def is_drawn():
            # A busy browser may have slept while a figure was in sight: then it is shown once more.
            scroll_through()
            try:
                page.wait_for_function(f"{UNDRAWN} === 0", timeout=10_000)
            except TimeoutError:
                return False
            return True

        if options.get("java_script_enabled", True):
            wait_until(is_drawn)
        else:
            scroll_through()
        assert page.asked == [path.as_uri()]
        return page

    yield open_page
    for context in contexts:
        context.close()
