import json

import numpy as np
import pandas as pd
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.break_even_curves import (
    break_even_over_students,
    break_even_over_tokens,
)


@pytest.fixture
def write(make, tmp_path):
    """Writes a run of exact energies, 100 J to build and 2 J of 3 J saved a token, three times
    measured."""

    def one(name, *, student=(1.0, 1.0, 1.0), teacher=(3.0, 3.0, 3.0), **changes):
        exact = {
            "own_energy_j": 60.0, "own_energy_uncertainty_j": 0.0, "inherited_energy_j": 40.0,
            "inherited_energy_by_artifact_j": {"teacher-1": 40.0},
            "student_total_j_per_token": 1.0, "teacher_total_j_per_token": 3.0,
        }  # fmt: skip
        folder = make.run(tmp_path / name, **({"student_key": name} | exact | changes))
        if student:
            make.serving(folder, student=student, teacher=teacher)
        return folder

    def collected():
        return collect([tmp_path])

    return one, collected


def test_the_line_crosses_1_where_the_joules_are_repaid_and_the_mark_is_there(write):
    one, collected = write
    one("0")
    runs = collected().runs
    fig = break_even_over_tokens(runs).figure
    line = next(t for t in fig.data if t.mode == "lines+markers" and t.name)
    (mark,) = [t for t in fig.data if t.mode == "markers"]
    # 100 J over 2 J a token.
    assert (list(mark.x), list(mark.y)) == ([50], [1])
    crossing = np.interp(1.0, line.y, line.x)
    assert crossing == pytest.approx(50, rel=0.02)
    assert line.name == "response: 50 tokens"
    assert line.meta["group"] == mark.customdata[0] == runs["group"].iloc[0]


def test_joules_saved_and_lifetime_efficiency_are_in_the_table(write):
    one, collected = write
    one("0", om_perf=0.5)
    table = break_even_over_tokens(collected().runs).table.set_index("tokens_served")
    at_1000 = table.loc[1000.0]
    assert at_1000["joules_saved"] == 2 * 1000 - 100
    assert at_1000["joules_ratio"] == pytest.approx(3000 / 1100)
    assert at_1000["lifetime_efficiency"] == pytest.approx(0.5 * 3000 / 1100)
    assert set(table["break_even_tokens"]) == {50}


def test_the_line_begins_and_ends_at_the_numbers_of_the_table(write):
    one, collected = write
    one("0")
    exhibit = break_even_over_tokens(collected().runs)
    line = next(t for t in exhibit.figure.data if t.mode == "lines+markers" and t.name)
    ends = exhibit.table.iloc[[0, -1]]
    assert line.x[[0, -1]] == pytest.approx(ends["tokens_served"])
    assert line.y[[0, -1]] == pytest.approx(ends["joules_ratio"])


def test_a_student_that_saves_nothing_says_never_and_has_no_mark(write):
    one, collected = write
    one("0", student=[4.0, 4.0, 4.0])
    fig = break_even_over_tokens(collected().runs).figure
    assert [t.name for t in fig.data if t.name] == ["response: never"]
    assert not [t for t in fig.data if t.mode == "markers"]


def test_the_band_is_fiellers_of_the_ratio(write):
    """3 J within t[2] 4.3027 * 0.3 / sqrt(3) = 0.745 J, over 1 J and 100 J within 1.96 J."""
    one, collected = write
    one("0", teacher=[2.7, 3.0, 3.3])
    row = break_even_over_tokens(collected().runs).table.set_index("tokens_served").loc[100.0]
    a, b, half_a, half_b = 300.0, 200.0, 100 * 4.302653 * 0.3 / 3**0.5, 1.959964
    for end in ("low", "high"):
        assert (a - row[end] * b) ** 2 == pytest.approx(half_a**2 + (row[end] * half_b) ** 2)
    assert row["joules_ratio"] == pytest.approx(1.5)
    assert row["low"] < 1.5 < row["high"]


def test_one_measurement_alone_is_unresolved_with_neither_band_nor_mark(write):
    one, collected = write
    one("0", student=[1.0], teacher=[3.0])
    fig = break_even_over_tokens(collected().runs).figure
    assert [t.name for t in fig.data if t.name] == ["response: unresolved"]
    assert not [t for t in fig.data if t.mode == "markers" or t.fill == "toself"]


def test_a_gain_within_its_error_says_how_many_it_takes_at_least(write):
    """2 J a token within t[2] * 1 / sqrt(3) = 2.48 J: not before 100 J / 4.48 J, about 22."""
    one, collected = write
    one("0", teacher=[2.0, 3.0, 4.0])
    table = break_even_over_tokens(collected().runs).table
    assert set(table["verdict"]) == {"unresolved"}
    assert table["break_even_tokens"].isna().all()
    assert table["break_even_tokens_high"].isna().all()
    # 1 % of the 100 J stays: (100 - 2 T)^2 = 1.96^2 + (2.484 T)^2.
    least = table["break_even_tokens_low"].iloc[0]
    half = 4.302653 / 3**0.5
    assert (100 - 2 * least) ** 2 == pytest.approx(1.959964**2 + (half * least) ** 2)
    names = [t.name for t in break_even_over_tokens(collected().runs).figure.data if t.name]
    assert names == ["response: unresolved, not before 22.3"]


def test_what_is_not_measured_is_dotted(write):
    one, collected = write
    one("0", own_energy_quality="estimated", inherited_energy_quality="estimated")
    line = next(t for t in break_even_over_tokens(collected().runs).figure.data if t.name)
    assert line.line.dash == "dot" and line.name.endswith("(estimated)")


def sharing(write, *, baseline_bits):
    """A response run of 2.0 bits, and a fine-tuned one that drew 50 and 150 J for those bits."""
    one, collected = write
    one("0", heldout_bits_per_byte=2.0)
    folder = one("1", paradigm="sft", own_energy_j=150.0)
    lines = [
        {"schema": 1, "step": i, "tokens": i, "split": "heldout", "energy_j": joules,
         "bits_per_byte": bits}
        for i, (joules, bits) in enumerate(zip((50.0, 150.0), baseline_bits, strict=True))
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = collected()
    return found.runs, found.train


def test_students_share_until_one_costs_less_than_fine_tuning_to_the_same_quality(write):
    # Fine-tuning is at 2.0 bits half way from 50 to 150 J: 100 J. 40 J / (100 - 60) J = 1 student.
    runs, train = sharing(write, baseline_bits=(2.5, 1.5))
    table = break_even_over_students(runs, train).table.set_index("num_students")
    assert table.loc[1, "baseline_j"] == table.loc[1, "j_per_student"] == 100
    assert table.loc[2, "j_per_student"] == 80
    assert set(table["break_even_students"]) == {1}
    fig = break_even_over_students(runs, train).figure
    (mark,) = [t for t in fig.data if t.mode == "markers"]
    assert (list(mark.x), list(mark.y)) == ([1], [100])
    dashed = next(t for t in fig.data if t.line.dash == "dash")
    assert list(dashed.y) == [100, 100]
    assert "response: from the first student" in [t.name for t in fig.data]


def test_without_a_fine_tuned_student_as_good_the_answer_is_not_reached(write):
    runs, train = sharing(write, baseline_bits=(2.5, 2.4))
    fig = break_even_over_students(runs, train).figure
    assert [t.name for t in fig.data if t.name] == ["response: not reached"]
    assert not [t for t in fig.data if t.mode == "markers" or t.line.dash == "dash"]


def test_names_from_run_folders_are_escaped_and_hold_no_template(write):
    one, collected = write
    one("0", paradigm="<b>{x}</b>")
    fig = break_even_over_tokens(collected().runs).figure
    line = next(t for t in fig.data if t.name)
    assert "<b>{" not in line.name and "{x}" not in line.hovertemplate


def test_runs_that_cannot_tell_make_empty_figures(write):
    one, collected = write
    one("0", student=(), student_total_j_per_token=None)
    runs = collected().runs
    assert not break_even_over_tokens(runs).figure.data
    assert not break_even_over_students(runs, pd.DataFrame(columns=["run"])).figure.data
