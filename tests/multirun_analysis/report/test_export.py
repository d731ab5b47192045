import csv
import io

import pandas as pd
import plotly.graph_objects as go
import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.figures.exhibit import Exhibit
from multirun_analysis.report.export import (
    MAX_TYPESET,
    why_not,
    write_exhibit_tables,
    write_figures,
)
from multirun_analysis.values.atomic import write_files


def exhibit(**columns):
    figure = go.Figure(go.Bar(x=[1, 2])).update_layout(height=300)
    return Exhibit("Energy by stage", "A note.", pd.DataFrame(columns), lambda _: figure)


def texts_of(found, tmp_path):
    return {path.suffix: path.read_text() for path in write_exhibit_tables(found, tmp_path)}


def test_a_missing_number_is_empty_in_csv_and_a_dash_to_be_read(tmp_path):
    columns = {"run": ["0", "1"], "energy_j": [None, 2.0], "co2e_g": [float("nan"), 3.0]}
    texts = texts_of({"a": exhibit(**columns)}, tmp_path)
    assert texts[".csv"] == "run,energy_j,co2e_g\n0,,\n1,2.0,3.0\n"
    assert "| 0 | - | - |" in texts[".md"]
    assert "0 & -- & -- \\\\" in texts[".tex"]


def test_csv_keeps_all_digits_and_what_is_read_has_four(tmp_path):
    texts = texts_of({"a": exhibit(energy_j=[1234.56789])}, tmp_path)
    assert "1234.56789" in texts[".csv"]
    assert "| 1,235 |" in texts[".md"] and "1,235 \\\\" in texts[".tex"]


def test_text_of_a_run_cannot_leave_its_cell(tmp_path):
    texts = texts_of({"a": exhibit(label=["50 % | <b>a_b</b>\n& \\x"])}, tmp_path)
    assert r"| 50 % \| \<b\>a\_b\</b\> & \\x |" in texts[".md"]
    assert r"50 \% $|$ $<$b$>$a\_b$<$/b$>$ \& \textbackslash{}x \\" in texts[".tex"]
    assert r"\usepackage{booktabs}" in texts[".tex"]


def test_keys_of_groups_are_for_programs_alone(tmp_path):
    texts = texts_of({"a": exhibit(group=["k"], setting=["sft"])}, tmp_path)
    assert texts[".csv"] == "group,setting\nk,sft\n"
    assert "group" not in texts[".md"] + texts[".tex"]


def test_a_long_table_is_cut_where_it_is_read_and_says_so(tmp_path):
    texts = texts_of({"a": exhibit(step=range(MAX_TYPESET + 3))}, tmp_path)
    assert texts[".csv"].count("\n") == MAX_TYPESET + 4
    assert f"| {MAX_TYPESET} |" not in texts[".md"] and f"| {MAX_TYPESET - 1} |" in texts[".md"]
    assert "3 more rows are in the CSV file." in texts[".md"] and "3 more" in texts[".tex"]


def test_tables_of_figures_that_are_gone_go_too(tmp_path):
    write_exhibit_tables({"a": exhibit(x=[1]), "b": exhibit(x=[1])}, tmp_path)
    write_exhibit_tables({"b": exhibit(x=[1])}, tmp_path)
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {"b"}


def test_without_a_browser_figures_are_skipped_in_one_sentence_and_the_page_is_written(
    make, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("multirun_analysis.report.export.find_spec", lambda name: None)
    make.run(tmp_path / "0")
    assert main([str(tmp_path), "--static", "png"]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "multirun_analysis: --static png: kaleido draws png figures, and it is not installed; "
        "pip install 'kdwatts[static]'\n"
    )
    assert (tmp_path / "analysis" / "report.html").is_file()
    assert not (tmp_path / "analysis" / "figures").exists()


@pytest.mark.slow
def test_equal_figures_are_equal_svg_files_as_wide_as_asked(tmp_path):
    if problem := why_not("svg figures"):
        pytest.skip(problem)
    hatched = go.Bar(x=[1, 2], marker_pattern_shape="/", showlegend=True)
    found = Exhibit("a", "b", pd.DataFrame({"x": [1]}), lambda _: go.Figure([hatched]))
    drawn = [
        write_figures({"a": found}, tmp_path / str(i), "svg", width_px=500)[0].read_bytes()
        for i in range(2)
    ]
    assert drawn[0] == drawn[1]
    assert b'width="500"' in drawn[0] and b"url(" in drawn[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF")]
)
def test_figures_are_drawn_as_files(tmp_path, kind, start):
    if problem := why_not(f"{kind} figures"):
        pytest.skip(problem)
    (path,) = write_figures({"a": exhibit(x=[1])}, tmp_path, kind)
    assert path == tmp_path / "figures" / f"a.{kind}"
    assert path.read_bytes().startswith(start)


def test_names_that_hold_the_signs_of_a_format_stay_in_their_cell(tmp_path):
    name = 'a|b,c_d & "e"\nf\rg'
    table = pd.DataFrame({"run": [name, "plain"], "energy_j": [1.0, 2.0]})
    write_files({"runs": table}, tmp_path)
    texts = texts_of({"a": exhibit(run=[name, "plain"], energy_j=[1.0, 2.0])}, tmp_path)
    for text in (texts[".csv"], (tmp_path / "runs.csv").read_text()):
        rows = list(csv.reader(io.StringIO(text, newline="")))
        assert rows == [["run", "energy_j"], ['a|b,c_d & "e"\nf g', "1.0"], ["plain", "2.0"]]
    assert '| a\\|b,c\\_d & "e" f g | 1.000 |' in texts[".md"]
    assert "a$|$b,c\\_d \\& ''e'' f g & 1.000 \\\\" in texts[".tex"]
