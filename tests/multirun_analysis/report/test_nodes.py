"""The page about runs on several nodes, and how a browser draws it."""

import pytest

from multirun_analysis.report.page import exhibits_of, report_html
from multirun_analysis.report.readme_page import readme_text
from multirun_analysis.report.table_layouts import layout_of
from multirun_analysis.report.typeset import typeset


def test_the_page_says_how_much_of_a_run_was_waiting_and_in_which_stage(nodes_sweep):
    page = report_html(nodes_sweep)
    assert "It ran on 2 nodes. Nodes that waited for a stage that one rank builds alone" in page
    assert "2.3 % in evaluate student and 1.5 % in shards." in page
    assert "2 nodes (n1, n2), 4 x NVIDIA H100" in page
    assert page.count("It ran on ") == 1


def test_a_page_without_a_run_on_several_nodes_says_nothing_of_them(sweep_page):
    assert "Nodes that waited" not in sweep_page


def test_the_table_that_is_read_has_joules_and_shares_with_their_intervals(nodes_sweep):
    table = exhibits_of(nodes_sweep)["waiting_nodes"].table
    shown = typeset(table, layout_of("waiting_nodes"))
    assert shown.heads == ["Run", "Stage", "Waiting (kJ)", "Of the run's joules (%)"]
    assert [row[1:] for row in shown.rows] == [
        ["all stages", "8.0 ± 0.8", "3.8 (3.4 to 4.3)"],
        ["shards", "3.2 ± 0.3", "1.54 (1.36 to 1.73)"],
        ["evaluate student", "4.8 ± 0.5", "2.31 (2.04 to 2.60)"],
    ]
    assert "nodes 2" in shown.note


def test_a_page_for_a_repository_counts_nodes_and_names_none(nodes_sweep):
    text = readme_text(nodes_sweep, {}, arguments="runs")
    assert "2 nodes, 4 x NVIDIA H100 80GB HBM3, driver 575.57" in text
    assert "256 threads" in text and "n1" not in text


@pytest.mark.slow
def test_a_browser_draws_the_bar_of_waiting_and_the_devices_of_both_nodes(nodes_sweep, visit):
    page = visit(report_html(nodes_sweep))
    assert page.said == []
    page.locator("#devices select").select_option(label="response · nodes=2 · seed 0")
    page.wait_for_function("document.querySelector('#devices').textContent.includes('gpu 0 · n2')")
    names = page.eval_on_selector_all("#devices .legendtext", "all => all.map(e => e.textContent)")
    assert {"gpu 0 · n1", "gpu 0 · n2", "host · n2"} <= set(names)
    assert page.locator("#why .plot .errorbar").count() > 0
