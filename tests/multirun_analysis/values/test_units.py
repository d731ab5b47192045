import pytest

from multirun_analysis.values import units


@pytest.mark.parametrize(
    ("energy_j", "shown"),
    [
        (0, "0 J"),
        (412_345.0, "412 kJ"),
        (999.0, "999 J"),
        (999.6, "1.00 kJ"),
        (3.1e6, "3.10 MJ"),
        (0.0521, "52.1 mJ"),
        (None, "-"),
    ],
)
def test_energy_has_three_digits_and_a_fitting_prefix(energy_j, shown):
    assert units.energy(energy_j) == shown


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (0.9712, 0.0081, "0.971 ± 0.008"),
        (412.3, 21.4, "412 ± 21"),
        (412.3, 57.0, "410 ± 60"),
        (1.5, None, "1.50"),
        (209.0, 1e-14, "209"),
        (4.91, 33.4, "4.9 ± 33"),
        (None, 1.0, "-"),
    ],
)
def test_a_value_ends_where_its_error_begins(value, error, shown):
    assert units.with_error(value, error) == shown


def test_an_error_has_the_prefix_of_its_value():
    assert units.energy(412_300.0, error_j=21_400.0) == "412 ± 21 kJ"
    assert units.energy(0.996, error_j=0.49) == "1.0 ± 0.5 J"


def test_a_kilojoule_is_278_mwh_and_3_6_mj_are_1_kwh():
    assert units.watt_hours(1000.0) == "278 mWh"
    assert units.watt_hours(3.6e6) == "1.00 kWh"


def test_durations_read_in_seconds_minutes_and_hours():
    assert [units.duration(s) for s in (42, 720, 12240, None)] == [
        "42.0 s",
        "12.0 min",
        "3.40 h",
        "-",
    ]


def test_a_difference_shows_its_sign():
    assert units.signed(4120.0, "J", error=310.0) == "+4.1 ± 0.3 kJ"
    assert units.signed(-4.0, "%", prefixed=False) == "-4.00 %"
    assert units.signed(0.012, "", prefixed=False) == "+0.0120"


def test_one_is_singular_and_all_others_are_plural():
    assert [units.count(number, "run") for number in (0, 1, 2, 1500)] == [
        *("0 runs", "1 run", "2 runs", "1,500 runs")
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (12.34, "12.3"),
        (2.5, "2.5"),
        (690_123.0, "690,000"),
        (999_600.0, "1 million"),
        (1.2851e6, "1.29 million"),
        (365e9, "365 billion"),
        (5e15, "5,000 trillion"),
        (None, "-"),
    ],
)
def test_a_count_is_told_in_common_words(value, words):
    assert units.plain_count(value) == words


def test_an_interval_and_its_middle_have_the_digits_of_half_its_width():
    assert units.with_ends(0.6042, 0.5221, 0.6942) == "0.60 (0.52 to 0.69)"
    assert units.with_ends(1.5474, 0.9089, 2.185) == "1.5 (0.9 to 2.2)"
    assert units.with_ends(23_840.0, 12_350.0, 55_000.0) == "24,000 (12,000 to 55,000)"
    assert units.with_ends(0.5, None, None) == "0.500"
    assert units.with_ends(7.0, -0.2, 14.1) == "7 (0 to 14)"
