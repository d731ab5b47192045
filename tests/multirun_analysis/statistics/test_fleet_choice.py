"""Which fleet to serve with: students, the teacher, and the teacher in few bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdwatts.records.files import read_json, write_json
from kdwatts.traffic.traffic_summary import TokenLengths
from multirun_analysis.statistics.choice import Gate, choose
from multirun_analysis.statistics.fleet_choice import FleetChoice, choose_fleet
from multirun_analysis.statistics.operating_point import of_log
from multirun_analysis.values.rows import distinct_students, to_rows
from tests.multirun_analysis.written_fleets import LIMITS, fleets_of, server, summary
from tests.multirun_analysis.written_serving import VLLM, WORKLOAD, capacity, write_under_load

SURE = {"accuracy_kept": 0.9, "accuracy_kept_low": 0.85, "accuracy_kept_high": 0.95}
INT4 = replace(VLLM, quantization="int4")
TEACHER = server("teacher", 100, 60, 4.0)


def add(make: Any, folder: Path, *servers: Any, **changes: Any) -> Path:
    """A run that took 5 MJ, inherited nothing, and keeps 85 to 95 %."""
    known = {"own_energy_j": 5e6, "own_energy_random_sd_j": 0.0, "own_energy_shared_sd_j": 0.0,
             "inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {},
             "student_key": folder.name}  # fmt: skip
    return write_under_load(make.run(folder, **(known | SURE | changes)), *servers)


def say_quantized(folder: Path, **changes: Any) -> None:
    """What a run's metrics say of its teacher in four bits: 97 to 99 %, 1 kJ of rounding."""
    kept = {"accuracy_kept": 0.98, "accuracy_kept_low": 0.97, "accuracy_kept_high": 0.99,
            "om_perf": 0.99, "om_perf_low": 0.98, "om_perf_high": 1.0,
            "quantizing_energy_j": 1e3, "quantizing_energy_quality": "measured",
            "quantizing_energy_random_sd_j": 0.0, "quantizing_energy_shared_sd_j": 0.0}  # fmt: skip
    path = folder / "metrics.json"
    write_json(path, read_json(path) | {"quantized": {"teacher_int4": kept | changes}})


def chosen(folder: Path, at: Any, *, days: float = 365.0, gate: Gate | None = None) -> FleetChoice:
    from multirun_analysis.collect.collection import collect

    runs = to_rows(collect([folder]).runs)
    found = list(fleets_of(folder, at).values())
    return choose_fleet(found, runs, gate=gate or Gate(), days=days)


def two_students(make: Any, folder: Path) -> Path:
    """At batch 8 response takes 0.010 J/token and feature 0.012; behind the engine at 12 requests/s
    response takes (2 x 80 + 12 x 20) / 12 = 33.3 J a request, and feature 23.3."""
    add(make, folder / "0", server("student", 80, 20, 8.0, key="a"), TEACHER)
    add(make, folder / "1", server("student", 80, 10, 8.0, key="b"), TEACHER, paradigm="feature")
    make.serving(folder / "0", student=[0.010, 0.010, 0.010], teacher=[0.11, 0.11, 0.11])
    make.serving(folder / "1", student=[0.012, 0.012, 0.012], teacher=[0.11, 0.11, 0.11])
    return folder


def test_batch_8_and_the_load_curve_choose_differently(make: Any, tmp_path: Path):
    from multirun_analysis.collect.collection import collect

    two_students(make, tmp_path)
    frame = collect([tmp_path]).runs
    for subject, joules in (("student", {"0": 0.010, "1": 0.012}), ("teacher", {})):
        frame[f"{subject}_served_j_per_token"] = [joules.get(run, 0.11) for run in frame["run"]]
        frame[f"{subject}_served_random_sd_j"] = 0.0
        frame[f"{subject}_served_shared_sd_j"] = 0.0
        frame[f"{subject}_served_key"] = frame["run"]
    # 12 requests/s of 80 tokens for 365 days.
    tokens = 12 * 80 * 86_400 * 365
    by_loop = choose(distinct_students(frame), gate=Gate(), tokens=tokens)
    by_load = chosen(tmp_path, 12.0)
    assert by_loop.enough[0].label == "response"
    assert by_load.best is not None and by_load.best.label == "feature"
    assert (by_load.choice.verdict, by_load.choice.reasons) == ("settled", [])


def test_the_student_is_ranked_by_building_and_requests_over_all_days(make: Any, tmp_path: Path):
    """2 W of 12 requests/s for 365 days: 2 x 80 + 12 x 20 = 400 W are 12.6 GJ, and 5 MJ."""
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER)
    found = chosen(tmp_path, 12.0)
    (student, teacher) = found.choice.enough
    assert (student.label, teacher.label) == ("response", "teacher")
    assert student.units == pytest.approx(12 * 86_400 * 365)
    joules = student.units * student.serving.number
    assert joules == pytest.approx(400 * 86_400 * 365)


def test_a_student_that_is_dearer_than_its_teacher_leaves_the_teacher(make: Any, tmp_path: Path):
    add(make, tmp_path / "0", server("student", 120, 70, 4.0), TEACHER)
    found = chosen(tmp_path, 3.0)
    assert found.best is not None and found.best.is_reference
    assert (found.choice.verdict, found.choice.reasons) == ("settled", [])


def test_a_student_that_serves_too_few_days_to_repay_its_building_leaves_the_teacher(
    make: Any, tmp_path: Path
):
    """60 J saved a request, 12 requests/s: 5 MJ are repaid after 0.080 days."""
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER)
    early, late = chosen(tmp_path, 12.0, days=0.07), chosen(tmp_path, 12.0, days=0.09)
    assert early.best is not None and early.best.label == "teacher"
    assert late.best is not None and late.best.label == "response"


def test_the_teacher_in_four_bits_wins_where_it_keeps_enough_and_draws_less(
    make: Any, tmp_path: Path
):
    """In four bits a request takes (90 + 10 x 3) / 3 = 40 J, of the student (80 + 20 x 3) / 3."""
    quantized = server("teacher", 90, 10, 6.0, engine=INT4, key="teacher-int4")
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER, quantized)
    say_quantized(tmp_path / "0")
    found = chosen(tmp_path, 3.0)
    assert found.best is not None and found.best.label == "teacher in int4"
    winner = found.choice.enough[0]
    assert (winner.accuracy.value, winner.own.value) == (0.98, 1e3)
    assert found.choice.verdict == "settled"
    # 1 kJ of rounding over 93.3 - 40 J a request.
    assert found.best.requests.value == pytest.approx(1e3 / (280 / 3 - 40))
    say_quantized(tmp_path / "0", accuracy_kept=0.4, accuracy_kept_low=0.3, accuracy_kept_high=0.45)
    found = chosen(tmp_path, 3.0)
    assert found.best is not None and found.best.label == "response"
    assert [c.label for c in found.choice.too_little] == ["teacher in int4"]


def test_a_teacher_in_four_bits_without_scores_in_four_bits_is_not_judged(
    make: Any, tmp_path: Path
):
    quantized = server("teacher", 90, 10, 6.0, engine=INT4, key="teacher-int4")
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER, quantized)
    found = chosen(tmp_path, 3.0)
    assert found.not_judged == {"teacher in int4": "its accuracy was not measured in int4"}
    assert found.best is not None and found.best.label == "response"
    assert found.fleets["teacher in int4"].j_per_request.value == pytest.approx(40)


def test_at_little_load_parking_decides(make: Any, tmp_path: Path):
    """One parks at 200 W and takes 5 J more a request, the other at 60 W and 40 J: they meet at
    4 requests/s."""
    add(make, tmp_path / "0", server("student", 200, 5, 16.0, key="a"), TEACHER)
    add(make, tmp_path / "1", server("student", 60, 40, 16.0, key="b"), TEACHER, paradigm="feature")
    for rate, label in ((0.1, "feature"), (7.9, "response")):
        found = chosen(tmp_path, rate)
        assert found.best is not None and found.best.label == label


def test_settings_that_serve_alike_are_told_apart_by_their_building(make: Any, tmp_path: Path):
    """One figure of serving for both; building differs by 1 MJ, known to 1.96 x 1 % of it."""
    alike = server("student", 80, 20, 8.0)
    add(make, tmp_path / "0", alike, TEACHER, own_energy_j=5e6)
    add(make, tmp_path / "1", alike, TEACHER, own_energy_j=4e6, paradigm="feature")
    found = chosen(tmp_path, 12.0)
    assert found.best is not None and found.best.label == "feature"
    assert found.choice.verdict == "settled" and not found.choice.cannot_tell


def test_a_log_of_other_lengths_unsettles_the_answer(make: Any, tmp_path: Path):
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER)
    lengths = summary([1.0]).prompt_tokens
    assert lengths is not None
    at = of_log(summary([1.0], prompt_tokens=replace(lengths, mean=480.0)), LIMITS)
    found = chosen(tmp_path, at)
    assert found.choice.verdict == "not settled"
    assert found.choice.reasons[-1].endswith("measure with the log: eval.serving.replay.log=FILE")


def test_where_no_student_is_scored_the_teacher_alone_is_no_choice(make: Any, tmp_path: Path):
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), TEACHER, accuracy_kept=None,
        accuracy_kept_low=None, accuracy_kept_high=None, om_perf=None)  # fmt: skip
    found = chosen(tmp_path, 3.0)
    assert (found.choice.verdict, found.best) == ("cannot be told", None)
    assert found.not_judged == {
        "response": "it has no benchmark scores",
        "teacher": "nothing that can be judged is held against it",
    }


def test_measured_joules_are_never_ranked_against_estimated_ones(make: Any, tmp_path: Path):
    points = server("student", 80, 5, 8.0).points
    guessed = [
        replace(one, energy_quality="estimated", power_w=replace(one.power_w, quality="estimated"))
        for one in points
    ]
    add(make, tmp_path / "0", server("student", 80, 20, 8.0, key="a"), TEACHER)
    other = replace(server("student", 80, 5, 8.0, key="b"), points=guessed)
    add(make, tmp_path / "1", other, TEACHER, paradigm="feature")
    found = chosen(tmp_path, 6.0)
    assert found.best is not None and found.best.label == "response"
    assert found.not_judged == {"feature": "its joules are estimated, and those of others are not"}


def test_a_measured_teacher_does_not_win_over_students_whose_joules_are_all_estimated(
    make: Any, tmp_path: Path
):
    student = server("student", 80, 20, 8.0)
    guessed = [
        replace(one, energy_quality="estimated", power_w=replace(one.power_w, quality="estimated"))
        for one in student.points
    ]
    add(make, tmp_path / "0", replace(student, points=guessed), TEACHER)
    found = chosen(tmp_path, 6.0)
    assert found.not_judged == {"teacher": "nothing that can be judged is held against it"}
    assert found.choice.verdict == "not settled"
    assert found.choice.reasons == ["the energy that its teacher would take is not known"]


def test_only_equal_lengths_are_compared(make: Any, tmp_path: Path):
    short: dict[str, Any] = {"workload": WORKLOAD | {"output_tokens": 8}}
    add(make, tmp_path / "0", server("student", 80, 20, 8.0, key="a"), TEACHER)
    add(make, tmp_path / "1", server("student", 80, 5, 8.0, key="b", **short), paradigm="feature")
    found = chosen(tmp_path, 3.0)
    assert found.best is not None and found.best.label == "response"
    assert found.not_judged == {
        "feature": "it was measured with other lengths than those that are compared"
    }
    assert (
        found.fleets["feature"].why_no_break_even == "its teacher was measured with other lengths"
    )


def test_of_several_lengths_those_of_the_log_are_compared_however_few_have_them(
    make: Any, tmp_path: Path
):
    """Teacher and student were replayed with the log's lengths; five servers with other lengths."""
    log = summary([1.0], prompt_tokens=TokenLengths(480.0, 480.0, 480.0, 480.0))
    of_log_a = {"workload": WORKLOAD | {"replay_sha256": log.sha256}}
    others = [server("model", 80, 5, 8.0, key=None) for _ in range(2)]
    add(
        make, tmp_path / "0", TEACHER, server("student", 80, 20, 8.0, key="a"),
        server("teacher", 100, 60, 4.0, key="t", **of_log_a),
        server("student", 90, 20, 8.0, key="b", **of_log_a),
        server("teacher", 90, 10, 6.0, engine=INT4, key="teacher-int4"),
    )  # fmt: skip
    for number, one in enumerate(others):
        write_under_load(tmp_path / f"model{number}", one)
    found = chosen(tmp_path, of_log(log, LIMITS))
    assert found.best is not None and found.choice.verdict == "settled"
    assert found.best.replica.first["workload_replay_sha256"] == log.sha256
    assert found.best.j_per_request.value == pytest.approx(110)
    assert sum("other lengths than those" in why for why in found.not_judged.values()) == 3


def test_a_teacher_that_two_pairs_share_does_not_tie_with_itself(make: Any, tmp_path: Path):
    for number, pair in enumerate(("large_to_middle", "large_to_small")):
        student = server("student", 120, 70 + number, 4.0, key=pair)
        add(make, tmp_path / str(number), student, TEACHER, model=pair)
    found = chosen(tmp_path, 3.0)
    assert found.best is not None and found.best.label == "teacher of large_to_middle"
    assert (found.choice.verdict, found.choice.reasons) == ("settled", [])
    assert found.not_judged == {
        "teacher of large_to_small": "it is teacher of large_to_middle, which is judged"
    }


def test_shares_of_two_teachers_are_not_settled_against_each_other(make: Any, tmp_path: Path):
    """The small teacher keeps all of itself, which says nothing of what the large one can do."""
    add(make, tmp_path / "0", server("student", 80, 20, 8.0, key="a"), TEACHER, model="large")
    small = server("teacher", 50, 10, 8.0, key="small")
    add(make, tmp_path / "1", server("student", 40, 15, 8.0, key="b"), small, model="small")
    found = chosen(tmp_path, 4.0)
    assert found.choice.verdict == "not settled"
    assert found.choice.reasons == [
        "those that keep enough are held against different teachers, of the pairs small, large"
    ]


def test_a_teacher_of_whom_only_a_lower_bound_is_known_leaves_the_answer_open(
    make: Any, tmp_path: Path
):
    """At 12 requests/s it needs 4 replicas if it carries no more than 4, and 1 needs no fewer."""
    bound = replace(TEACHER, capacity=capacity(4.0, "above"))
    add(make, tmp_path / "0", server("student", 80, 20, 8.0), bound)
    found = chosen(tmp_path, 12.0)
    assert found.choice.reasons == [
        "fewer replicas may be enough for teacher, as only a lower bound of what one carries is "
        "known"
    ]
    assert chosen(tmp_path, 2.0).choice.verdict == "settled"
