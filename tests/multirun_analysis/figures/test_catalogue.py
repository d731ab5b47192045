import json

import pandas as pd
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.collect.device_summaries import SUMMARIES
from multirun_analysis.figures.accuracy_against_energy import BITS_PER_BYTE, quality_against_energy
from multirun_analysis.figures.by_stage import energy_by_stage
from multirun_analysis.figures.catalogue import exhibits
from multirun_analysis.figures.curves import loss_curves
from multirun_analysis.figures.devices_over_time import devices_over_time
from multirun_analysis.figures.marks import MAX_LINES, MAX_ROWS
from multirun_analysis.figures.serving_by_architecture import energy_per_token


@pytest.fixture(scope="module")
def collected(sweep_dir):
    return collect([sweep_dir])


@pytest.fixture(scope="module")
def found(collected):
    none = pd.DataFrame(columns=["run"])
    return exhibits(collected.runs, collected.stages, collected.train, none, collected.summaries)


def test_every_exhibit_has_marks_numbers_a_title_and_a_note(found):
    assert {"accuracy_kept", "eff_overall", "co2e_by_site", "break_even_over_tokens"} <= set(found)
    for name, exhibit in found.items():
        assert exhibit.figure.data and len(exhibit.table), name
        assert exhibit.title and exhibit.note.endswith("."), name
    assert "energy_per_token_by_length" not in found


@pytest.mark.parametrize(
    "name", ["co2e_by_site", "energy_by_stage", "accuracy_kept_against_own_energy_j"]
)
def test_a_figure_draws_the_rows_of_its_table_and_no_other(found, name):
    exhibit = found[name]
    one = exhibit.draw(exhibit.table.head(1))
    drawn = [trace for trace in one.data if "front" not in (trace.meta or {})]
    assert sum(len(trace.x) for trace in drawn) == 1 < len(exhibit.table)


def test_every_mark_can_be_told_by_its_run_or_its_group(found, collected):
    known = set(collected.runs["run"]) | set(collected.runs["group"])
    for name, exhibit in found.items():
        for trace in exhibit.figure.data:
            meta = dict(trace.meta or {})
            if {"run", "group"} & set(meta):
                assert set(meta.values()) <= known, name
            elif trace.x is not None and list(trace.x) != [None]:
                assert len(trace.customdata) == len(trace.x), (name, trace.name)
                # A point over several settings names them all.
                told = {part for text in trace.customdata for part in text.split(", ")}
                assert told <= known, name


def test_a_run_of_a_thousand_names_stays_out_of_markup(make, tmp_path):
    """What a run folder calls itself is text everywhere."""
    evil = "<img src=x onerror=alert(1)>"
    folder = make.run(tmp_path / "0", paradigm=evil, model=evil, heldout_bits_per_byte=2.0)
    make.append(folder / "stages.jsonl", [make.stage("distill"), make.stage(f"{evil}")])
    row = {"schema": 1, "step": 1, "tokens": 9, "loss": 2.0, "split": "heldout"}
    line = json.dumps(row | {"energy_j": 3.0, "bits_per_byte": 2.0})
    (folder / "train.jsonl").write_text(line + "\n")
    c = collect([tmp_path])
    none = pd.DataFrame(columns=["run"])
    every = exhibits(c.runs, c.stages, c.train, none, SUMMARIES.empty_table().to_pandas())
    assert len(every) > 8
    for name, exhibit in every.items():
        figure = json.loads(exhibit.figure.to_json())
        shown = json.dumps([
            {k: v for k, v in t.items() if k not in ("customdata", "meta", "legendgroup", "y")}
            for t in figure["data"]
        ] + [figure["layout"].get("annotations"), *(
            axis.get("ticktext") for key, axis in figure["layout"].items() if "axis" in key
        )])  # fmt: skip
        assert "<img" not in shown, name


def many(runs, num_settings):
    """A table with so many settings of two seeds each."""
    base = runs[runs["finished"]].iloc[[0]]
    parts = [
        base.assign(
            run=f"{i}-{seed}", group=f"g{i}", group_label=f"response · alpha={i}",
            label=f"response · alpha={i} · seed {seed}", seed=seed, student_key=f"k{i}-{seed}",
        )
        for i in range(num_settings)
        for seed in (0, 1)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_figures_of_many_settings_stay_small_and_say_what_they_leave_out(collected):
    runs = many(collected.runs, 100)
    first = str(collected.runs["run"].iloc[0])
    train = collected.train[collected.train["run"] == first]
    train = pd.concat([train.assign(run=name) for name in runs["run"]], ignore_index=True)
    stages = collected.stages[collected.stages["run"] == first]
    stages = pd.concat([stages.assign(run=name) for name in runs["run"]], ignore_index=True)
    none = pd.DataFrame(columns=["run"])
    every = exhibits(runs, stages, train, none, SUMMARIES.empty_table().to_pandas())
    sizes = {name: len(exhibit.figure.to_json()) for name, exhibit in every.items()}
    assert max(sizes.values()) < 150_000, sizes
    losses = every["loss_curves"]
    assert len(losses.figure.data) == MAX_LINES
    assert len({trace.meta["run"].split("-")[0] for trace in losses.figure.data}) == MAX_LINES
    assert f"The figure leaves out {200 - MAX_LINES} more runs." in losses.note
    assert losses.table["run"].nunique() == 200
    assert f"The figure leaves out {100 - MAX_ROWS} more settings." in every["accuracy_kept"].note
    assert every["accuracy_kept"].table["group"].nunique() == 100


def test_the_devices_of_one_run_are_an_exhibit_too(collected):
    run = "0-sft-tiny"
    ticks = collected.telemetry.of(run)
    exhibit = devices_over_time(ticks, collected.stages, run=run)
    assert len(exhibit.table) == len(ticks)
    assert "estimated" not in exhibit.note
    modelled = devices_over_time(ticks.assign(method="tdp_model"), collected.stages, run=run)
    assert "Dotted curves are estimated" in modelled.note


def titles(fig):
    layout = json.loads(fig.to_json())["layout"]
    return [
        layout[key]["title"].get("text", "")
        for key in layout
        if key[1:5] == "axis" and "title" in layout[key]
    ]


def test_every_numeric_axis_names_its_unit(collected):
    figures = {
        "kJ": quality_against_energy(collected.runs).figure,
        "bits per byte": quality_against_energy(collected.runs, quality=BITS_PER_BYTE).figure,
        "Energy, kJ": energy_by_stage(collected.runs, collected.stages).figure,
        "Power, W": devices_over_time(
            collected.telemetry.of("0-sft-tiny"), collected.stages, run="0-sft-tiny"
        ).figure,
        "mJ/token": energy_per_token(collected.runs, collected.inference).figure,
        "nats per target token": loss_curves(
            collected.train, collected.runs, term="ce_nats"
        ).figure,
    }
    for unit, fig in figures.items():
        assert any(unit in title for title in titles(fig)), unit


def test_a_paradigm_has_one_colour_in_all_figures(collected):
    scatter = quality_against_energy(collected.runs).figure
    curves = loss_curves(collected.train, collected.runs).figure
    marker = next(trace for trace in scatter.data if trace.name == "response").marker.color
    line = next(trace for trace in curves.data if trace.name == "response").line.color
    red, green, blue = (int(marker[i : i + 2], 16) for i in (1, 3, 5))
    assert line.startswith(f"rgba({red},{green},{blue},")


def test_figures_of_nothing_are_empty_not_errors(make, tmp_path):
    make.run(tmp_path / "0", metrics=None)
    collected = collect([tmp_path])
    assert not quality_against_energy(collected.runs).figure.data
    assert not energy_by_stage(collected.runs, collected.stages).figure.data
    assert not energy_per_token(collected.runs, collected.inference).figure.data
    assert not devices_over_time(collected.telemetry.of("0"), collected.stages, run="0").figure.data
