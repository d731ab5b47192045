import math

import pytest

from multirun_analysis.statistics.pareto import energy_class, front_by_class, on_front
from multirun_analysis.statistics.seeds import (
    add_totals,
    amortised_energy_j,
    num_students,
    over_seeds,
    stage_energies,
)


def run(**changes):
    row = {
        "run": "r",
        "label": "r",
        "group": "g",
        "student_key": "s",
        "own_energy_j": 100.0,
        "own_energy_quality": "measured",
        "inherited_energy_j": 40.0,
        "inherited_energy_quality": "measured",
        "inherited_energy_by_artifact_j": '{"teacher": 40.0}',
    }
    return row | changes


def window(stage, outcome, energy_j, *, key=None, quality="measured"):
    return {
        "run": "r",
        "window": f"run/{stage}",
        "outcome": outcome,
        "key": key,
        "energy_j": energy_j,
        "energy_quality": quality,
    }


def test_three_seeds_of_1_2_3_have_mean_2_and_half_width_t_over_root_3():
    # Standard deviation 1, t(0.975, 2 degrees of freedom) = 4.302653.
    mean = over_seeds([run(om_perf=value) for value in (1.0, 2.0, 3.0)], "om_perf")["g"]
    assert mean.value == 2
    assert mean.half_width == pytest.approx(4.302653 / math.sqrt(3))


def test_one_seed_has_no_interval():
    assert over_seeds([run(om_perf=5.0)], "om_perf")["g"].half_width is None


def test_seeds_without_a_value_are_left_out_of_the_mean():
    runs = [run(om_perf=0.9), run(om_perf=None), run(om_perf=0.8), run(group="other", om_perf=None)]
    means = over_seeds(runs, "om_perf")
    assert list(means) == ["g"]
    assert means["g"].value == pytest.approx(0.85) and means["g"].degrees == 1


def test_an_artifact_is_shared_by_students_not_by_runs():
    runs = [run(), run(), run(student_key="t"), run(student_key=None)]
    assert num_students(runs) == {"teacher": 2}


def test_a_share_of_an_unmeasured_artifact_is_unknown():
    assert amortised_energy_j({"a": 10.0, "b": 6.0}, {"a": 2, "b": 3}) == 7
    assert amortised_energy_j({"a": 10.0, "b": None}, {"a": 2, "b": 3}) is None
    assert amortised_energy_j({}, {}) == 0


def test_totals_add_own_and_inherited_whole_and_shared():
    runs = [run(), run(student_key="t")]
    add_totals(runs)
    assert runs[0]["inherited_amortised_energy_j"] == 20
    assert runs[0]["total_energy_j"] == 140
    assert runs[0]["total_amortised_energy_j"] == 120


def test_a_total_over_an_unknown_part_is_unknown():
    runs = [run(inherited_energy_j=None, inherited_energy_by_artifact_j='{"teacher": null}')]
    add_totals(runs)
    assert runs[0]["total_energy_j"] is None
    assert runs[0]["total_amortised_energy_j"] is None
    assert runs[0]["total_energy_quality"] == "missing"


def test_inheriting_nothing_leaves_the_total_measured():
    runs = [run(inherited_energy_j=0.0, inherited_energy_quality="estimated",
                inherited_energy_by_artifact_j="{}")]  # fmt: skip
    add_totals(runs)
    assert (runs[0]["total_energy_j"], runs[0]["total_energy_quality"]) == (100, "measured")


def test_a_reused_stage_shows_the_energy_recorded_for_its_artifact():
    (part,) = stage_energies([run()], [window("teacher", "reused", 0.5, key="teacher")])
    assert (part["energy_j"], part["inherited"]) == (40, True)


def test_a_reused_student_shows_its_own_energy():
    (part,) = stage_energies([run()], [window("distill", "reused", 0.5, key="s")])
    assert (part["energy_j"], part["inherited"]) == (100, True)


def test_a_reused_evaluation_shows_what_the_run_that_did_it_drew():
    first = window("evaluate_teacher", "done", 33.0, key="e") | {"run": "first"}
    (part,) = stage_energies([run()], [first, window("evaluate_teacher", "reused", 0.1, key="e")])
    assert (part["run"], part["energy_j"], part["inherited"]) == ("r", 33, True)


def test_a_resumed_run_inherits_nothing_from_its_own_first_attempt():
    windows = [
        window("teacher", "done", 40.0, key="teacher"),
        window("distill", "preempted", 30.0),
        window("teacher", "reused", 0.5, key="teacher"),
        window("distill", "done", 70.0),
        window("distill/train", "done", 60.0),
    ]
    parts = {part["stage"]: part for part in stage_energies([run()], windows)}
    assert set(parts) == {"teacher", "distill"}
    assert (parts["teacher"]["energy_j"], parts["teacher"]["inherited"]) == (40, False)
    assert (parts["distill"]["energy_j"], parts["distill"]["inherited"]) == (100, False)


def test_a_stage_of_unknown_energy_is_absent_rather_than_0_j():
    assert stage_energies([run()], [window("shards", "done", None, quality="missing")]) == []


def test_the_front_holds_what_no_point_beats():
    #       1 J, 0.5   2 J, 0.4   2 J, 0.7   3 J, 0.7   4 J, 0.9
    energy_j, quality = [1, 2, 2, 3, 4], [0.5, 0.4, 0.7, 0.7, 0.9]
    assert on_front(energy_j, quality) == [True, False, True, False, True]


def test_equal_points_are_on_the_front_together():
    assert on_front([2, 1, 1, 1], [0.5, 0.5, 0.5, 0.4]) == [False, True, True, False]


def test_lower_bits_per_byte_are_better():
    assert on_front([1, 2, 3], [1.2, 1.3, 1.0], higher_is_better=False) == [True, False, True]


def test_a_point_without_a_number_is_never_on_the_front():
    nan = math.nan
    assert on_front([nan, 1, 2], [0.9, nan, 0.1]) == [False, False, True]
    assert on_front([], []) == []


def test_measured_energies_never_meet_estimated_ones_on_a_front():
    runs = [
        {"run": "a", "own_energy_j": 9.0, "om_perf": 0.5, "own_energy_quality": "measured"},
        {"run": "b", "own_energy_j": 8.0, "om_perf": 0.6, "own_energy_quality": "attributed"},
        {"run": "c", "own_energy_j": 1.0, "om_perf": 0.9, "own_energy_quality": "estimated"},
    ]
    front = front_by_class(runs, energy="own_energy_j", quality="om_perf", higher_is_better=True)
    assert front == {"measured": ["b"], "estimated": ["c"]}
    assert energy_class("nonsense") == "missing"
