import json

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures import curves
from multirun_analysis.figures.accuracy_against_energy import BITS_PER_BYTE, quality_against_energy
from multirun_analysis.figures.by_stage import energy_by_stage
from multirun_analysis.figures.curves import loss_curves, loss_terms
from multirun_analysis.figures.devices import devices_over_time
from multirun_analysis.figures.energy_per_token import energy_per_token


@pytest.fixture(scope="module")
def collected(sweep_dir):
    return collect([sweep_dir])


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


def test_runs_stand_at_their_energy_and_accuracy(make, tmp_path):
    ends = {"accuracy_kept_low": 0.88, "accuracy_kept_high": 0.91}
    make.run(tmp_path / "0", own_energy_j=250e3, accuracy_kept=0.9, **ends)
    fig = quality_against_energy(collect([tmp_path]).runs).figure
    (points,) = [
        trace for trace in fig.data if trace.mode == "markers" and trace.name == "response"
    ]
    assert (list(points.x), list(points.y)) == ([250], [0.9])
    assert list(points.error_y.array) == [pytest.approx(0.01)]
    assert list(points.error_y.arrayminus) == [pytest.approx(0.02)]
    assert list(points.error_x.array) == [20]


def test_estimated_runs_are_open_circles_with_a_front_of_their_own(make, tmp_path):
    make.run(tmp_path / "0", student_key="a")
    make.run(tmp_path / "1", student_key="b", seed=1, own_energy_quality="estimated")
    fig = quality_against_energy(collect([tmp_path]).runs).figure
    names = [trace.name for trace in fig.data]
    assert {"Pareto front, measured", "Pareto front, estimated"} <= set(names)
    (points,) = [trace for trace in fig.data if trace.name == "response"]
    assert list(points.marker.symbol) == ["circle", "circle-open"]


def test_a_paradigm_has_one_colour_in_all_figures(collected):
    scatter = quality_against_energy(collected.runs).figure
    curves = loss_curves(collected.train, collected.runs).figure
    marker = next(trace for trace in scatter.data if trace.name == "response").marker.color
    line = next(trace for trace in curves.data if trace.name == "response").line.color
    red, green, blue = (int(marker[i : i + 2], 16) for i in (1, 3, 5))
    assert line.startswith(f"rgba({red},{green},{blue},")


def test_reused_stages_are_hatched_and_built_ones_are_not(collected):
    fig = energy_by_stage(collected.runs, collected.stages).figure
    shapes = {trace.name: trace.marker.pattern.shape for trace in fig.data}
    assert shapes["teacher, reused"] == "/"
    assert shapes["teacher"] == ""
    reused = next(trace for trace in fig.data if trace.name == "teacher, reused")
    assert set(reused.x) == {90}


def test_power_of_a_long_run_is_thinned_without_changing_its_energy(collected):
    ticks = collected.telemetry.of("2-response-tiny")
    fig = devices_over_time(ticks, collected.stages, run="2-response-tiny").figure
    curve = next(trace for trace in fig.data if trace.name == "gpu 0" and trace.yaxis == "y")
    assert len(curve.y) <= 1200
    assert sum(curve.y) / len(curve.y) == pytest.approx(ticks["power_w"].mean(), rel=0.02)


def test_losses_of_many_students_share_a_number_of_points(collected, monkeypatch):
    longest = max(
        len(trace.x) for trace in loss_curves(collected.train, collected.runs).figure.data
    )
    monkeypatch.setattr(curves, "MAX_POINTS", 100)
    fig = loss_curves(collected.train, collected.runs).figure
    assert longest == 80 and len(fig.data) == 10
    # 50 at least, so that a curve stays one.
    assert {len(trace.x) for trace in fig.data} == {50}


def test_attempts_follow_one_another_without_the_wait_between_them(make, tmp_path):
    folder = make.run(tmp_path / "0")
    make.append(
        folder / "stages.jsonl",
        [
            make.stage("distill", start_s=1000, duration_s=50, outcome="preempted"),
            make.stage("distill", start_s=90, duration_s=30, attempt=2),
        ],
    )
    collected = collect([tmp_path])
    fig = devices_over_time(collected.telemetry.of("0"), collected.stages, run="0").figure
    assert list(fig.data[0].base) == [0, 50]
    assert list(fig.data[0].x) == [50, 30]


def test_loss_terms_are_the_whole_then_its_parts_and_nothing_else(collected):
    train = collected.train.assign(grad_norm=1.0, attempt=1)
    assert loss_terms(train) == ["loss", "ce_nats", "feature", "response_nats"]


def test_steps_repeated_after_a_resume_are_drawn_once(make, tmp_path):
    folder = make.run(tmp_path / "0")
    steps = [(1, 5.0), (2, 4.0), (2, 3.9), (3, 3.0)]
    lines = [{"schema": 1, "step": s, "tokens": s * 10, "loss": loss} for s, loss in steps]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    collected = collect([tmp_path])
    assert list(loss_curves(collected.train, collected.runs).figure.data[0].y) == [5.0, 3.9, 3.0]


def test_readings_on_held_out_rows_are_a_line_of_their_own_and_old_rows_are_training(
    make, tmp_path
):
    lines = [
        {"step": 1, "tokens": 10, "loss": 5.0},  # As an older kdwatts wrote it.
        {"step": 2, "tokens": 20, "loss": 4.0, "split": "train"},
        {"step": 2, "tokens": 20, "loss": 4.5, "split": "heldout", "energy_j": 3.0},
        {"step": 3, "tokens": 30, "loss": 3.0, "split": "train"},
        {"step": 3, "tokens": 30, "loss": 4.25, "split": "heldout", "bits_per_byte": 2.5},
    ]
    folder = make.run(tmp_path / "0")
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"schema": 1, **line}) + "\n" for line in lines)
    )
    collected = collect([tmp_path])
    train, held_out = loss_curves(collected.train, collected.runs).figure.data
    assert (list(train.y), train.mode) == ([5.0, 4.0, 3.0], "lines")
    assert (list(held_out.y), held_out.line.dash) == ([4.5, 4.25], "dot")
    assert held_out.name.endswith(", held out") and not train.name.endswith("held out")
    assert loss_terms(collected.train) == ["loss", "bits_per_byte"]
    (bits,) = loss_curves(collected.train, collected.runs, term="bits_per_byte").figure.data
    assert list(bits.y) == [2.5]


def test_figures_of_nothing_are_empty_not_errors(make, tmp_path):
    make.run(tmp_path / "0", metrics=None)
    collected = collect([tmp_path])
    assert not quality_against_energy(collected.runs).figure.data
    assert not energy_by_stage(collected.runs, collected.stages).figure.data
    assert not energy_per_token(collected.runs, collected.inference).figure.data
    assert not devices_over_time(collected.telemetry.of("0"), collected.stages, run="0").figure.data


def test_names_from_run_folders_are_escaped_in_figures(make, tmp_path):
    make.run(tmp_path / "0", paradigm="<a href='//x'>y</a>")
    fig = quality_against_energy(collect([tmp_path]).runs).figure
    assert "<a href" not in fig.to_json().replace("\\u003c", "<")
