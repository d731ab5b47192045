import json
from pathlib import Path

import pytest

from kdwatts.records.files import read_json
from multirun_analysis.importer.ept import Served, read_served, reservation
from multirun_analysis.importer.foreign import Source


def served(**changes):
    record = {
        "E_run_J": 600.0, "T_in": 100, "T_out": 200,
        "EPT_in_J_per_tok": 6.0, "EPT_out_J_per_tok": 3.0, "EPT_total_J_per_tok": 2.0,
    }  # fmt: skip
    data = json.dumps(record | changes).encode()
    return read_served(Source(Path("ept.json"), data))


def test_600_j_over_100_and_200_tokens_are_2_j_a_token():
    assert served() == Served(600.0, 100, 200, 2.0)


@pytest.mark.parametrize("key", ["EPT_in_J_per_tok", "EPT_out_J_per_tok", "EPT_total_J_per_tok"])
def test_a_quotient_that_is_not_the_energy_over_its_tokens_is_refused(key):
    with pytest.raises(ValueError, match=rf"ept\.json: {key} is 2\.5, and E_run_J over its tokens"):
        served(**{key: 2.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"E_run_J": None}, "E_run_J, T_in and T_out are None, 100 and 200"),
        ({"T_out": 0}, "are 600.0, 100 and 0, expected numbers above 0"),
        ({"T_in": 1.5}, "T_in is 1.5, expected a whole number"),
        ({"E_run_J": "much"}, "E_run_J is 'much', expected a number .*; correct it, or leave"),
    ],
)
def test_an_energy_without_its_tokens_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        served(**changes)


def test_a_teacher_10_times_as_large_may_take_up_to_100_times_the_energy():
    student = Served(100.0, 60, 40, 1.0)
    for times, is_credible in ((99, True), (101, False), (1.01, True), (0.99, False)):
        teacher = Served(100.0 * times, 60, 40, float(times))
        words, found = reservation(student, teacher, student_params=1, teacher_params=10)
        assert found is is_credible
        assert ("unverified" in words) is not is_credible


def test_other_prompts_and_missing_figures_are_said():
    student, teacher = Served(1.0, 60, 40, 0.01), Served(10.0, 70, 30, 0.1)
    words, _ = reservation(student, teacher, student_params=1, teacher_params=10)
    assert "60 tokens for the student, 70 for the teacher" in words
    words, is_credible = reservation(student, None, student_params=1, teacher_params=None)
    assert words.endswith("there is none of the teacher") and not is_credible
    assert reservation(None, None, student_params=1, teacher_params=1) == (None, False)


def test_the_real_figures_are_reported_and_the_teachers_is_unverified(imported_dir):
    metrics = read_json(imported_dir / "feature_1" / "metrics.json")
    # 9626.84 J over 15582 + 6400 tokens, and 7179793.6 J over 15582 + 4657.
    assert metrics["student_total_j_per_token"] == pytest.approx(9626.8438 / 21982)
    assert metrics["teacher_total_j_per_token"] == pytest.approx(7179793.6 / 20239)
    assert metrics["student_decode_j_per_token"] is metrics["student_prefill_j_per_token"] is None
    assert metrics["inference_energy_quality"] == "reported"
    reason = read_json(imported_dir / "feature_1" / "manifest.json")["import"]["inference_reason"]
    assert "355 J/token is 810 times the student's with 8.7 times the parameters" in reason
    assert reason.endswith("which nothing explains: unverified")
