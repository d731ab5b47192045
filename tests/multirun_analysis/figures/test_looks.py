"""Settings of a sweep over any option are told apart: in legends, colours, files and the table."""

from __future__ import annotations

import json
import re
from itertools import pairwise, product

import pytest

from multirun_analysis.__main__ import main
from multirun_analysis.collect.collection import collect
from multirun_analysis.commands.report_command import table
from multirun_analysis.figures.accuracy_against_energy import quality_against_energy
from multirun_analysis.figures.break_even_curves import (
    break_even_over_students,
    break_even_over_tokens,
)
from multirun_analysis.figures.catalogue import curves_by_setting
from multirun_analysis.figures.curves import loss_curves, quality_against_joules
from multirun_analysis.figures.differences import differences
from multirun_analysis.figures.looks import SCALE, between, file_part, looks, shades
from multirun_analysis.figures.palette import paradigm_color
from multirun_analysis.figures.quality_kept import accuracy_kept, eff_overall
from multirun_analysis.report.page import report_html
from multirun_analysis.statistics.comparisons import against_baseline, comparisons_table
from multirun_analysis.values.rows import to_rows

RATES = ("0.001", "0.0003", "3e-05", "0.0001")


def add_losses(folder):
    lines = [
        {"schema": 1, "step": step, "tokens": 10 * step, "loss": 5.0 - step}
        for step in (1, 2)
    ] + [
        {"schema": 1, "step": 2, "tokens": 20, "loss": 4.5, "split": "heldout", "energy_j": 3.0,
         "bits_per_byte": 2.5}
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def sweep(make, root, *settings, **changes):
    """A run for each tuple of overrides, and a second seed of the first."""
    for i, (seed, overrides) in enumerate([*((0, s) for s in settings), (1, settings[0])]):
        folder = make.run(
            root / str(i), student_key=f"s{i}", overrides=overrides, seed=seed, **changes
        )
        add_losses(folder)
    return collect([root])


@pytest.fixture
def rates(make, tmp_path):
    return sweep(make, tmp_path, *[(f"training.learning_rate={rate}",) for rate in RATES])


def legend(fig):
    """Names in the legend to the colours of their lines, in order."""
    return {
        trace.name: trace.line.color or trace.marker.color
        for trace in fig.data
        if trace.showlegend is not False and not str(trace.name).startswith("Pareto")
    }


def test_a_sweep_over_the_learning_rate_has_a_name_and_a_colour_a_value_in_their_order(rates):
    names = [f"learning_rate={rate}" for rate in ("3e-05", "0.0001", "0.0003", "0.001")]
    for fig in (
        quality_against_joules(rates.train, rates.runs).figure,
        quality_against_energy(rates.runs).figure,
    ):
        assert list(legend(fig)) == names
        assert len(set(legend(fig).values())) == 4
    losses = loss_curves(rates.train, rates.runs).figure
    # What is dotted is held out: said once, not beside each value.
    assert list(legend(losses)) == [*names, "held out"]
    drawn = [trace for trace in losses.data if trace.name != "held out"]
    assert len({(trace.legendgroup, trace.line.color) for trace in drawn}) == 4
    own = looks(to_rows(rates.runs))
    assert {look.name for look in own.values()} == set(names)


IN_ORDER = [f"learning_rate={rate}" for rate in ("3e-05", "0.0001", "0.0003", "0.001")]


@pytest.fixture
def beside_sft(make, tmp_path):
    """The sweep over rates, a second seed included, and fine-tuning at each of them."""
    for i, rate in enumerate(RATES):
        for seed in (0, 1):
            for paradigm in ("sft", "response"):
                folder = make.run(
                    tmp_path / "beside" / f"{paradigm}-{i}-{seed}", paradigm=paradigm, seed=seed,
                    student_key=f"{paradigm}-{i}-{seed}", heldout_bits_per_byte=2.5,
                    overrides=(f"training.learning_rate={rate}",), own_energy_j=4e5 + i + seed,
                )  # fmt: skip
                add_losses(folder)
    return collect([tmp_path / "beside"])


def without_answer(name):
    return name.partition(":")[0]


def test_lines_of_break_even_have_the_colours_of_the_settings_in_the_order_of_values(
    rates, beside_sft
):
    fig = break_even_over_tokens(rates.runs).figure
    lines = {without_answer(t.name): t.line.color for t in fig.data if t.name}
    assert list(lines) == IN_ORDER
    own = {look.name: look.color for look in looks(to_rows(rates.runs)).values()}
    assert lines == own
    marks = [t.marker.color for t in fig.data if t.mode == "markers"]
    assert marks == [own[name] for name in IN_ORDER][: len(marks)]
    fig = break_even_over_students(beside_sft.runs, beside_sft.train).figure
    lines = {without_answer(t.name): t.line.color for t in fig.data if t.name}
    own = {look.name: look.color for look in looks(to_rows(beside_sft.runs)).values()}
    assert list(lines) == [f"response · {name}" for name in IN_ORDER]
    assert lines.items() < own.items()
    dashed = [t.line.color for t in fig.data if t.line.dash == "dash"]
    assert dashed == list(lines.values())


def test_tables_and_bars_of_settings_are_in_the_order_of_values(rates, beside_sft):
    labels = [f"response · {name}" for name in IN_ORDER]
    own = looks(to_rows(rates.runs))
    for bar in (accuracy_kept(rates.runs).figure.data[0], eff_overall(rates.runs).figure.data[0]):
        assert list(bar.y) == labels
        assert list(bar.marker.line.color) == [own[group].color for group in bar.customdata]
    compared = comparisons_table(against_baseline(beside_sft.runs))
    tables = [break_even_over_tokens(rates.runs).table, compared]
    tables += [break_even_over_students(beside_sft.runs, beside_sft.train).table]
    for table_ in tables:
        names = table_["setting" if "setting" in table_ else "label"]
        assert list(dict.fromkeys(names)) == labels
    rows = [trace.y[0] for trace in differences(beside_sft.runs).figure.data]
    assert list(dict.fromkeys(rows)) == labels


def heads_of_rows(html):
    """Colour and label of every row of a table, and of every GPU."""
    rows = re.findall(r'--hue:(#\w+)"></span>([^<]+)', html)
    gpus = r'class="highlight" style="--hue:(#\w+)">.*?class="student">([^<]+)'
    return rows, re.findall(gpus, html, re.DOTALL)


@pytest.mark.parametrize("profile", ["research", "provider", "esg"])
def test_every_table_and_box_of_the_page_has_the_colours_of_the_settings(beside_sft, profile):
    own = {look.name: look.color for look in looks(to_rows(beside_sft.runs)).values()}
    html = report_html(beside_sft, profile=profile, shown={})
    rows, gpus = heads_of_rows(html)
    assert len(gpus) >= 2 and len(rows) > 16
    for hue, label in [*rows, *gpus]:
        assert hue == own[label.partition(" · seed")[0]], label
    for title in ("When it pays", "Against plain fine-tuning"):
        part = html.partition(f"<h2>{title}")[2].partition("</section>")[0]
        names = [label for _, label in heads_of_rows(part)[0] if label.startswith("response")]
        assert list(dict.fromkeys(names)) == [f"response · {name}" for name in IN_ORDER]


def test_two_options_within_one_paradigm_are_both_in_the_legend(make, tmp_path):
    settings = [
        (f"training.learning_rate={rate}", f"training.lora.rank={rank}")
        for rate, rank in product(("0.001", "0.0001"), (64, 8))
    ]
    found = sweep(make, tmp_path, *settings)
    assert list(legend(quality_against_joules(found.train, found.runs).figure)) == [
        f"learning_rate={rate} · rank={rank}"
        for rate, rank in product(("0.0001", "0.001"), (8, 64))
    ]


def test_paradigms_keep_their_hues_and_names_where_they_alone_vary(sweep_dir):
    found = {look.name: look.color for look in looks(to_rows(collect([sweep_dir]).runs)).values()}
    assert found == {name: paradigm_color(name) for name in
                     ("sft", "response", "feature", "relational", "combined")}  # fmt: skip


def test_settings_of_one_paradigm_beside_another_are_shades_of_its_hue(make, tmp_path):
    make.run(tmp_path / "sft", paradigm="sft", student_key="x")
    found = sweep(make, tmp_path / "r", ("training.steps=9",), ("training.steps=10",))
    runs = collect([tmp_path]).runs
    own = {look.name: look.color for look in looks(to_rows(runs)).values()}
    assert list(own) == ["sft", "response · steps=9", "response · steps=10"]
    assert own["sft"] == paradigm_color("sft")
    dark, pale = own["response · steps=9"], own["response · steps=10"]
    assert luminance(dark) < luminance(paradigm_color("response")) < luminance(pale)
    assert found.runs["finished"].all()


def luminance(color):
    """Relative, of sRGB (WCAG 2.1)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_colours_of_values_grow_lighter_so_that_no_hue_needs_to_be_seen(count):
    for colors in (between(SCALE, count), shades("#0072b2", count)):
        steps = [luminance(b) - luminance(a) for a, b in pairwise(colors)]
        assert min(steps) > 0.02
    # Against white, on which they are drawn.
    assert 1.05 / (luminance(between(SCALE, count)[-1]) + 0.05) > 2


def test_the_terminals_table_has_a_column_for_each_option_that_varies(rates):
    head, *lines = table(rates.runs).splitlines()
    assert head.split()[:4] == ["run", "paradigm", "learning_rate", "seed"]
    assert [line.split()[2] for line in lines] == [*RATES, RATES[0]]


def test_files_of_curves_carry_the_value_in_a_name_that_is_safe(rates, tmp_path):
    every = curves_by_setting(rates.train, rates.runs)
    named = set(every)
    alone = every["quality_against_joules-response-learning_rate-0.0003"].figure
    among = legend(quality_against_joules(rates.train, rates.runs).figure)
    name = "learning_rate=0.0003"
    assert legend(alone) == {name: among[name]}
    assert "loss_curves-response-learning_rate-3e-05" in named
    assert len(named) == 8
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    tables = {path.name for path in (tmp_path / "out" / "tables").iterdir()}
    assert {f"{name}.{kind}" for name in named for kind in ("csv", "md", "tex")} < tables
    text = (tmp_path / "out/tables/loss_curves-response-learning_rate-0.001.csv").read_text()
    assert text.count("\n") == 1 + 2 * 3  # Two seeds of three rows each, and the heads.


def test_a_file_is_named_by_plain_signs_alone():
    assert file_part("response · corpus=../a b/ü:* · 700 W") == "response-corpus-..-a-b-700-W"
    assert file_part("../..") == ""


def test_where_paradigms_alone_vary_there_are_no_files_of_single_settings(sweep_dir):
    found = collect([sweep_dir])
    assert curves_by_setting(found.train, found.runs) == {}
