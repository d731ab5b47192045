"""Servers over their load: what is pooled, what is compared, and what never shares a figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdwatts.records.serving_record import ServingRecord
from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.under_load import under_load
from multirun_analysis.statistics.server_words import setup_words
from multirun_analysis.statistics.serving_curves import apart_of, pairs_of, setups, side_by_side
from multirun_analysis.values.rows import to_rows
from tests.multirun_analysis.written_serving import (
    STUDENT,
    TEACHER,
    TRANSFORMERS,
    VLLM,
    WORKLOAD,
    capacity,
    figure,
    point,
    record,
    write_pair,
    write_under_load,
)


def _setups(folder):
    found = collect([folder])
    return setups(to_rows(found.serving), to_rows(found.runs))


def test_runs_that_share_a_key_count_each_measurement_once(make, tmp_path):
    for name in "012":
        write_pair(make.run(tmp_path / name, student_key=name, seed=int(name)))
    (setup,) = _setups(tmp_path)
    assert [curve.name for curve in setup.curves] == ["student", "teacher"]
    for curve in setup.curves:
        assert (curve.num_servers, curve.runs) == (1, ("0", "1", "2"))
        assert [row["measurements"] for row in curve.points] == [1, 1, 1]
        assert [row["level"] for row in curve.points] == [1, 4, 16]


def test_two_servers_are_one_curve_of_their_mean_with_one_degree_of_freedom(make, tmp_path):
    first = record("student", [point(4, 0.9)], parking_power_w=figure(78.0))
    other = record("student", [point(4, 1.1)], measurement=2, parking_power_w=figure(82.0))
    write_under_load(make.run(tmp_path / "0"), first, other)
    ((curve,),) = [setup.curves for setup in _setups(tmp_path)]
    (row,) = curve.points
    assert (row["j_per_output_token"], row["measurements"]) == (pytest.approx(1.0), 2)
    # t of 1 degree of freedom is 12.706; the standard error of 0.9 and 1.1 is 0.1.
    assert row["j_per_output_token_high"] == pytest.approx(1.0 + 1.2706, rel=1e-3)
    # 80 W, and the standard error of 78 and 82 is 2 W.
    assert curve.parking_w.value == pytest.approx(80.0)
    assert curve.parking_w.random_half_width == pytest.approx(25.41, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": TRANSFORMERS},
        {"engine": replace(VLLM, version="0.33.0")},
        {"engine": replace(VLLM, flags=["--max-num-seqs=8"])},
        {"engine": replace(VLLM, precision="float16")},
        {"engine": replace(VLLM, quantization="fp8")},
        {"gpus": ["NVIDIA A100"]},
        {"workload": {"prompt_tokens": 512, "output_tokens": 32, "length": "forced"}},
        {"workload": {"prompt_tokens": 48, "output_tokens": 32, "length": "natural"}},
        {"points": [point(4, 2.0, load="poisson")]},
        {"slo": {"ttft_p99_s": 0.2, "tpot_p99_s": 0.05, "e2e_p99_s": None}},
    ],
)  # fmt: skip
def test_what_differs_in_one_thing_alone_is_another_setup_and_has_no_ratio(changes, make, tmp_path):
    teacher = replace(record("teacher", TEACHER), **changes)
    write_under_load(make.run(tmp_path / "0"), record("student", STUDENT), teacher)
    found = _setups(tmp_path)
    assert [[curve.name for curve in setup.curves] for setup in found] == [["student"], ["teacher"]]
    assert not any(map(pairs_of, found))
    ((own, student, other),) = apart_of(found)
    assert (own, student.name, other) == (found[0], "student", found[1])


def test_the_ratio_at_one_load_is_teacher_over_student_with_fiellers_interval(make, tmp_path):
    write_pair(make.run(tmp_path / "0"))
    (setup,) = _setups(tmp_path)
    ((teacher, student),) = pairs_of(setup)
    first, second, third = side_by_side(teacher, student)
    # Both known to 2 %: r +- r sqrt(2) 0.02 / (1 - 0.02^2), near enough.
    for beside, times in ((first, 2.0), (second, 2.5)):
        assert beside.times.value == pytest.approx(times)
        assert beside.times.high == pytest.approx(times * (1 + 0.02 * 2**0.5), rel=1e-3)
        assert beside.why_no_ratio is None
    assert (third.times.value, third.why_no_ratio) == (None, "teacher saturated")


def test_a_load_that_one_of_both_lacks_or_that_is_not_measured_alike_has_no_ratio(make, tmp_path):
    estimated = point(2, 4.0, energy_quality="estimated")
    write_under_load(
        make.run(tmp_path / "0"),
        record("student", [point(1, 1.0), point(2, 1.0), point(3, 1.0, verdict="client_bound")]),
        record("teacher", [estimated, point(3, 1.0)]),
    )
    (setup,) = _setups(tmp_path)
    ((teacher, student),) = pairs_of(setup)
    assert [one.why_no_ratio for one in side_by_side(teacher, student)] == [
        "teacher not measured",
        "measured against estimated",
        "student held back by our client",
    ]


@pytest.mark.parametrize("other", [
    {"scope": "all GPUs of the job; cpu of the whole node"},
    {"energy_j": {"gpu": 9.0, "cpu": 3.0, "dram": None}},
])  # fmt: skip
def test_joules_of_other_components_have_no_ratio(other, make, tmp_path):
    write_under_load(
        make.run(tmp_path / "0"),
        record("student", [point(4, 1.0)]),
        record("teacher", [point(4, 2.0, **other)]),
    )
    (setup,) = _setups(tmp_path)
    ((teacher, student),) = pairs_of(setup)
    (beside,) = side_by_side(teacher, student)
    assert (beside.times.value, beside.why_no_ratio) == (None, "joules of other components")


def test_an_estimate_of_the_idle_server_is_in_no_mean(make, tmp_path):
    """An estimate by CPU time has no idle power: 0.004 W would halve the 80 W of the sensor."""
    estimated = replace(figure(0.004), quality="estimated")
    write_under_load(
        make.run(tmp_path / "0"),
        record("student", [point(4, 0.9)], parking_power_w=figure(80.0)),
        record("student", [point(4, 1.1)], measurement=2, parking_power_w=estimated),
    )
    ((curve,),) = [setup.curves for setup in _setups(tmp_path)]
    assert (curve.parking_w.value, curve.parking_w.quality) == (80.0, "measured")


def test_the_least_capacity_of_the_measurements_is_that_of_the_curve(make, tmp_path):
    write_under_load(
        make.run(tmp_path / "0"),
        *(
            record("student", [point(1, 1.0, load="poisson")], measurement=number,
                   capacity=capacity(per_s))
            for number, per_s in enumerate((5.0, 4.0, 6.0), start=1)
        ),
    )  # fmt: skip
    ((curve,),) = [setup.curves for setup in _setups(tmp_path)]
    assert (curve.first["capacity_requests_per_s"], curve.num_servers) == (4.0, 3)


def test_loads_of_the_search_and_of_runs_that_did_not_finish_are_in_no_curve(make, tmp_path):
    tried = point(3.0, 9.0, load="poisson")
    write_under_load(
        make.run(tmp_path / "0"), record("student", STUDENT, capacity=capacity(3.0, "found", tried))
    )
    write_pair(make.run(tmp_path / "1", metrics=None, state=make.status("preempted")), key="other")
    (setup,) = _setups(tmp_path)
    assert [curve.runs for curve in setup.curves] == [("0",)]
    assert [row["level"] for row in setup.curves[0].points] == [1, 4, 16]


def test_a_measurement_without_a_run_is_named_by_its_folder_beside_another(tmp_path):
    for name in ("one", "two"):
        write_under_load(tmp_path / name, record("model", STUDENT, key=None))
    (setup,) = _setups(tmp_path)
    assert [curve.name for curve in setup.curves] == ["model one", "model two"]


def _replayed(subject: str, sha256: str, factor: float = 1.0) -> ServingRecord:
    points = [
        point(5.25 * speed, factor / speed, load="replay", speed=speed) for speed in (1.0, 2.0)
    ]
    asked = WORKLOAD | {"replay_sha256": sha256, "replay_from_s": 0.0, "replay_for_s": None}
    return record(subject, points, workload=asked | {"replay_sessions": "ordered"})


def test_replays_of_one_log_are_compared_speed_by_speed_and_drawn(make, tmp_path):
    write_under_load(
        make.run(tmp_path / "0"), _replayed("student", "1f3a"), _replayed("teacher", "1f3a", 2.0)
    )
    (setup,) = _setups(tmp_path)
    ((teacher, student),) = pairs_of(setup)
    found = side_by_side(teacher, student)
    assert [(one.level, one.times.value) for one in found] == [
        (5.25, pytest.approx(2.0)),
        (10.5, pytest.approx(2.0)),
    ]
    assert [row["speed"] for row in student.points] == [1.0, 2.0]
    assert "replay of a log, 48 tokens read" in setup_words(setup)
    collected = collect([tmp_path])
    (exhibit,) = under_load(collected.serving, collected.runs).values()
    drawn = exhibit.draw(exhibit.table).to_dict()
    assert drawn["layout"]["xaxis3"]["title"]["text"] == "Requests a second (replay)"


def test_replays_of_two_logs_never_share_a_figure(make, tmp_path):
    run = make.run(tmp_path / "0")
    write_under_load(run, _replayed("student", "1f3a"), _replayed("teacher", "9c41"))
    assert len(_setups(tmp_path)) == 2
