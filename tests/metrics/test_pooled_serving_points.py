"""Measurements of one load as one: means over servers, and whose error is the wider."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from kdwatts.metrics.pooled_serving_points import pooled_points
from kdwatts.metrics.student_t import t_quantile
from kdwatts.records.serving_record import Figure, Percentiles, ServingPoint


def _point(j_per_token: float | None, *, sd: float = 0.001, **fields: Any) -> dict[str, Any]:
    figure = Figure(j_per_token, 0, 1, sd, 0.05 * (j_per_token or 0), 19.0, "measured")
    settings = {"verdict": "steady", "energy_quality": "measured", "completed": 100} | fields
    return asdict(ServingPoint("closed", 4.0, j_per_token=figure, **settings))


def test_three_servers_are_the_mean_of_their_means_with_two_degrees_of_freedom():
    pooled = pooled_points([_point(0.9), _point(1.0), _point(1.1)])
    figure = pooled["j_per_token"]
    assert (figure["value"], figure["degrees"]) == (pytest.approx(1.0), 2)
    assert figure["random_sd"] == pytest.approx(0.1 / 3**0.5)
    assert figure["shared_sd"] == pytest.approx(0.05)
    half = ((t_quantile(2) * 0.1 / 3**0.5) ** 2 + (1.959964 * 0.05) ** 2) ** 0.5
    assert figure["high"] == pytest.approx(1.0 + half)
    assert (pooled["measurements"], pooled["completed"]) == (3, 300)


def test_the_errors_of_single_servers_count_where_servers_happen_to_agree():
    """Three servers of one mean; each is known to 0.3, so the mean is to 0.3 / sqrt(3)."""
    figure = pooled_points([_point(1.0, sd=0.3)] * 3)["j_per_token"]
    assert figure["random_sd"] == pytest.approx(0.3 / 3**0.5)
    assert figure["degrees"] == pytest.approx(57)
    assert figure["low"] >= 0


def test_a_percentile_is_the_mean_of_percentiles():
    points = [
        _point(1.0, ttft_s=Percentiles(p99=Figure(seconds, 0.1, 0.9)))
        for seconds in (0.2, 0.3, 0.4)
    ]
    p99 = pooled_points(points)["ttft_s"]["p99"]
    assert p99["value"] == pytest.approx(0.3)
    assert p99["high"] == pytest.approx(0.3 + t_quantile(2) * 0.1 / 3**0.5)


def test_a_p99_of_few_requests_gets_no_upper_end_from_the_spread_of_servers():
    points = [
        _point(1.0, ttft_s=Percentiles(Figure(0.1, 0.05, 0.2), p99=Figure(seconds, 0.1, high)))
        for seconds, high in ((0.2, 0.4), (0.3, None), (0.4, 0.5))
    ]
    pooled = pooled_points(points)["ttft_s"]
    assert (pooled["p99"]["value"], pooled["p99"]["high"]) == (pytest.approx(0.3), None)
    assert pooled["p50"]["high"] is not None


def test_a_single_measurement_stays_as_it_is():
    point = _point(1.0)
    assert pooled_points([point]) == point | {"measurements": 1}


def test_estimated_joules_are_not_mixed_with_measured_ones():
    pooled = pooled_points([_point(9.0, energy_quality="estimated"), _point(1.0), _point(1.2)])
    assert pooled["j_per_token"]["value"] == pytest.approx(1.1)
    assert pooled["measurements"] == 2
    assert "1 of 3 measurements have joules of another quality than measured" in str(pooled)


def test_a_share_of_sensors_names_the_mean_of_sensors():
    pooled = pooled_points([_point(1.0, energy_quality="attributed"), _point(1.2)])
    assert (pooled["energy_quality"], pooled["measurements"]) == ("attributed", 2)


@pytest.mark.parametrize("other", [{"scope": "gpu"}, {"energy_j": {"gpu": 9.0, "cpu": None}}])
def test_joules_of_a_gpu_alone_are_not_mixed_with_those_of_gpu_and_cpu(other):
    whole = {"scope": "gpu; cpu", "energy_j": {"gpu": 9.0, "cpu": 3.0}}
    points = [_point(1.2, **whole), _point(0.9, **whole | other), _point(1.4, **whole)]
    pooled = pooled_points(points)
    assert (pooled["j_per_token"]["value"], pooled["measurements"]) == (pytest.approx(1.3), 2)
    assert "1 of 3 measurements have joules of other components" in str(pooled["remarks"])


def test_a_failed_server_is_left_out_and_the_worst_verdict_counts():
    pooled = pooled_points(
        [_point(None, verdict="failed"), _point(1.0), _point(1.2, verdict="saturated")]
    )
    assert (pooled["verdict"], pooled["measurements"]) == ("saturated", 2)
    assert pooled["remarks"] == ["1 of 3 measurements failed and are left out."]


def test_only_failed_servers_have_no_figure():
    pooled = pooled_points([_point(None, verdict="failed")] * 2)
    assert (pooled["verdict"], pooled["j_per_token"]["value"]) == ("failed", None)


def test_what_one_server_lacks_is_missing_from_the_mean():
    pooled = pooled_points([_point(1.0), _point(None)])
    assert pooled["j_per_token"]["value"] is None
    assert pooled["j_per_token"]["high"] is None


def test_counts_and_joules_add_up_and_kinds_of_failure_do():
    points = [
        _point(1.0, energy_j={"gpu": 10.0, "cpu": None}, failures={"timeout": 1}, failed=1),
        _point(1.0, energy_j={"gpu": 12.0, "cpu": None}, failures={"refused": 2}, failed=2),
    ]
    pooled = pooled_points(points)
    assert pooled["energy_j"] == {"gpu": 22.0, "cpu": None}
    assert pooled["failures"] == {"timeout": 1, "refused": 2}
    assert pooled["failed"] == 3


def test_servers_that_kept_every_request_have_a_share_known_by_their_number_of_requests():
    pooled = pooled_points([_point(1.0, good_share=Figure(1.0, 0.96, 1.0))] * 3)["good_share"]
    assert pooled["low"] == pytest.approx(0.025 ** (1 / 300))
    assert pooled["high"] == 1.0


def test_part_of_a_miss_among_attempts_that_count_as_fewer_is_not_rounded_away():
    """0.4 misses in 100 each are 1.2 in 300, and not none."""
    points = [_point(1.0, good_share=Figure(0.996), independent_attempts=100)] * 3
    assert pooled_points(points)["good_share"]["low"] == pytest.approx(0.9804, abs=1e-4)


def test_what_is_pooled_can_be_pooled_from_json():
    points = [json.loads(json.dumps(_point(value))) for value in (0.9, 1.1)]
    assert json.loads(json.dumps(pooled_points(points)))["j_per_token"]["value"] == 1.0


def test_points_of_two_loads_are_refused():
    other = asdict(ServingPoint("closed", 8.0, "steady"))
    with pytest.raises(ValueError, match=r"points of the loads .*; give those of one"):
        pooled_points([_point(1.0), other])
    with pytest.raises(ValueError, match="0 points given; give at least one"):
        pooled_points([])
