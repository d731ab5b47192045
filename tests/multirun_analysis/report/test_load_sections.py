"""Servers under load on the page: one engine a figure, both models by load, and the eager loop."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from kdwatts.records.serving_record import UNKNOWN, Figure
from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.figures.under_load import under_load
from multirun_analysis.narrative.caveats import caveats
from multirun_analysis.report.export import write_exhibit_tables
from multirun_analysis.report.page import exhibits_of, report_html
from tests.multirun_analysis.page_words import words_of
from tests.multirun_analysis.written_serving import (
    STUDENT,
    TRANSFORMERS,
    capacity,
    point,
    record,
    write_pair,
    write_under_load,
)


@pytest.fixture
def served(make, tmp_path):
    """One run, behind two engines; the open loop has an SLO and a capacity."""
    folder = make.run(tmp_path / "runs" / "0")
    make.serving(folder, student=[0.02], teacher=[0.1])
    write_pair(folder)
    rates = [point(rate, 1.0, load="poisson") for rate in (1, 2, 4)]
    asked = {"engine": TRANSFORMERS, "capacity": capacity(3.2)}
    write_under_load(folder, record("student", rates, **asked))
    return collect([tmp_path / "runs"])


def _drawn(exhibit: Exhibit) -> Any:
    """The figure, of whose parts plotly states no types."""
    return exhibit.figure


def _section(page: str, name: str) -> str:
    (found,) = re.findall(rf'<section id="{name}">.*?</section>', page, flags=re.S)
    return found


def test_each_figure_has_the_curves_of_one_engine_and_its_heading_names_it(served):
    shown = under_load(served.serving, served.runs)
    engines = [set(one.table["engine"]) for one in shown.values()]
    assert engines == [{"vllm"}, {"transformers"}]
    section = _section(report_html(served), "load")
    assert re.findall(r"<h3>(.*?)</h3>", section) == ["vllm 0.32.0", "transformers 5.23.0"]


def test_a_load_that_was_not_steady_has_an_open_mark(served):
    figure = _drawn(next(iter(under_load(served.serving, served.runs).values())))
    symbols = {trace.name: trace.marker.symbol for trace in figure.data if trace.yaxis == "y"}
    assert symbols == {
        "student": ("circle", "circle", "circle"),
        "teacher": ("square", "square", "square-open"),
    }


def test_a_bar_that_is_as_long_as_its_value_is_on_the_axis_to_its_end(make, tmp_path):
    wide = Figure(2.0, 0.0, 4.0, 1.0, 0.0, 19.0, "measured")
    write_under_load(make.run(tmp_path / "0"), record("student", [point(1, 2.0, j_per_token=wide)]))
    found = collect([tmp_path])
    (shown,) = under_load(found.serving, found.runs).values()
    assert _drawn(shown).layout.yaxis.range[1] > 4.0


def test_joules_and_their_bars_are_those_of_the_table(served):
    figure = _drawn(next(iter(under_load(served.serving, served.runs).values())))
    student = next(trace for trace in figure.data if trace.name == "student")
    # 0.4 of 2.0, 0.8 and 0.4 J a written token, each known to 2 %.
    assert student.y == pytest.approx((0.8, 0.32, 0.16))
    assert student.error_y.array == pytest.approx((0.016, 0.0064, 0.0032))
    assert student.error_y.arrayminus == pytest.approx((0.016, 0.0064, 0.0032))


def test_the_slo_is_a_line_in_its_panel_and_the_capacity_one_across_the_loads(served):
    closed, opened = map(_drawn, under_load(served.serving, served.runs).values())
    for figure in (closed, opened):
        limits = {shape.yref: shape.y0 for shape in figure.layout.shapes if shape.y0 == shape.y1}
        assert limits == {"y2": 0.5, "y3": 0.05}
    assert [shape.x0 for shape in closed.layout.shapes if shape.yref == "paper"] == []
    assert [shape.x0 for shape in opened.layout.shapes if shape.yref == "paper"] == [3.2]
    texts = [note.text for note in opened.layout.annotations]
    assert "student: capacity 3.2/s" in texts and "SLO 0.5 s" in texts


def test_the_note_states_capacity_and_parking_power_in_words(served):
    note = under_load(served.serving, served.runs)["serving_under_load-2"].note
    assert "Capacity of the student: 3.2 requests a second (poisson); 4 were too many." in note
    assert "Idle server, model loaded (parking power): student 80.0 ± 1.6 W." in note


def test_a_provider_sees_both_models_by_load_with_a_ratio_where_both_are_steady(served):
    words = words_of(_section(report_html(served, profile="provider"), "load_by_model"))
    assert "2.00 1.94 to 2.06" in words and "2.50 2.43 to 2.57" in words
    assert "- teacher saturated" in words
    assert "load_by_model" not in report_html(served)


def test_a_teacher_behind_another_engine_is_named_and_never_divided(make, tmp_path):
    folder = make.run(tmp_path / "0")
    write_under_load(folder, record("student", STUDENT))
    write_under_load(folder, record("teacher", STUDENT, engine=TRANSFORMERS))
    page = report_html(collect([tmp_path]), profile="provider")
    words = words_of(_section(page, "load_by_model"))
    assert "No ratio for the student behind vllm 0.32.0" in words
    assert "The teacher: Engine: transformers 5.23.0" in words and "<table" not in words


def test_methods_say_how_it_was_measured_and_of_what_the_joules_are(served):
    said = dict(caveats(served))["Serving under load"]
    assert "vllm 0.32.0 (flags --max-num-seqs=64) served bfloat16: closed loop" in said
    assert "over 30 s, after it was steady" in said
    assert "student 1 measurement, teacher 1 measurement" in said
    assert "The joules are measured, of: gpu. Idle power is in them." in said
    assert "The CPU time of server and client is told apart." in said


def test_an_estimate_is_said_to_be_without_idle_power(make, tmp_path):
    folder = make.run(tmp_path / "0")
    guessed = [point(1, 2.0, energy_quality="estimated")]
    write_under_load(folder, record("student", guessed, parking_power_w=UNKNOWN))
    found = collect([tmp_path])
    without = "An estimate follows CPU time, so idle power is not in it."
    assert without in dict(caveats(found))["Serving under load"]
    assert without in words_of(_section(report_html(found), "load"))


def test_joules_that_are_missing_are_not_said_to_hold_idle_power(make, tmp_path):
    folder = make.run(tmp_path / "0")
    elsewhere = point(1, 2.0, energy_quality="missing", scope="the server runs on another host")
    write_under_load(folder, record("student", [elsewhere]))
    said = dict(caveats(collect([tmp_path])))["Serving under load"]
    assert "There are no joules: the server runs on another host. The CPU" in said


def test_the_page_says_what_rests_on_the_eager_loop_and_what_on_servers(served):
    rests = (
        "Eff_overall, and break-even in tokens where no load is asked for, rest on our eager loop "
        "at batch 8. With --rate or --replay, choose and the provider's page rest on these servers."
    )
    for profile in ("research", "provider", "esg"):
        assert rests in words_of(_section(report_html(served, profile=profile), "load"))


def test_choose_by_tokens_a_day_says_that_it_rests_on_the_eager_loop(served, tmp_path, capsys):
    main(["choose", str(tmp_path / "runs"), "--tokens-per-day", "1e9"])
    assert "This answer rests on our eager loop at batch 8: no load" in capsys.readouterr().out


def test_joules_of_the_eager_loop_are_named_as_its_own_in_every_part_of_the_page(served):
    page = report_html(served, profile="provider")
    words = words_of(page)
    assert "Decode, J/token student, teacher; eager loop, batch 8" in words
    assert "Their energy is that of our eager loop at batch 8, not that of a server" in words
    assert "Tokens are served by our eager loop at batch 8." in words
    assert "Served by our eager loop at batch 8." in words
    assert "(measured, eager loop, batch 8)" in words
    for name, exhibit in exhibits_of(served).items():
        if name.startswith("energy_per_token"):
            assert "our eager loop" in exhibit.title


def test_a_folder_without_servers_has_no_section_about_them(make, tmp_path):
    make.serving(make.run(tmp_path / "0"), student=[0.02], teacher=[0.1])
    found = collect([tmp_path])
    assert 'id="load' not in report_html(found, profile="provider")
    assert "Serving under load" not in dict(caveats(found))


def test_the_table_of_a_figure_is_a_csv_and_a_latex_table_whose_caption_explains_load(
    served, tmp_path
):
    write_exhibit_tables(exhibits_of(served), tmp_path)
    table = pd.read_csv(tmp_path / "tables" / "serving_under_load.csv")
    assert list(table["j_per_output_token"]) == [2.0, 0.8, 0.4, 4.0, 2.0, 1.2]
    assert set(table["engine"]) == {"vllm"} and list(table["verdict"])[-1] == "saturated"
    text = (tmp_path / "tables" / "serving_under_load.tex").read_text()
    assert "Load: requests at once in a closed loop" in text and "0.800 (0.784 to 0.816)" in text
    assert "In all rows: engine vllm, version 0.32.0" in text


def test_a_load_that_failed_has_no_mark_and_its_remark_is_on_the_page(make, tmp_path):
    said = "The server ended before it was steady."
    failed = point(16, 1.0, verdict="failed", remarks=[said])
    failed = replace(failed, j_per_token=UNKNOWN, j_per_output_token=UNKNOWN)
    write_under_load(make.run(tmp_path / "0"), record("student", [*STUDENT[:2], failed]))
    found = collect([tmp_path])
    (shown,) = under_load(found.serving, found.runs).values()
    joules = next(trace for trace in _drawn(shown).data if trace.yaxis == "y")
    assert list(joules.x) == [1, 4]
    assert f"vllm 0.32.0, student, 16 at once: {said}" in words_of(report_html(found))


def test_a_folder_of_measurements_without_runs_has_a_page(tmp_path, capsys):
    write_under_load(tmp_path / "served", record("model", STUDENT, key=None))
    assert main([str(tmp_path / "served"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert not said.err
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert 'id="load"' in page and "No run has finished" not in page
    assert "Measured under load: served behind vllm 0.32.0. There is no run here." in page
    table = pd.read_csv(tmp_path / "out" / "serving.csv")
    assert list(table["j_per_output_token"]) == [2.0, 0.8, 0.4]
    # The second time nothing is read again, and the answer is the same.
    assert main([str(tmp_path / "served"), "--out", str(tmp_path / "out")]) == 0
