"""A log as a figure and as sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kdwatts.metrics.fleet import Stretch
from multirun_analysis.figures.traffic_by_hour import traffic_by_hour
from multirun_analysis.narrative.traffic_words import traffic_words
from multirun_analysis.values.rows import to_rows
from tests.multirun_analysis.written_candidates import DAY


def test_the_bars_of_a_day_hold_all_of_its_requests():
    table = traffic_by_hour(DAY).table
    assert len(table) == 24
    rows = to_rows(table)
    assert sum(row["requests_per_s"] * row["duration_s"] for row in rows) == 403_200


def test_a_last_hour_that_is_shorter_has_a_bar_that_is_narrower_and_begins_where_it_began():
    short = replace(DAY, hours=(Stretch(3600.0, 4.0), Stretch(900.0, 8.0)))
    figure: Any = traffic_by_hour(short).figure
    (bars,) = figure.data
    assert bars.width[1] == pytest.approx(bars.width[0] / 4)
    assert tuple(bars.x) == (0.5, 1.125) and tuple(bars.y) == (4.0, 8.0)
    assert tuple(figure.layout.xaxis.range) == (0, 1.25)


def test_the_lines_across_the_hours_are_the_mean_and_the_peak():
    figure: Any = traffic_by_hour(DAY).figure
    assert [shape.y0 for shape in figure.layout.shapes] == [DAY.rate_per_s, 12.0]
    assert [note.text for note in figure.layout.annotations] == ["mean 4.67/s", "peak 12.0/s"]


def test_a_log_is_said_in_rates_lengths_and_bursts():
    assert traffic_words(replace(DAY, num_left_out=3)) == [
        "The log (kdwatts, sha256 000000000000) has 403,200 requests in 1,234 sessions in 24.0 h; "
        "3 rows of it are left out as no requests.",
        "That is 4.67 a second in the mean, and 12.0 in the busiest 300 s.",
        "Prompts have 600 tokens in the mean, half of them up to 512, 95 of 100 up to 1,500, 99 up "
        "to 2,400.",
        "Answers have 250 tokens in the mean, half of them up to 210, 95 of 100 up to 600, 99 up "
        "to 900.",
        "Bursts: variance over mean of the requests in 1 s: 1.2; standard deviation over mean of "
        "the gaps: 1.1. Poisson arrivals have 1.",
    ]


def test_what_a_log_does_not_say_is_said_to_be_missing():
    bare = replace(DAY, prompt_tokens=None, output_tokens=None, num_sessions=None,
                   dispersion=None, gap_cv=None)  # fmt: skip
    said = traffic_words(bare)
    assert said[2:] == [
        "Prompts: the log has texts and no lengths.",
        "Answers: the log does not say how long they were.",
    ]
    assert "session" not in said[0]
