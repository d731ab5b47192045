"""Fleets of known power against the closed formulas, worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdwatts.records.serving_record import Capacity, Figure
from kdwatts.traffic.traffic_summary import TokenLengths
from multirun_analysis.statistics.operating_point import Limits, of_log, of_rate
from multirun_analysis.statistics.rent import rent_of
from multirun_analysis.statistics.site import site_of
from tests.multirun_analysis.written_fleets import LIMITS, fleets_of, loads, server, summary
from tests.multirun_analysis.written_serving import (
    VLLM,
    WORKLOAD,
    capacity,
    figure,
    point,
    record,
    write_under_load,
)

DAY_S = 86_400


@pytest.fixture
def pair(make: Any, tmp_path: Path) -> Path:
    """The student parks at 80 W, takes 20 J more a request and carries 8/s; the teacher 100, 60, 4.

    Building took 5 MJ, nothing was inherited.
    """
    return written(make, tmp_path, server("student", 80, 20, 8.0), server("teacher", 100, 60, 4.0))


def written(make: Any, folder: Path, *servers: Any, **changes: Any) -> Path:
    known = {"own_energy_j": 5e6, "own_energy_random_sd_j": 0.0, "own_energy_shared_sd_j": 0.0,
             "inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {}}  # fmt: skip
    write_under_load(make.run(folder / "0", **(known | changes)), *servers)
    return folder


def test_replicas_joules_and_break_even_are_those_of_the_closed_formulas(pair: Path):
    """12 requests/s: the student needs ceil(12 / 6) = 2, the teacher ceil(12 / 3) = 4 replicas.

    Their powers are 2 x 80 + 20 x 12 = 400 W and 4 x 100 + 60 x 12 = 1120 W.
    """
    found = fleets_of(pair, 12.0)
    student, teacher = found["response"], found["teacher"]
    assert (student.num_replicas, student.num_gpus) == (2, 2)
    assert (teacher.num_replicas, teacher.num_gpus) == (4, 4)
    assert student.parked_w.value == pytest.approx(160)
    assert student.joules_per_day.value == pytest.approx(400 * DAY_S)
    assert student.j_per_request.value == pytest.approx(400 / 12)
    assert teacher.j_per_request.value == pytest.approx(1120 / 12)
    assert student.j_per_output_token.value == pytest.approx(400 / 12 / 32)
    assert student.j_per_token.value == pytest.approx(400 / 12 / 80)
    # A replica of the student gets 6/s, between the loads 4 and 8: the mean of 160 and 240 W, each
    # known to 1 %, so 2 x sqrt(0.8^2 + 1.2^2) = 2.884 W of 400 W at 19 degrees of freedom or more.
    assert student.joules_per_day.half_width == pytest.approx(2.884 * DAY_S, rel=0.05)
    # 5 MJ / (60 J) = 83,333 requests of 80 tokens, at 1,036,800 requests a day.
    assert student.requests.value == pytest.approx(5e6 / 60)
    assert student.repaid_tokens.value == pytest.approx(5e6 / 60 * 80)
    assert student.days.value == pytest.approx(5e6 / 60 / (12 * DAY_S))
    assert student.requests.low and student.requests.high
    assert student.requests.low < 5e6 / 60 < student.requests.high
    assert (student.reference, teacher.why_no_break_even) == ("teacher", "nothing was built")


def test_a_million_tokens_cost_the_rent_of_the_gpus_and_apart_from_it_electricity(pair: Path):
    """12/s of 32 tokens are 33.1776 million tokens a day; 2 GPUs are rented for 24 h at 2.5 USD."""
    site = replace(site_of("world"), price_usd_per_kwh=0.2, pue=1.5, wue_l_per_kwh=2.0)
    student = fleets_of(pair, 12.0, rent=rent_of(["2.5"]), site=site)["response"]
    millions = 12 * DAY_S * 32 / 1e6
    assert student.price.rent_usd == pytest.approx(2 * 24 * 2.5 / millions)
    usd = 400 * 24 / 1000 * 1.5 * 0.2 / millions
    assert student.price.electricity_usd == pytest.approx(usd)
    low, high = student.electricity_usd.low, student.electricity_usd.high
    assert low and high and low < usd < high
    kwh = 400 / 12 / 3.6e6
    assert student.co2e_g_per_request.value == pytest.approx(kwh * 1.5 * site.grid_gco2e_per_kwh)
    assert student.water_l_per_request.value == pytest.approx(kwh * 2.0)


def test_what_a_site_does_not_state_has_no_figure(pair: Path):
    student = fleets_of(pair, 12.0)["response"]
    assert student.co2e_g_per_request.value is None and student.price.rent_usd is None
    site = replace(site_of("world"), price_usd_per_kwh=None, wue_l_per_kwh=None)
    student = fleets_of(pair, 12.0, site=site)["response"]
    assert student.electricity_usd.value is None and student.water_l_per_request.value is None


def test_of_a_log_the_hours_are_summed_and_the_busiest_minutes_are_carried(pair: Path):
    """Hours of 1 and 5 requests/s; the busiest 5 minutes have 10. The student needs 2 replicas.

    A day is 12 h of each: 43,200 x (2 x 80 + 20 x 1) + 43,200 x (2 x 80 + 20 x 5) J, and 259,200
    requests.
    """
    at = of_log(summary([1.0, 5.0]), LIMITS)
    assert (at.peak_per_s, at.requests_per_day) == (10.0, pytest.approx(259_200))
    student = fleets_of(pair, at)["response"]
    assert student.num_replicas == 2
    assert student.joules_per_day.value == pytest.approx(43_200 * (180 + 260))
    assert student.j_per_request.value == pytest.approx(43_200 * 440 / 259_200)
    assert of_log(summary([1.0, 5.0]), LIMITS, peak_factor=4).peak_per_s == 12.0
    # Less than the busiest hour is no peak.
    assert of_log(summary([1.0, 5.0]), LIMITS, peak_factor=1).peak_per_s == 5.0


def test_at_little_load_parking_decides_the_joules_of_a_request(pair: Path):
    """0.01 requests/s on one replica each: 80 / 0.01 + 20 and 100 / 0.01 + 60 J."""
    found = fleets_of(pair, 0.01)
    assert found["response"].j_per_request.value == pytest.approx(8020)
    assert found["teacher"].j_per_request.value == pytest.approx(10_060)
    assert found["response"].requests.value == pytest.approx(5e6 / 2040)


def test_without_parking_power_a_lower_load_than_measured_has_no_joules(make: Any, tmp_path: Path):
    written(make, tmp_path, server("student", 80, 20, 8.0, parking_power_w=Figure(None)))
    student = fleets_of(tmp_path, 0.5)["response"]
    assert student.num_replicas == 1 and student.j_per_request.value is None
    assert "measured from 1 on, and its parking power is not known" in (student.why_not or "")
    assert fleets_of(tmp_path, 4.0)["response"].j_per_request.value == pytest.approx(160 / 4)


@pytest.mark.parametrize(
    ("found", "per_s", "is_bound", "words"),
    [
        (capacity(8.0), 8.0, False, "found by a search"),
        (capacity(8.0, "above"), 8.0, True, "the greatest rate that was tried kept the latency"),
        (Capacity(6.0, None, "undecided"), 6.0, True, "ended too early"),
        (Capacity(None, 1.0, "none"), None, False, "no rate that was tried keeps the latency"),
        (None, 8.0, True, "greatest measured rate whose p99 surely lies within"),
    ],
)
def test_the_capacity_is_that_of_the_search_or_a_lower_bound_of_the_curve(
    found, per_s, is_bound, words, make: Any, tmp_path: Path
):
    record = replace(server("student", 80, 20, None), capacity=found)
    written(make, tmp_path, record)
    fleet = fleets_of(tmp_path, 7.0)["response"]
    assert (fleet.capacity.requests_per_s, fleet.capacity.is_lower_bound) == (per_s, is_bound)
    assert words in fleet.capacity.words
    assert any("fewer replicas may be enough" in r for r in fleet.remarks) is is_bound
    # Of one replica there are no fewer.
    assert fleets_of(tmp_path, 1.0)["response"].remarks == ()


def test_of_another_objective_a_replica_carries_what_its_latencies_surely_keep(
    make: Any, tmp_path: Path
):
    """TPOT p99 is 10, 20, 30 and 40 ms, each known to 5 %, at 1, 2, 4 and 8 requests/s."""
    points = loads(80, 20)
    points = [
        replace(one, tpot_s=replace(one.tpot_s, p99=Figure(s, 0.95 * s, 1.05 * s)))
        for one, s in zip(points, (0.010, 0.020, 0.030, 0.040), strict=True)
    ]
    written(make, tmp_path, replace(server("student", 80, 20, 8.0), points=points))

    def carried(limit_s: float, **more: float) -> float | None:
        at = of_rate(1.0, Limits(tpot_p99_s=limit_s, **more))
        return fleets_of(tmp_path, at)["response"].capacity.requests_per_s

    assert carried(0.0316) == 4.0
    assert carried(0.0314) == 2.0
    assert carried(0.0316, ttft_p99_s=0.01) is None
    fleet = fleets_of(tmp_path, of_rate(1.0, Limits(tpot_p99_s=0.0104)))["response"]
    assert fleet.why_not == (
        "how many replicas it needs is not known: at the least rate that was measured the TPOT p99 "
        "is not surely within 0.0104 s"
    )


def test_what_was_searched_for_with_stricter_limits_is_a_lower_bound(make: Any, tmp_path: Path):
    """8/s were found for 0.5 s and 0.05 s. Of the curve no p99 has an upper end."""
    points = [
        replace(one, tpot_s=replace(one.tpot_s, p99=Figure(0.02, 0.019, None)))
        for one in loads(80, 20)
    ]
    written(make, tmp_path, replace(server("student", 80, 20, 8.0), points=points))

    def carried(*limits: float | None) -> tuple:
        capacity = fleets_of(tmp_path, of_rate(1.0, Limits(*limits)))["response"].capacity
        return capacity.requests_per_s, capacity.is_lower_bound

    assert carried(0.5, 0.05) == (8.0, False)
    assert carried(None, 0.05) == (8.0, True)
    assert carried(0.6, 0.07) == (8.0, True)
    assert carried(0.6, 0.04) == (None, False)
    assert carried(0.5, 0.05, 9.0) == (None, False)


def test_power_of_requests_that_failed_is_said_to_be_so(make: Any, tmp_path: Path):
    one = server("student", 80, 20, 8.0)
    points = [replace(point, failed=7 * (point.level == 4)) for point in one.points]
    written(make, tmp_path, replace(one, points=points))
    assert fleets_of(tmp_path, 1.0)["response"].remarks == (
        "Its power is also of requests that failed: 7 of 12007 requests at 4 requests/s.",
    )


def test_a_p99_without_an_upper_end_is_said_to_rest_on_too_few_requests(make: Any, tmp_path: Path):
    points = [
        replace(one, tpot_s=replace(one.tpot_s, p99=Figure(0.01, 0.009, None)))
        for one in loads(80, 20, (1.0, 2.0))
    ]
    one = replace(server("student", 80, 20, 8.0), points=points, capacity=None)
    written(make, tmp_path, one)
    fleet = fleets_of(tmp_path, of_rate(1.0, Limits(tpot_p99_s=1.0)))["response"]
    assert (fleet.why_not or "").endswith("too few requests ended to tell the TPOT p99")


def test_of_several_servers_the_least_capacity_counts(make: Any, tmp_path: Path):
    one = server("student", 80, 20, 8.0)
    written(make, tmp_path, one, replace(one, measurement=2, capacity=capacity(6.0)))
    fleet = fleets_of(tmp_path, 1.0)["response"]
    assert (fleet.capacity.requests_per_s, fleet.capacity.words) == (6.0, "the least of 2 searches")


def test_loads_of_the_search_carry_the_curve_further_and_saturated_ones_never(
    make: Any, tmp_path: Path
):
    """The curve ends at 4/s, the search went on to 8 and 16, where the queue grew."""
    tried = [*loads(80, 20, [8.0]), *loads(80, 20, [16.0], verdict="saturated")]
    servers = server("student", 80, 20, None, rates=(1.0, 2.0, 4.0),
                     found=capacity(8.0, "found", *tried))  # fmt: skip
    written(make, tmp_path, servers)
    assert fleets_of(tmp_path, 6.0)["response"].j_per_request.value == pytest.approx(200 / 6)
    # 0.75 x 16 = 12 a replica would be more than was measured.
    more = replace(servers, capacity=capacity(16.0, "found", *tried))
    written(make, tmp_path / "more", more)
    fleet = fleets_of(tmp_path / "more", 12.0)["response"]
    assert fleet.why_not == (
        "a replica would get 12 requests/s, but its power was measured up to 8; measure a greater "
        "rate"
    )


def test_two_kinds_of_gpu_are_two_candidates_each_with_its_own_price(make: Any, tmp_path: Path):
    small: dict[str, Any] = {"gpus": ["NVIDIA L4", "NVIDIA L4"], "host": "node8"}
    written(
        make, tmp_path, server("student", 80, 20, 8.0), server("teacher", 100, 60, 4.0),
        server("student", 20, 10, 2.0, key="student-l4", **small),
    )  # fmt: skip
    found = fleets_of(tmp_path, 6.0, rent=rent_of(["H100=2.5,L4=0.9"]))
    assert set(found) == {
        "response on NVIDIA H100 80GB HBM3", "response on 2 x NVIDIA L4", "teacher"
    }  # fmt: skip
    large, two = found["response on NVIDIA H100 80GB HBM3"], found["response on 2 x NVIDIA L4"]
    assert (large.num_replicas, large.num_gpus) == (1, 1)
    assert (two.num_replicas, two.num_gpus) == (4, 8)
    millions = 6 * DAY_S * 32 / 1e6
    assert large.price.rent_usd == pytest.approx(24 * 2.5 / millions)
    assert two.price.rent_usd == pytest.approx(8 * 24 * 0.9 / millions)
    assert two.reference == "teacher"
    assert any("not measured on the same hardware" in remark for remark in two.remarks)
    assert not any("not measured on the same hardware" in remark for remark in large.remarks)


def test_candidates_that_differ_in_what_no_name_says_have_names_of_their_own(
    make: Any, tmp_path: Path
):
    """The processor, the length, and the hash of the prompts: none may stand for another."""
    other = {"workload": WORKLOAD | {"prompts": "another-hash"}}
    written(
        make, tmp_path, server("student", 80, 20, 8.0, cpu="EPYC"),
        server("student", 80, 40, 8.0, key="b", cpu="Xeon"),
        server("student", 80, 60, 8.0, key="c", cpu="EPYC", **other),
        server("teacher", 100, 60, 4.0, cpu="EPYC"),
    )  # fmt: skip
    found = fleets_of(tmp_path, 4.0)
    joules = {label: fleet.j_per_request.number for label, fleet in found.items()}
    assert joules == pytest.approx(
        {
            "response with EPYC (1)": 40,
            "response with Xeon": 60,
            "response with EPYC (2)": 80,
            "teacher": 110,
        }
    )


def test_a_peak_that_just_fits_needs_no_further_replica(make: Any, tmp_path: Path):
    """0.75 x 1.2 is 0.8999999999999999 in a computer's numbers, and 0.9 requests/s fit in it."""
    written(make, tmp_path, server("student", 80, 20, 1.2))
    assert fleets_of(tmp_path, 0.9)["response"].num_replicas == 1
    assert fleets_of(tmp_path, 0.9001)["response"].num_replicas == 2


def test_estimated_joules_have_no_idle_power_and_say_so(make: Any, tmp_path: Path):
    """Estimates of 20 J a request: one at a tenth of the rate draws a tenth."""
    estimated: dict[str, Any] = {
        "energy_quality": "estimated",
        "scope": "cpu of the server's processes",
    }
    points = [
        replace(one, power_w=replace(figure(20 * one.level), quality="estimated"))
        for one in loads(0, 20, **estimated)
    ]
    servers = server("student", 80, 20, 8.0, gpus=[], parking_power_w=Figure(None))
    written(make, tmp_path, replace(servers, points=points), own_energy_quality="estimated")
    fleet = fleets_of(tmp_path, 0.1)["response"]
    assert (fleet.energy_class, fleet.num_gpus) == ("estimated", 0)
    assert fleet.j_per_request.value == pytest.approx(20)
    assert fleet.parked_w.value is None
    assert any("idle power is in no figure" in remark for remark in fleet.remarks)


def test_a_student_that_writes_longer_saves_less_a_request_and_more_tokens_repay_it(
    make: Any, tmp_path: Path
):
    """It writes 64 tokens where its teacher writes 32: requests decide, of 48 + 64 tokens."""
    natural: dict[str, Any] = {"workload": WORKLOAD | {"length": "natural"}}
    written(
        make, tmp_path,
        server("student", 80, 20, 8.0, of_points={"output_tokens": 64}, **natural),
        server("teacher", 100, 60, 4.0, **natural),
    )  # fmt: skip
    student = fleets_of(tmp_path, 3.0)["response"]
    assert (student.tokens.prompt, student.tokens.output) == (48, 64)
    assert student.requests.value == pytest.approx(5e6 / (280 / 3 - 140 / 3))
    assert student.repaid_tokens.value == pytest.approx(5e6 / (280 / 3 - 140 / 3) * 112)


def test_a_log_of_other_lengths_leaves_a_doubt_that_names_the_command(pair: Path):
    longer = TokenLengths(480.0, 480.0, 480.0, 480.0)
    at = of_log(summary([1.0], prompt_tokens=longer), LIMITS)
    assert fleets_of(pair, at)["response"].doubts == (
        "its servers were measured with 48 tokens read a request, and the log has 480; measure "
        "with the log: eval.serving.replay.log=FILE",
    )
    assert fleets_of(pair, of_log(summary([1.0]), LIMITS))["response"].doubts == ()


def test_a_log_that_does_not_say_its_lengths_leaves_a_doubt(pair: Path):
    at = of_log(summary([1.0], prompt_tokens=None), LIMITS)
    assert fleets_of(pair, at)["response"].doubts == (
        "its servers were measured with 48 tokens read a request, and the log does not say how "
        "many it has; measure with the log: eval.serving.replay.log=FILE",
    )


def test_a_load_whose_queue_grew_does_not_lengthen_the_answers(make: Any, tmp_path: Path):
    natural = {"workload": WORKLOAD | {"length": "natural"}}
    one = server("student", 80, 20, 8.0, **natural)
    grew = loads(80, 20, [16.0], verdict="saturated", output_tokens=64)
    written(make, tmp_path, replace(one, points=[*one.points, *grew]))
    assert fleets_of(tmp_path, 1.0)["response"].tokens.output == 32


def test_requests_of_the_log_itself_leave_no_doubt_about_their_lengths(make: Any, tmp_path: Path):
    log = summary([1.0], prompt_tokens=TokenLengths(480.0, 480.0, 480.0, 480.0))
    of_log_a: dict[str, Any] = {"workload": WORKLOAD | {"replay_sha256": log.sha256}}
    written(make, tmp_path, server("student", 80, 20, 8.0, **of_log_a),
            server("teacher", 100, 60, 4.0))  # fmt: skip
    found = fleets_of(tmp_path, of_log(log, LIMITS))
    assert found["response"].doubts == () and found["teacher"].doubts != ()
    assert found["response"].why_no_break_even == "its teacher was measured with other lengths"


def test_a_log_that_comes_in_bursts_is_said_to_need_more_than_poisson_arrivals(pair: Path):
    student = fleets_of(pair, of_log(summary([1.0], dispersion=4.2), LIMITS))["response"]
    assert any(
        "The log comes in bursts" in remark and "4.2" in remark for remark in student.remarks
    )


def test_latencies_are_those_of_the_measured_load_at_or_above_a_replicas_part(pair: Path):
    student = fleets_of(pair, 6.0)["response"]
    assert student.at_peak is not None and student.at_peak["level"] == 8.0
    assert student.latency_s("ttft_p99_s").value == pytest.approx(0.1)


def test_closed_loops_decide_nothing_and_the_refusal_names_what_to_measure(
    make: Any, tmp_path: Path
):
    write_under_load(make.run(tmp_path / "0"), record("student", [point(4, 0.9)]))
    with pytest.raises(ValueError, match=r"closed loops alone.*eval\.serving\.rates_per_s"):
        fleets_of(tmp_path, 1.0)
    make.run(tmp_path / "bare" / "0")
    with pytest.raises(ValueError, match=r"no server was measured.*eval\.serving\.rates_per_s"):
        fleets_of(tmp_path / "bare", 1.0)


def test_a_teacher_without_an_open_loop_leaves_break_even_unknown_and_says_why(
    make: Any, tmp_path: Path
):
    written(make, tmp_path, server("student", 80, 20, 8.0), record("teacher", [point(4, 2.0)]))
    student = fleets_of(tmp_path, 1.0)["response"]
    assert student.requests.verdict == "unknown"
    assert student.why_no_break_even == (
        "its teacher was not measured in an open loop as it was trained"
    )


def test_a_teacher_in_four_bits_is_a_candidate_held_against_the_teacher_as_it_was_built(
    make: Any, tmp_path: Path
):
    int4 = replace(VLLM, quantization="int4")
    written(
        make, tmp_path, server("student", 80, 20, 8.0), server("teacher", 100, 60, 4.0),
        server("teacher", 90, 30, 6.0, engine=int4, key="teacher-int4"),
    )  # fmt: skip
    found = fleets_of(tmp_path, 3.0)
    assert list(found) == ["response", "teacher", "teacher in int4"]
    assert found["teacher in int4"].reference == "teacher"
    assert not found["teacher in int4"].is_reference
    assert math.isclose(found["teacher in int4"].j_per_request.number, 60)


def test_a_server_that_draws_more_does_so_at_each_rate_and_no_mean_of_rates_hides_it(
    make: Any, tmp_path: Path
):
    """Three servers draw 70, 80 and 90 W more than 20 J a request: 10 W apart at each rate, so half
    of the interval is 4.303 x 10 / sqrt(3) = 24.84 W at any load, also between two of them."""
    several = [
        replace(server("student", 80 + more_w, 20, 8.0), measurement=number)
        for number, more_w in enumerate((-10, 0, 10), start=1)
    ]
    written(make, tmp_path, *several)
    for rate in (4.0, 3.0, 1.5, 0.5):
        student = fleets_of(tmp_path, rate)["response"]
        assert student.j_per_request.value == pytest.approx((80 + 20 * rate) / rate)
        half_w = student.j_per_request.random_half_width * rate
        assert half_w == pytest.approx(24.84, rel=1e-3)
    # Parking of one is not known: half way between the knots, the halves of both add.
    without = replace(several[0], parking_power_w=Figure(None))
    written(make, tmp_path / "b", without, *several[1:])
    student = fleets_of(tmp_path / "b", 0.5)["response"]
    parked_sd_w, loaded_sd_w = 5.0, 10 / math.sqrt(3)
    half_w = 12.706 * (parked_sd_w + loaded_sd_w) / 2
    assert student.j_per_request.random_half_width * 0.5 == pytest.approx(half_w, rel=1e-3)


def test_seeds_that_write_lengths_of_their_own_are_one_candidate_of_their_mean(
    make: Any, tmp_path: Path
):
    """At 4 requests/s one seed draws 160 W and the other 200 W: 45 J a request, with the interval
    of two draws, 12.7 x 5 J."""
    natural: dict[str, Any] = {"workload": WORKLOAD | {"length": "natural"}}
    for seed, j_a_request in enumerate((20, 30)):
        folder = tmp_path / str(seed)
        one = server("student", 80, j_a_request, 8.0, key=f"student-{seed}", **natural)
        write_under_load(make.run(folder, seed=seed, student_key=folder.name), one)
    (student,) = fleets_of(tmp_path, 4.0).values()
    assert student.replica.runs == ("0", "1") and student.replica.curve.num_servers == 2
    assert student.j_per_request.value == pytest.approx(45)
    assert student.j_per_request.random_half_width == pytest.approx(63.5, rel=0.01)


def test_seeds_on_two_hosts_of_one_kind_are_one_candidate_whose_calibration_does_not_cancel(
    make: Any, tmp_path: Path
):
    """At 4 requests/s one host draws 160 W and the other 240 W: 50 J a request. With one of them
    alone it would be 40 J, and known to 1 %."""
    teacher = server("teacher", 100, 60, 4.0, host="node7")
    for seed, (host, j_a_request) in enumerate((("node7", 20), ("node8", 40))):
        folder = tmp_path / str(seed)
        one = server("student", 80, j_a_request, 8.0, key=f"student-{seed}", host=host)
        write_under_load(make.run(folder, seed=seed, student_key=folder.name), one, teacher)
    found = fleets_of(tmp_path, 4.0)
    student = found["response"]
    assert student.replica.runs == ("0", "1") and student.replica.curve.num_servers == 2
    assert student.j_per_request.value == pytest.approx(50)
    assert student.j_per_request.random_half_width == pytest.approx(127, rel=0.01)
    assert student.replica.machine[0] is None
    assert found["teacher"].replica.machine[0] == "node7"


def test_arrivals_as_asked_for_are_preferred_and_others_answer_where_these_do_not(
    make: Any, tmp_path: Path
):
    """Under Poisson arrivals it draws 20 J more a request, replayed it draws 30 J."""
    replayed = server("student", 80, 30, 8.0, key="r", of_points={"load": "replay"})
    written(make, tmp_path, server("student", 80, 20, 8.0), replayed)
    assert fleets_of(tmp_path, 4.0)["response"].j_per_request.value == pytest.approx(40)
    at = of_log(summary([4.0], peak_rate_per_s=4.0), LIMITS)
    assert fleets_of(tmp_path, at)["response"].j_per_request.value == pytest.approx(50)
    failed = server("student", 80, 30, 8.0, key="r",
                    of_points={"load": "replay", "verdict": "saturated"})  # fmt: skip
    written(make, tmp_path / "b", server("student", 80, 20, 8.0), failed)
    assert fleets_of(tmp_path / "b", at)["response"].j_per_request.value == pytest.approx(40)


@pytest.mark.parametrize(("own", "is_said"), [(None, True), (2, False)])
def test_gpus_of_a_job_that_a_server_may_not_use_are_said_to_count(
    make: Any, tmp_path: Path, own: int | None, is_said: bool
):
    one = server("student", 80, 20, 8.0, gpus=["NVIDIA H100", "NVIDIA H100"])
    written(make, tmp_path, replace(one, num_gpus_of_server=own))
    fleet = fleets_of(tmp_path, 1.0)["response"]
    assert fleet.num_gpus == 2
    assert any("How many of the 2 GPUs" in remark for remark in fleet.remarks) == is_said
