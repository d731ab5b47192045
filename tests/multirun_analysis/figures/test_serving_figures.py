import pandas as pd
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.serving_by_architecture import energy_per_token
from multirun_analysis.figures.serving_by_length import energy_per_token_by_length
from multirun_analysis.narrative.caveats import caveats


def cost(run, subject="student", *, batch=8, prompt=64, new=32, j=1e-3, quality="measured"):
    """One point of a run's inference.json."""
    phase = {"j_per_token": j, "interval_95_j": j / 10, "quality": quality, "duration_s": 6.0}
    return {
        "run": run, "subject": subject, "batch_size": batch, "prompt_tokens": prompt,
        "new_tokens": new, "prefill": phase, "decode": phase | {"j_per_token": 10 * j},
    }  # fmt: skip


@pytest.fixture
def runs(make, tmp_path):
    """Two seeds of one setting and one of another, of one pair."""
    for i, paradigm in enumerate(("response", "response", "sft")):
        make.run(tmp_path / str(i), paradigm=paradigm, seed=i, student_key=f"s{i}")
    return collect([tmp_path]).runs


def test_a_line_goes_over_the_prompts_of_one_subject_batch_and_phase(runs):
    costs = [cost("0", prompt=64), cost("0", prompt=256, j=2e-3), cost("0", batch=1, j=9e-3)]
    fig = energy_per_token_by_length(
        pd.DataFrame([*costs, cost("0", "teacher", j=4e-3)]), runs
    ).figure
    prefill = {t.name: (list(t.x), list(t.y)) for t in fig.data if t.yaxis == "y"}
    assert prefill["student, batch 8"] == ([64, 256], [1, 2])
    assert prefill["student, batch 1"] == ([64], [9])
    assert prefill["teacher, batch 8"] == ([64], [4])
    assert fig.layout.yaxis.title.text == "Prefill, mJ/token"
    assert fig.layout.yaxis2.title.text == "Decode, mJ/token"


def test_students_of_one_pair_are_averaged_with_an_interval_over_measurements(runs):
    points = energy_per_token_by_length(
        pd.DataFrame([cost("0", j=1e-3), cost("2", j=3e-3)]), runs
    ).table
    prefill = points[points["phase"] == "prefill"].iloc[0]
    # s = sqrt(2) mJ over 2 values: 12.706 / sqrt(2) of it.
    assert prefill["j_per_token"] == pytest.approx(2e-3)
    assert prefill["half_width_j_per_token"] == pytest.approx(12.706e-3, rel=1e-4)
    assert prefill["num_measurements"] == 2


def test_a_teacher_that_runs_share_counts_once_and_its_repeats_are_no_interval(runs):
    costs = [cost(run, "teacher", j=5e-3) for run in "012"]
    points = energy_per_token_by_length(pd.DataFrame(costs), runs).table
    assert list(points["num_measurements"]) == [1, 1]
    assert points["half_width_j_per_token"].isna().all()


def test_a_teacher_measured_once_borrows_the_spread_of_students_on_its_machine(runs):
    """0.9, 1.0 and 1.1 mJ lie 10 % apart: of 5 mJ 0.5 mJ, times t[2] 4.3027."""
    costs = [cost(run, j=j) for run, j in zip("012", (0.9e-3, 1e-3, 1.1e-3), strict=True)]
    costs += [cost(run, "teacher", j=5e-3) for run in "012"]
    points = energy_per_token_by_length(pd.DataFrame(costs), runs).table.set_index(
        ["subject", "phase"]
    )
    teacher = points.loc[("teacher", "prefill")]
    assert teacher["half_width_j_per_token"] == pytest.approx(4.3027 * 0.5e-3, rel=1e-4)


def test_measured_and_estimated_points_are_lines_apart(runs):
    costs = [cost("0"), cost("1", quality="estimated")]
    fig = energy_per_token_by_length(pd.DataFrame(costs), runs).figure
    dashes = {t.name: t.line.dash for t in fig.data}
    assert dashes == {"student, batch 8": "solid", "student, batch 8, estimated": "dot"}


def test_a_flat_table_gives_the_points_of_a_nested_one(runs):
    nested = [cost("0"), cost("1", "teacher")]
    flat = pd.json_normalize(nested)
    assert "prefill.j_per_token" in flat
    under = flat.rename(columns=lambda name: name.replace(".", "_"))
    expected = energy_per_token_by_length(pd.DataFrame(nested), runs).table
    for table in (flat, under):
        pd.testing.assert_frame_equal(
            energy_per_token_by_length(table, runs).table, expected, check_dtype=False
        )


def test_nothing_served_is_an_empty_figure(runs):
    assert not energy_per_token_by_length(pd.DataFrame(columns=["run"]), runs).figure.data


def served_runs(make, tmp_path, joules):
    """Runs of paradigms of their own with student and teacher J/token; as one collection."""
    for i, (student, teacher) in enumerate(joules):
        folder = make.run(tmp_path / str(i), paradigm=f"p{i}", student_key=f"s{i}")
        make.serving(folder, keys=False, student=[student], teacher=[teacher])
    return collect([tmp_path])


def test_an_architecture_has_one_row_over_all_settings_and_its_teacher_stands_in_it(make, tmp_path):
    found = served_runs(make, tmp_path, [(0.9, 3.0), (1.0, 3.0), (1.1, 3.0)])
    table = energy_per_token(found.runs, found.inference).table.set_index(["subject", "phase"])
    assert len(table) == 4
    student, teacher = table.loc[("student", "decode")], table.loc[("teacher", "decode")]
    # s = 0.1 J over three: 4.3027 / sqrt(3) of it; the teacher's one is 10 % with t[2].
    assert student["j_per_token"] == pytest.approx(1.0)
    assert student["half_width_j_per_token"] == pytest.approx(0.1 * 4.3027 / 3**0.5, rel=1e-4)
    assert (student["num_measurements"], teacher["num_measurements"]) == (3, 1)
    assert teacher["half_width_j_per_token"] == pytest.approx(0.3 * 4.3027, rel=1e-2)
    fig = energy_per_token(found.runs, found.inference).figure
    (prefill,) = (trace for trace in fig.data if trace.yaxis == "y")
    assert list(prefill.y) == ["tiny", "tiny"]
    assert list(prefill.x) == pytest.approx([1, 3])
    assert list(prefill.marker.symbol) == ["circle", "circle-open"]
    # A filter of the page shows the row with any of its settings.
    assert prefill.customdata[0] == ", ".join(sorted(found.runs["group"]))


def test_an_architecture_whose_joules_are_estimated_has_a_dotted_row(make, tmp_path):
    make.run(tmp_path / "0", inference_energy_quality="estimated")
    found = collect([tmp_path])
    dashes = {t.line.dash for t in energy_per_token(found.runs, found.inference).figure.data}
    assert dashes == {"dot"}


def test_machines_are_rows_apart_that_name_no_host(make, tmp_path):
    found = served_runs(make, tmp_path, [(0.9, 3.0), (1.1, 3.0)])
    manifest = tmp_path / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("node7", "node8"))
    found = collect([tmp_path])
    fig = energy_per_token(found.runs, found.inference).figure
    rows = {trace.y[0] for trace in fig.data}
    assert rows == {"tiny · machine 1", "tiny · machine 2"}
    points = energy_per_token_by_length(found.inference, found.runs).table
    decode = points[(points["subject"] == "student") & (points["phase"] == "decode")]
    assert dict(zip(decode["machine"], decode["j_per_token"], strict=True)) == {1: 0.9, 2: 1.1}
    names = {
        trace.name for trace in energy_per_token_by_length(found.inference, found.runs).figure.data
    }
    assert "student of tiny on h100, machine 2, batch 8" in names


def test_a_quantised_teacher_is_named_by_its_bits_and_averaged_with_no_other(make, tmp_path):
    for i, bits in enumerate((None, "int8")):
        make.run(tmp_path / str(i), seed=i, student_key=f"s{i}", teacher_quantization=bits)
    runs = collect([tmp_path]).runs
    costs = [cost(run, "teacher", j=j) for run, j in (("0", 4e-3), ("1", 3e-3))]
    costs += [cost("1", "student", j=1e-3)]
    fig = energy_per_token_by_length(pd.DataFrame(costs), runs).figure
    prefill = {t.name: list(t.y) for t in fig.data if t.yaxis == "y"}
    assert prefill == {
        "student, batch 8": [1], "teacher, batch 8": [4], "teacher in int8, batch 8": [3],
    }  # fmt: skip
    text = dict(caveats(collect([tmp_path])))["Quantised teacher"]
    assert text.startswith("Teachers of 2 students: 1 in int8. Their joules per token")


def test_serving_under_two_power_limits_is_two_lines_and_no_mean(make, tmp_path):
    for i, limit_w in enumerate((250.0, 700.0)):
        make.run(tmp_path / str(i), student_key=f"s{i}", power_limit_w=limit_w)
    found = collect([tmp_path]).runs
    costs = pd.DataFrame([cost("0", j=1e-3), cost("1", j=3e-3)])
    points = energy_per_token_by_length(costs, found).table
    prefill = points[points["phase"] == "prefill"].set_index("power_limit_w")["j_per_token"]
    assert dict(prefill) == {250.0: 1e-3, 700.0: 3e-3}
    names = {trace.name for trace in energy_per_token_by_length(costs, found).figure.data}
    assert names == {f"student of tiny on h100 at {w} W, batch 8" for w in (250, 700)}
