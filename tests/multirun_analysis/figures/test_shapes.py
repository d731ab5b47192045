"""A grey print tells settings apart: by shapes and dashes, alike in all figures and tables."""

import json
import re

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.accuracy_against_energy import quality_against_energy
from multirun_analysis.figures.break_even_curves import break_even_over_tokens
from multirun_analysis.figures.carbon import co2e_by_site
from multirun_analysis.figures.curves import loss_curves, quality_against_joules
from multirun_analysis.figures.devices_over_time import devices_over_time
from multirun_analysis.figures.differences import differences
from multirun_analysis.figures.looks import looks
from multirun_analysis.figures.palette import OTHER_SHAPES, PARADIGM_DASHES, PARADIGM_SHAPES, SHAPES
from multirun_analysis.report.page import exhibits_of, report_html
from multirun_analysis.statistics.comparisons import against_baseline
from multirun_analysis.values.rows import to_rows


def shapes(fig):
    """Name in the legend to the shapes of its marks, filled or open."""
    drawn = [t for t in fig.data if t.marker.symbol and t.name and not t.name.endswith("held out")]
    return {t.name.partition(":")[0]: bare(t.marker.symbol) for t in drawn}


def bare(symbols):
    every = [symbols] if isinstance(symbols, str) else symbols
    return {re.sub("-(open|dot)", "", symbol) for symbol in every}


def test_each_paradigm_has_a_shape_and_a_dash_that_no_other_has():
    assert len(set(PARADIGM_SHAPES.values())) == len(PARADIGM_SHAPES)
    assert len(set(PARADIGM_DASHES.values())) == len(PARADIGM_DASHES)
    assert not set(SHAPES) & set(OTHER_SHAPES)
    # Dotted is not measured, and dashed is the baseline of a break-even.
    assert not {"dot", "dash"} & set(PARADIGM_DASHES.values())


def test_a_setting_has_one_shape_in_all_figures_and_in_the_tables_of_the_page(sweep):
    own = {look.name: {look.shape} for look in looks(to_rows(sweep.runs)).values()}
    assert own == {name: {PARADIGM_SHAPES[name]} for name in own} and len(own) == 5
    for fig in (
        quality_against_energy(sweep.runs).figure,
        loss_curves(sweep.train, sweep.runs).figure,
        break_even_over_tokens(sweep.runs).figure,
    ):
        found = shapes(fig)
        assert len(found) >= 4
        assert found.items() <= own.items()
    groups = {run["group"]: run["paradigm"] for run in to_rows(sweep.runs)}
    marks = differences(sweep.runs).figure.data
    assert len(marks) == len([c for c in against_baseline(sweep.runs) if c.column in JUDGED])
    for mark in marks:
        assert bare(mark.marker.symbol) == own[groups[mark.meta["group"]]]
    rows = re.findall(r'class="dot ([\w-]+)" style="--hue:#\w+"></span>(\w+)', report_html(sweep))
    assert len(rows) > 20
    for shape, name in rows:
        assert {shape} == own[name]


JUDGED = ("accuracy_kept", "student_bits_per_byte", "own_energy_j")


def test_measured_lines_have_the_dash_of_their_setting_and_estimated_ones_are_dotted(
    make, tmp_path
):
    line = {"schema": 1, "step": 1, "tokens": 9, "loss": 2.0, "split": "heldout", "energy_j": 3.0}
    for paradigm, quality in (
        ("sft", "measured"),
        ("response", "measured"),
        ("feature", "estimated"),
    ):
        folder = make.run(
            tmp_path / paradigm, paradigm=paradigm, student_key=paradigm, own_energy_quality=quality
        )
        (folder / "train.jsonl").write_text(json.dumps(line | {"bits_per_byte": 2.0}) + "\n")
    found = collect([tmp_path])
    fig = quality_against_joules(found.train, found.runs).figure
    assert {t.name: (t.line.dash, t.marker.symbol) for t in fig.data} == {
        "sft": ("solid", "circle"),
        "response": ("longdash", "square"),
        "feature": ("dot", "diamond-open"),
    }


def test_the_settings_of_a_single_paradigm_have_a_shape_each(make, tmp_path):
    for i, rate in enumerate(("0.1", "0.2", "0.3")):
        make.run(tmp_path / str(i), student_key=rate, overrides=(f"training.learning_rate={rate}",))
    found = [look.shape for look in looks(to_rows(collect([tmp_path]).runs)).values()]
    assert found == list(SHAPES[:3])


def test_each_site_has_a_shape_also_where_inherited_work_is_unknown(make, tmp_path):
    make.run(tmp_path / "0", student_key="a")
    unknown = {"inherited_energy_j": None, "inherited_energy_by_artifact_j": None}
    make.run(tmp_path / "1", paradigm="sft", student_key="b", **unknown)
    fig = co2e_by_site(collect([tmp_path]).runs).figure
    for row in ("response", "sft"):
        drawn = [t.marker.symbol[list(t.y).index(row)] for t in fig.data]
        assert len(set(drawn)) == len(drawn) == 6, drawn
        assert all(shape.startswith("triangle") == (row == "sft") for shape in drawn)


def untitled(fig):
    """Axes that show ticks and say not what they are."""
    layout = json.loads(fig.to_json())["layout"]
    return [
        name
        for name, axis in layout.items()
        if re.fullmatch(r"[xy]axis\d*", name)
        and axis.get("visible") is not False
        and axis.get("showticklabels") is not False
        and not axis["title"].get("text")
        # Rows that stand beside those of the first panel have no names of their own.
        and not axis.get("matches")
    ]


def test_every_axis_of_every_figure_has_a_title(sweep):
    figures = {name: exhibit.figure for name, exhibit in exhibits_of(sweep).items()}
    figures["comparisons"] = differences(sweep.runs).figure
    ticks = sweep.telemetry.of("0-sft-tiny")
    figures["devices"] = devices_over_time(ticks, sweep.stages, run="0-sft-tiny").figure
    assert len(figures) > 15
    assert {name: untitled(fig) for name, fig in figures.items() if untitled(fig)} == {}


@pytest.mark.parametrize("name", ['a "b"', "it's"])
def test_quotes_in_a_name_stay_quotes_in_legends(make, tmp_path, name):
    make.run(tmp_path / "0", paradigm=name, student_key="a")
    make.run(tmp_path / "1", paradigm="sft", student_key="b")
    legend = [trace.name for trace in break_even_over_tokens(collect([tmp_path]).runs).figure.data]
    assert any(str(entry).startswith(f"{name}:") for entry in legend)
