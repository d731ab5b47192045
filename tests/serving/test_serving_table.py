"""The table of `python -m kdwatts.serving`: values, their spread, and what is common to all."""

from __future__ import annotations

from dataclasses import replace

from kdwatts.records.serving_record import (
    Capacity,
    EngineRecord,
    Figure,
    Percentiles,
    ServingPoint,
    ServingRecord,
)
from kdwatts.serving.serving_table import table

POINT = ServingPoint(
    load="closed",
    level=4.0,
    verdict="steady",
    completed=120,
    energy_quality="estimated",
    j_per_output_token=Figure(0.5, 0.0, 1.1, 0.01, 0.25, degrees=None),
    power_w=Figure(20.0, 0.0, 40.0, 0.1, 10.0, degrees=None),
    ttft_s=Percentiles(p50=Figure(0.25), p99=Figure(0.75)),
)
RECORD = ServingRecord(
    "model", EngineRecord("vllm", "0.32.0", [], "float32", None), {}, {}, [POINT]
)


def test_the_spread_stands_beside_a_value_and_the_meters_error_once_above_all():
    head, names, line, idle = table([RECORD]).splitlines()
    assert head == (
        "vllm 0.32.0; joules are estimated; all may be off together by 50 % "
        "(one standard deviation)"
    )
    assert names.split("  ")[0] == "load"
    assert "4 at once" in line and "0.500 ± 0.020" in line and "20.00 ± 0.20" in line
    assert line.split()[-2:] == ["120", "0"]
    assert idle == "idle server: - W"


def test_a_missing_figure_is_a_dash_and_no_zero():
    bare = replace(POINT, verdict="failed", completed=0, j_per_output_token=Figure(None))
    line = table([replace(RECORD, points=[bare])]).splitlines()[2]
    assert line.split()[:5] == ["4", "at", "once", "failed", "-"]


def test_no_number_stands_in_powers_of_ten():
    fast = replace(POINT, output_tokens_per_s=Figure(12351.0, random_sd=60.0))
    tiny = replace(POINT, j_per_token=Figure(0.000027, random_sd=0.000001))
    text = table([replace(RECORD, points=[fast, tiny])])
    assert "12,350 ± 120" in text and "0.0000270 ± 0.0000020" in text


def test_each_verdict_of_a_capacity_has_a_sentence_of_its_own():
    cases = {
        "found": (Capacity(2.0, 3.0, "found", [POINT]), "2 requests/s keep the SLO, 3 do not"),
        "above": (Capacity(2.0, None, "above", [POINT]), "at least 2 requests/s, all rates kept"),
        "none": (Capacity(None, 0.5, "none", [POINT]), "no rate kept the SLO, down to 0.5"),
        "undecided": (
            Capacity(None, None, "undecided", [POINT], "9 of 299"),
            "undecided; 9 of 299 (1 more rate tried)",
        ),
    }
    for capacity, words in cases.values():
        assert words in table([replace(RECORD, capacity=capacity)]).splitlines()[-1]


def test_a_remark_names_the_loads_that_it_is_of():
    alone = replace(POINT, level=1.0, remarks=["One batch.", "Too short."])
    open_loop = replace(POINT, load="poisson", level=0.5, remarks=["Too short."])
    lines = table([replace(RECORD, points=[alone, open_loop])]).splitlines()
    assert lines[-3:-1] == ["- 1 at once: One batch.", "- 1 at once, 0.5/s poisson: Too short."]


def test_the_estimate_of_an_idle_server_is_said_to_lack_idle_power():
    guessed = replace(RECORD, parking_power_w=Figure(0.01, quality="estimated"))
    idle = table([guessed]).splitlines()[-1]
    assert idle == "idle server: 0.0100 W, an estimate from CPU time without idle power"


def test_several_servers_are_numbered():
    both = table([RECORD, replace(RECORD, measurement=2)])
    assert [line.split(";")[0] for line in both.splitlines() if "; joules" in line] == [
        "vllm 0.32.0, server 1",
        "vllm 0.32.0, server 2",
    ]
