import json

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures import curves
from multirun_analysis.figures.curves import loss_curves, loss_terms


@pytest.fixture(scope="module")
def collected(sweep_dir):
    return collect([sweep_dir])


def test_losses_of_many_students_share_a_number_of_points(collected, monkeypatch):
    longest = max(
        len(trace.x) for trace in loss_curves(collected.train, collected.runs).figure.data
    )
    monkeypatch.setattr(curves, "MAX_POINTS", 100)
    fig = loss_curves(collected.train, collected.runs).figure
    assert longest == 80 and len(fig.data) == 10
    # 50 at least, so that a curve stays one.
    assert {len(trace.x) for trace in fig.data} == {50}


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
    assert (list(train.y), train.line.dash) == ([5.0, 4.0, 3.0], "longdash")
    assert (list(held_out.y), held_out.line.dash) == ([4.5, 4.25], "dot")
    assert held_out.name.endswith(", held out") and not train.name.endswith("held out")
    assert loss_terms(collected.train) == ["loss", "bits_per_byte"]
    (bits,) = loss_curves(collected.train, collected.runs, term="bits_per_byte").figure.data
    assert list(bits.y) == [2.5]
