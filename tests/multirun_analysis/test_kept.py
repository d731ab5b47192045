import pytest

from multirun_analysis.collect import collect
from multirun_analysis.kept import (
    ABOVE_TEACHER,
    eff_overall_bars,
    eff_overall_table,
    om_perf_bars,
    om_perf_table,
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
    runs = runs_of({"om_perf": 0.8}, {"om_perf": 0.9}, {"om_perf": 1.0})
    plain = om_perf_table(runs).iloc[0]
    # s = 0.1, 4.303 / sqrt(3) of it.
    assert (plain["value"], plain["high"]) == pytest.approx((0.9, 0.9 + 0.1 * 4.302653 / 3**0.5))
    bars = trace(om_perf_bars(runs), "om_perf")
    assert list(bars.x) == [pytest.approx(0.9)]
    assert bars.error_x.array[0] == pytest.approx(bars.error_x.arrayminus[0])
    assert list(bars.customdata) == [runs["group"].iloc[0]]


def test_one_seed_has_the_interval_of_its_benchmarks_samples_which_is_not_symmetric(runs_of):
    runs = runs_of({"om_perf": 0.9, "om_perf_low": 0.85, "om_perf_high": 0.93})
    bars = trace(om_perf_bars(runs), "om_perf")
    assert list(bars.error_x.array) == [pytest.approx(0.03)]
    assert list(bars.error_x.arrayminus) == [pytest.approx(0.05)]
    assert "over benchmark samples" in bars.hovertext[0]


def test_the_chance_corrected_form_stands_beside_it_where_there_is_one(runs_of):
    runs = runs_of({"om_perf": 0.9, "om_perf_corrected": 0.7})
    assert list(trace(om_perf_bars(runs), "om_perf_corrected").x) == [0.7]
    none = runs.assign(om_perf_corrected=None)
    assert list(om_perf_table(none)["form"]) == ["om_perf"]


def test_a_ratio_above_1_is_hatched_and_says_what_that_may_mean(runs_of):
    runs = runs_of(
        {"om_perf": 1.02, "om_perf_corrected": 0.99}, {"om_perf": 0.98, "paradigm": "sft"}
    )
    bars = trace(om_perf_bars(runs), "om_perf")
    shown = zip(bars.marker.pattern.shape, bars.hovertext, strict=True)
    marks = dict(zip(bars.y, shown, strict=True))
    assert marks["response"][0] == "/" and ABOVE_TEACHER in marks["response"][1]
    assert marks["sft"][0] == "" and ABOVE_TEACHER not in marks["sft"][1]
    assert set(trace(om_perf_bars(runs), "om_perf_corrected").marker.pattern.shape) == {""}


def test_the_teacher_is_a_line_at_1(runs_of):
    (line,) = om_perf_bars(runs_of({})).layout.shapes
    assert (line.x0, line.x1) == (1, 1)


def test_dots_are_the_runs_of_settings_with_several_seeds(runs_of):
    runs = runs_of({"om_perf": 0.8}, {"om_perf": 0.9}, {"om_perf": 0.7, "paradigm": "sft"})
    dots = trace(om_perf_bars(runs), "om_perf", "scatter")
    assert list(zip(dots.x, dots.customdata, strict=True)) == [(0.8, "0"), (0.9, "1")]


def test_efficiency_of_measured_and_of_estimated_seeds_has_no_mean_in_common(runs_of):
    """Of 3 J against 1 J, and of an estimate of 9 J against 1 J."""
    served = {"student_total_j_per_token": 1.0, "teacher_total_j_per_token": 3.0}
    estimated = {"teacher_total_j_per_token": 9.0, "inference_energy_quality": "estimated"}
    runs = runs_of(
        served | {"om_perf": 1.4}, served | {"om_perf": 1.6}, served | estimated | {"om_perf": 1.0}
    )
    table = eff_overall_table(runs).set_index("setting")["value"]
    assert dict(table) == pytest.approx({"response · measured": 4.5, "response · estimated": 9.0})
    bars = trace(eff_overall_bars(runs), "eff_overall")
    assert list(bars.marker.line.width) == [0, 1.5]


def test_text_from_run_folders_is_escaped(runs_of):
    runs = runs_of({"paradigm": "<a href='//x'>y</a>"})
    for fig in (om_perf_bars(runs), eff_overall_bars(runs)):
        hovers = " ".join(text for t in fig.data for text in t.hovertext or ())
        assert "&lt;a href" in hovers and "<a href" not in hovers
        assert "<a href" not in fig.layout.yaxis.ticktext[0]


def test_runs_without_scores_make_empty_figures(runs_of):
    runs = runs_of({"om_perf": None, "eff_overall": None})
    assert not om_perf_bars(runs).data and om_perf_table(runs).empty
    assert not eff_overall_bars(runs).data and eff_overall_table(runs).empty
