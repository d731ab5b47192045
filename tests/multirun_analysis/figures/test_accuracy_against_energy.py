import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.accuracy_against_energy import quality_against_energy


@pytest.fixture(scope="module")
def collected(sweep_dir):
    return collect([sweep_dir])


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


def test_estimated_runs_are_open_marks_with_a_front_of_their_own(make, tmp_path):
    make.run(tmp_path / "0", student_key="a")
    make.run(tmp_path / "1", student_key="b", seed=1, own_energy_quality="estimated")
    fig = quality_against_energy(collect([tmp_path]).runs).figure
    names = [trace.name for trace in fig.data]
    assert {"Pareto front, measured", "Pareto front, estimated"} <= set(names)
    (points,) = [trace for trace in fig.data if trace.name == "response"]
    assert list(points.marker.symbol) == ["square", "square-open"]


def test_names_from_run_folders_are_escaped_in_figures(make, tmp_path):
    make.run(tmp_path / "0", paradigm="<a href='//x'>y</a>")
    fig = quality_against_energy(collect([tmp_path]).runs).figure
    assert "<a href" not in fig.to_json().replace("\\u003c", "<")
