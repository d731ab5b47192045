"""The page on paper: what the browser prints, and the PDF that the program writes."""

import re

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.report.export import why_not
from multirun_analysis.report.page_pdf import write_pdf

A4_PX, TURNED_PX, HEIGHT_PX = 680, 1009, 1001
"""Of A4 within its margins at 96 dpi, upright and turned, and how high a page is."""


def test_without_a_browser_the_page_is_written_and_one_sentence_says_what_is_missing(
    make, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("multirun_analysis.report.export.find_spec", lambda name: None)
    make.run(tmp_path / "0")
    pdf_path = tmp_path / "page.pdf"
    assert main([str(tmp_path), "--pdf", str(pdf_path)]) == 1
    assert capsys.readouterr().err == (
        f"multirun_analysis: --pdf {pdf_path}: kaleido draws the page as PDF, and it is not "
        "installed; pip install 'kdwatts[static]'\n"
    )
    assert (tmp_path / "analysis" / "report.html").is_file() and not pdf_path.exists()


def test_a_pdf_takes_the_place_of_nothing_else(make, tmp_path, capsys):
    make.run(tmp_path / "0")
    (tmp_path / "page.pdf").mkdir()
    for path, found in (
        (tmp_path / "page.pdf", "is a folder"),
        (tmp_path / "0" / "config.yaml", "does not end with .pdf"),
    ):
        assert main([str(tmp_path), "--pdf", str(path)]) == 2
        assert capsys.readouterr().err == (
            f"multirun_analysis: --pdf {path} {found}; name the file that is to be written, as "
            "page.pdf\n"
        )
    assert not (tmp_path / "analysis").exists()


def test_a_browser_that_ends_at_once_is_told_in_one_sentence_and_the_page_is_written(
    make, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("choreographer")
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    monkeypatch.setattr("multirun_analysis.commands.report_command.why_not", lambda what: None)
    make.run(tmp_path / "0")
    assert main([str(tmp_path), "--pdf", str(tmp_path / "page.pdf")]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"multirun_analysis: --pdf {tmp_path}/page.pdf: the browser ")
    assert said.err.count("\n") == 1
    assert f"{tmp_path}/analysis/report.html" in said.out


@pytest.mark.parametrize(("arguments", "paper"), [([], "A4"), (["--paper", "letter"], "Letter")])
def test_the_page_prints_on_the_paper_that_is_asked_for_and_on_a4_by_default(
    make, tmp_path, arguments, paper
):
    make.run(tmp_path / "0")
    assert main([str(tmp_path), *arguments]) == 0
    text = (tmp_path / "analysis" / "report.html").read_text()
    assert f"@page {{ size: {paper}; }}" in text and f"size: {paper} landscape" in text


@pytest.mark.slow
def test_a_pdf_of_letter_paper_has_numbered_pages_and_every_section(sweep_dir, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    if problem := why_not("the page as PDF"):
        pytest.skip(problem)
    out = tmp_path / "new" / "page.pdf"
    arguments = ["--out", str(tmp_path), "--pdf", str(out), "--paper", "letter"]
    assert main([str(sweep_dir), *arguments]) == 0
    pages = pypdf.PdfReader(out).pages
    assert len(pages) > 5
    for number, page in enumerate(pages, start=1):
        assert f"Page {number} of {len(pages)}" in page.extract_text()
        assert sorted(map(round, page.mediabox[2:])) == [612, 792]
    words = " ".join(" ".join(page.extract_text() for page in pages).split())
    titles = re.findall(r"<h2>([^<]+)", (tmp_path / "report.html").read_text())
    assert len(titles) > 12
    assert [title for title in titles if title not in words] == []


@pytest.mark.slow
def test_the_browsers_own_print_is_the_pdf_that_the_program_writes(visit, sweep_page, tmp_path):
    pypdf = pytest.importorskip("pypdf")
    if problem := why_not("the page as PDF"):
        pytest.skip(problem)
    page = visit(sweep_page)
    page.pdf(path=tmp_path / "own.pdf", prefer_css_page_size=True, print_background=True)
    ours = write_pdf(tmp_path / "report.html", tmp_path / "ours.pdf")
    texts = [
        [page.extract_text() for page in pypdf.PdfReader(path).pages]
        for path in (tmp_path / "own.pdf", ours)
    ]
    assert texts[0] == texts[1]
    assert page.said == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep_page", "imported_page"])
def test_no_table_and_no_figure_is_larger_than_the_paper(visit, request, name):
    page = visit(request.getfixturevalue(name))
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    for width, kind in ((A4_PX, ":not(:has(th:nth-child(9)))"), (TURNED_PX, "")):
        page.set_viewport_size({"width": width, "height": HEIGHT_PX})
        sizes = page.locator(f"section > .scroll > table{kind}").evaluate_all(
            "tables => tables.map(t => t.getBoundingClientRect().right)"
        )
        assert len(sizes) >= 3 and max(sizes) <= width, sizes
    page.set_viewport_size({"width": A4_PX, "height": HEIGHT_PX})
    boxes = page.locator("figure.panel .main-svg:first-child").evaluate_all(
        "drawn => drawn.map(d => d.getBoundingClientRect()).map(b => [b.right, b.height])"
    )
    assert len(boxes) >= 4
    assert max(right for right, _ in boxes) <= A4_PX
    assert max(height for _, height in boxes) < HEIGHT_PX


@pytest.mark.slow
def test_every_figure_of_the_page_has_its_axis_titles_inside(visit, sweep_page):
    page = visit(sweep_page)
    titles = page.locator(".plot").evaluate_all(
        """plots => plots.map(plot => ["x", "y"].map(axis =>
          [...plot.querySelectorAll(`[class^="${axis}"][class$="title"]`)]
            .map(title => title.textContent)))"""
    )
    assert len(titles) >= 10
    assert [found for found in titles if not all(map(any, found))] == []


@pytest.mark.slow
@pytest.mark.parametrize("media", ["screen", "print"])
def test_without_javascript_the_tables_of_figures_stand_in_their_places(visit, sweep_page, media):
    page = visit(sweep_page, java_script_enabled=False)
    page.emulate_media(media=media)
    assert page.locator("noscript .warn").inner_text().startswith("This page draws its figures")
    heights = page.locator("details:not(.said) table").evaluate_all(
        "tables => tables.map(t => t.getBoundingClientRect().height)"
    )
    assert len(heights) >= 10 and min(heights) > 30
    assert not page.locator(".controls").first.is_visible()
