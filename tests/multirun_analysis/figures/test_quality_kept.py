import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.quality_kept import (
    ABOVE_TEACHER,
    accuracy_kept,
    eff_overall,
)


@pytest.fixture
def runs_of(make, tmp_path):
    """A table of runs with the changes given, one student each."""

    def write(*changes):
        for i, change in enumerate(changes):
            make.run(tmp_path / f"{i}", **({"student_key": f"s{i}", "seed": i} | change))
        return collect([tmp_path]).runs

    return write


def trace(fig, column, kind="bar"):
    return next(t for t in fig.data if t.type == kind and t.meta == {"column": column})


def test_a_bar_is_the_mean_over_seeds_with_its_95_percent_interval(runs_of):
    runs = runs_of({"accuracy_kept": 0.8}, {"accuracy_kept": 0.9}, {"accuracy_kept": 1.0})
    first = accuracy_kept(runs).table.iloc[0]
    # s = 0.1, 4.303 / sqrt(3) of it.
    assert (first["value"], first["high"]) == pytest.approx(
        (0.9, 0.9 + 0.1 * 4.3027 / 3**0.5), rel=1e-5
    )
    bars = trace(accuracy_kept(runs).figure, "accuracy_kept")
    assert list(bars.x) == [pytest.approx(0.9)]
    assert bars.error_x.array[0] == pytest.approx(bars.error_x.arrayminus[0])
    assert list(bars.customdata) == [runs["group"].iloc[0]]


def test_one_seed_has_the_interval_of_its_benchmarks_samples_which_is_not_symmetric(runs_of):
    runs = runs_of({"accuracy_kept": 0.9, "accuracy_kept_low": 0.85, "accuracy_kept_high": 0.93})
    bars = trace(accuracy_kept(runs).figure, "accuracy_kept")
    assert list(bars.error_x.array) == [pytest.approx(0.03)]
    assert list(bars.error_x.arrayminus) == [pytest.approx(0.05)]
    assert "over benchmark samples" in bars.hovertext[0]


def test_accuracy_kept_comes_first_and_the_plain_ratio_is_the_paler_bar_beside_it(runs_of):
    runs = runs_of({"om_perf": 0.9, "accuracy_kept": 0.7})
    assert list(accuracy_kept(runs).table["form"]) == ["accuracy_kept", "om_perf"]
    fig = accuracy_kept(runs).figure
    first, beside = trace(fig, "accuracy_kept"), trace(fig, "om_perf")
    assert (list(first.x), list(beside.x)) == ([0.7], [0.9])
    alphas = [float(bars.marker.color[0].split(",")[-1].rstrip(")")) for bars in (first, beside)]
    assert alphas == [1.0, 0.35]


def test_what_cannot_be_told_of_accuracy_has_no_bar_be_its_plain_ratio_ever_so_high(runs_of):
    runs = runs_of(
        {"om_perf": 0.985, "accuracy_kept": None, "eff_overall": 9.0, "paradigm": "sft"},
        {"om_perf": 0.9, "eff_overall": 5.0},
    )
    assert set(accuracy_kept(runs).table["setting"]) == {"response"}
    assert set(eff_overall(runs).table["setting"]) == {"response"}


def test_a_student_at_chance_is_marked_in_the_hover_text(runs_of):
    at_chance = {"accuracy_kept": 0.01, "student_at_chance": ["mmlu"]}
    runs = runs_of(at_chance, at_chance, {"paradigm": "sft"})
    bars = trace(accuracy_kept(runs).figure, "accuracy_kept")
    hovers = dict(zip(bars.y, bars.hovertext, strict=True))
    assert "at chance on mmlu" in hovers["response"] and "at chance" not in hovers["sft"]


def test_a_bar_below_chance_is_in_the_figure(runs_of):
    fig = accuracy_kept(runs_of({"accuracy_kept": -0.2, "om_perf": 0.8})).figure
    assert fig.layout.xaxis.range[0] < -0.2


def test_a_share_above_1_is_hatched_and_says_what_that_may_mean(runs_of):
    runs = runs_of(
        {"accuracy_kept": 1.02, "om_perf": 0.99},
        {"accuracy_kept": 0.98, "om_perf": 0.98, "paradigm": "sft"},
    )
    bars = trace(accuracy_kept(runs).figure, "accuracy_kept")
    shown = zip(bars.marker.pattern.shape, bars.hovertext, strict=True)
    marks = dict(zip(bars.y, shown, strict=True))
    assert marks["response"][0] == "/" and ABOVE_TEACHER in marks["response"][1]
    assert marks["sft"][0] == "" and ABOVE_TEACHER not in marks["sft"][1]
    assert set(trace(accuracy_kept(runs).figure, "om_perf").marker.pattern.shape) == {""}


def test_the_teacher_is_a_line_at_1(runs_of):
    (line,) = accuracy_kept(runs_of({})).figure.layout.shapes
    assert (line.x0, line.x1) == (1, 1)


def test_dots_are_the_runs_of_settings_with_several_seeds(runs_of):
    runs = runs_of({"om_perf": 0.8}, {"om_perf": 0.9}, {"om_perf": 0.7, "paradigm": "sft"})
    dots = trace(accuracy_kept(runs).figure, "accuracy_kept", "scatter")
    assert list(zip(dots.x, dots.customdata, strict=True)) == [(0.8, "0"), (0.9, "1")]


def test_efficiency_of_measured_and_of_estimated_seeds_has_no_mean_in_common(runs_of):
    """Of 3 J against 1 J, and of an estimate of 9 J against 1 J."""
    served = {"student_total_j_per_token": 1.0, "teacher_total_j_per_token": 3.0}
    estimated = {"teacher_total_j_per_token": 9.0, "inference_energy_quality": "estimated"}
    runs = runs_of(
        served | {"om_perf": 1.4}, served | {"om_perf": 1.6}, served | estimated | {"om_perf": 1.0}
    )
    table = eff_overall(runs).table.set_index("setting")["value"]
    assert dict(table) == pytest.approx({"response · measured": 4.5, "response · estimated": 9.0})
    bars = trace(eff_overall(runs).figure, "eff_overall")
    assert list(bars.marker.line.width) == [0, 1.5]


def test_text_from_run_folders_is_escaped(runs_of):
    runs = runs_of({"paradigm": "<a href='//x'>y</a>"})
    for fig in (accuracy_kept(runs).figure, eff_overall(runs).figure):
        hovers = " ".join(text for t in fig.data for text in t.hovertext or ())
        assert "&lt;a href" in hovers and "<a href" not in hovers
        assert "<a href" not in fig.layout.yaxis.ticktext[0]


def test_runs_without_scores_make_empty_figures(runs_of):
    runs = runs_of({"om_perf": None, "eff_overall": None})
    assert not accuracy_kept(runs).figure.data and accuracy_kept(runs).table.empty
    assert not eff_overall(runs).figure.data and eff_overall(runs).table.empty


def test_without_any_interval_no_stub_of_one_is_drawn(runs_of):
    runs = runs_of({"eff_overall": 4.0})
    assert trace(eff_overall(runs).figure, "eff_overall").error_x.visible is False
