"""The answer that a page works out by hand has the numbers that the code gives."""

from __future__ import annotations

import math

import pytest

from kdwatts.metrics.break_even import apart_from_serving, tokens_to_break_even
from kdwatts.metrics.fleet import (
    USED_SHARE,
    Knot,
    Stretch,
    fleet_energy,
    price_of_a_million,
    replicas,
)
from kdwatts.metrics.footprint import J_PER_KWH, co2e_kg, water_l
from kdwatts.metrics.quantity import Quantity, difference, scaled
from kdwatts.metrics.significant_digits import significant, with_error
from multirun_analysis.statistics.savings import absolute_interval
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/how_to/size_a_service.md").read_text("utf-8")
ANSWER = PAGE.partition("\n## One answer by hand\n")[2].partition("\n## ")[0]
ANSWER = ANSWER.replace("\u00d7", "x")  # The sign of a product.

BUSY, QUIET = Stretch(8 * 3600, 10.0), Stretch(16 * 3600, 2.0)
DAY = (BUSY, QUIET)
PEAK_PER_S, CAPACITIES_PER_S = 12.0, (4.0, 10.0)
READ, WRITTEN = 600, 250
REQUESTS = sum(one.duration_s * one.rate_per_s for one in DAY)
POWERS_W = (
    {0.0: 150.0, 1.0: 300.0, 3.0: 450.0, 4.0: 500.0},
    {0.0: 120.0, 2.0: 220.0, 6.0: 360.0, 10.0: 480.0},
)
"""Of the teacher and of the student, by requests a second of one replica."""
ERRORS_W = (3.0, 2.0)
BUILDING = Quantity(720e6, 3.6e6, 7.2e6, "J")
PUE, USD_PER_KWH, G_PER_KWH, WUE, USD_PER_GPU_HOUR = 1.3, 0.12, 400.0, 1.1, 2.5

KNOTS = [
    [Knot(rate, Quantity(watts, error, 0.01 * watts, "W")) for rate, watts in powers.items()]
    for powers, error in zip(POWERS_W, ERRORS_W, strict=True)
]
NUMBERS = [replicas(PEAK_PER_S, capacity) for capacity in CAPACITIES_PER_S]
DAY_J = [fleet_energy(knots, DAY, num) for knots, num in zip(KNOTS, NUMBERS, strict=True)]
A_REQUEST = [scaled(energy, 1 / REQUESTS, unit="J/request") for energy in DAY_J]
SAVED = difference(*A_REQUEST)
REPAID = tokens_to_break_even(BUILDING, *A_REQUEST)


def both(template: str, *columns: tuple) -> list[str]:
    """A cell of the teacher and one of the student."""
    return [template.format(*found) for found in zip(*columns, strict=True)]


def has_row(head: str, cells: list[str]) -> None:
    assert f"\n| {head} | {' | '.join(cells)} |\n" in ANSWER


def watts(stretch: Stretch) -> tuple[float, ...]:
    """What all replicas of the teacher, and of the student, draw in a stretch."""
    found = [fleet_energy(k, [stretch], n) for k, n in zip(KNOTS, NUMBERS, strict=True)]
    return tuple(one.number / stretch.duration_s for one in found)


def test_the_page_states_the_log_and_what_was_measured_as_they_are_computed_with():
    assert f"= {REQUESTS:,.0f} requests." in ANSWER
    assert f"A request has {READ} tokens of prompt and {WRITTEN} of answer" in ANSWER
    assert f"it is {PEAK_PER_S:g} a second" in ANSWER
    has_row("capacity within the SLO, requests/s", both("{:g}", CAPACITIES_PER_S))
    for number, head in enumerate(("at a low rate", "at a middle rate", "at capacity"), start=1):
        steps = [list(powers.items())[number] for powers in POWERS_W]
        has_row(f"power {head}", [f"{power:g} W at {rate:g}/s" for rate, power in steps])
    has_row("power, parked", [f"{powers[0.0]:g} W" for powers in POWERS_W])
    has_row("standard error of each power", both("{:g} W", ERRORS_W))
    words = f"took {BUILDING.number / 1e6:g} MJ ({BUILDING.number / J_PER_KWH:g} kWh), with a "
    assert f"{words}standard error of 3.6 MJ" in ANSWER and BUILDING.random_sd == 3.6e6


def test_replicas_and_parked_power_on_the_page_are_those_of_the_formula():
    teacher, student = NUMBERS
    shares = [USED_SHARE * capacity for capacity in CAPACITIES_PER_S]
    has_row("replicas", [f"12 / {shares[0]:g} = {teacher}", f"12 / {shares[1]:g} = 1.6, so 2"])
    assert student == 2 and pytest.approx(1.6) == PEAK_PER_S / shares[1]
    has_row("GPUs", both("{}", tuple(NUMBERS)))
    parked = tuple(powers[0.0] for powers in POWERS_W)
    totals = tuple(n * w for n, w in zip(NUMBERS, parked, strict=True))
    has_row("parked power of all", both("{} x {:g} = {:g} W", tuple(NUMBERS), parked, totals))
    saved_j = (totals[0] - totals[1]) / (REQUESTS / 86400)
    assert f"(600 - 240) W / {REQUESTS / 86400:.3f} requests/s = {saved_j:.1f} J" in ANSWER
    assert [replicas(15.1, capacity) for capacity in CAPACITIES_PER_S] == [6, 3]


@pytest.mark.parametrize(("stretch", "name"), [(BUSY, "busy"), (QUIET, "quiet")])
def test_watts_and_joules_of_each_stretch_on_the_page_are_those_of_the_fleet(stretch, name):
    all_w = watts(stretch)
    one_w = tuple(total / num for total, num in zip(all_w, NUMBERS, strict=True))
    (drawn,) = [line for line in ANSWER.splitlines() if line.startswith(f"| {name}: it draws |")]
    assert [cell.strip().rpartition(" = ")[2] for cell in drawn.split("|")[2:4]] == both(
        "{:g} W", one_w
    )
    cells = both("{} x {:g} = {:,.0f} W", tuple(NUMBERS), one_w, all_w)
    has_row(f"{name}: all draw", cells)
    joules = tuple(stretch.duration_s * total / 1e6 for total in all_w)
    has_row(f"{name}: {stretch.duration_s:,.0f} s", both("{:.2f} MJ", joules))


def test_joules_of_a_request_and_their_errors_on_the_page_are_those_of_the_fleet():
    has_row("the day", [f"{energy.number / 1e6:.2f} MJ" for energy in DAY_J])
    has_row("J/request: over 403,200", [f"{one.number:.1f} J" for one in A_REQUEST])
    sds = [one.random_sd or 0.0 for one in A_REQUEST]
    has_row("standard error, J/request", [f"{sd:.2f}" for sd in sds])
    halves = [one.random_half_width for one in A_REQUEST]
    has_row(
        "J/request",
        [with_error(one.number, half) for one, half in zip(A_REQUEST, halves, strict=True)],
    )
    alone = [absolute_interval(one) for one in A_REQUEST]
    has_row(
        "with the meter's 1 %",
        [f"{significant(one.low or 0)} to {significant(one.high or 0)}" for one in alone],
    )
    by_hand = 3 * math.hypot(115_200, 144_000, 86_400)
    assert DAY_J[0].random_sd == pytest.approx(by_hand)
    assert f"= {by_hand / 1e6:.3f} MJ, or {sds[0]:.2f} J/request" in ANSWER


def test_price_co2e_and_water_on_the_page_are_those_of_the_formulas():
    prices = [
        price_of_a_million(
            num_gpus=num, seconds=86400, output_tokens=REQUESTS * WRITTEN, energy_j=energy.value,
            usd_per_gpu_hour=USD_PER_GPU_HOUR, pue=PUE, usd_per_kwh=USD_PER_KWH,
        )
        for num, energy in zip(NUMBERS, DAY_J, strict=True)
    ]  # fmt: skip
    rent = tuple(price.rent_usd for price in prices)
    has_row("rent of a million output tokens", both("{:.2f} USD", rent))
    electricity = tuple(price.electricity_usd for price in prices)
    has_row("electricity of a million output tokens", both("{:.4f} USD", electricity))
    has_row("kWh of the day", [f"{energy.number / J_PER_KWH:.2f}" for energy in DAY_J])
    joules = [one.value for one in A_REQUEST]
    co2e = [co2e_kg(j, pue=PUE, grid_gco2e_per_kwh=G_PER_KWH) or 0.0 for j in joules]
    has_row("CO2e a request: kWh x PUE x g/kWh", [f"{1e6 * kg:.1f} mg" for kg in co2e])
    water = [water_l(j, wue_l_per_kwh=WUE) or 0.0 for j in joules]
    has_row("water a request: kWh x litres/kWh", [f"{1e3 * each:.4f} ml" for each in water])


def test_break_even_on_the_page_is_that_of_fieller():
    half = SAVED.random_half_width or 0.0
    teacher, student = (one.number for one in A_REQUEST)
    assert f"A request saves {teacher:.2f} - {student:.2f} = {SAVED.number:.2f} J." in ANSWER
    assert f"± {half:.2f} J" in ANSWER
    heads = {
        "requests: 720 MJ / 151.43 J": (1e6, " million", 2),
        "tokens: requests x 850": (1e9 / (READ + WRITTEN), " billion", 2),
        "days: requests / 403,200": (REQUESTS, "", 1),
    }
    for head, (unit, name, digits) in heads.items():
        found = (REPAID.value, REPAID.low, REPAID.high)
        value, low, high = (f"{(end or 0.0) / unit:.{digits}f}" for end in found)
        has_row(head, [f"{value}{name}", f"{low} to {high}{name}"])
    building = apart_from_serving(BUILDING).random_half_width or 0.0
    shares = (half / SAVED.number, building / BUILDING.number)
    assert [f"{share:.1%}".replace("%", " %") for share in shares] == ["2.1 %", "2.2 %"]
    assert "151.43 = 2.1 %. Building is known to 2.2 %" in ANSWER
