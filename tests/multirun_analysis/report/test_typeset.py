"""Tables that are read: columns with units, numbers rounded to their errors, joules marked."""

from __future__ import annotations

import pandas as pd
import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.figures.differences import differences
from multirun_analysis.report.page import exhibits_of
from multirun_analysis.report.table_layouts import layout_of
from multirun_analysis.report.typeset import (
    Layout,
    joules,
    numbers_of,
    once_per,
    plain,
    typeset,
    whole,
    with_interval,
)


def test_joules_have_the_prefix_of_the_largest_and_the_digits_of_their_error():
    table = pd.DataFrame({"run": ["a", "b"], "own_j": [412_345.0, 20_600.0], "sd_j": [21e3, 1100]})
    found = typeset(table, Layout([plain("run", "Run"), joules("own_j", "Energy", error="sd_j")]))
    assert found.heads == ["Run", "Energy (kJ)"]
    assert found.rows == [["a", "412 ± 21"], ["b", "20.6 ± 1.1"]]
    assert (found.align, found.subjects) == ("lr", ["a", "b"])


def test_joules_that_are_not_measured_have_a_mark_that_the_note_explains():
    table = pd.DataFrame({"e": [1.0, 2.0, 3.0], "energy_class": ["estimated", "measured", "mixed"]})
    found = typeset(table, Layout([joules("e", "Energy")], "One run each."))
    assert found.rows == [["1.00†"], ["2.00"], ["3.00‡"]]
    assert found.note == (
        "One run each. † estimated, not measured. ‡ a sum of measured and estimated parts."
    )
    measured = pd.DataFrame({"e": [2.0], "energy_class": ["measured"]})
    assert typeset(measured, Layout([joules("e", "Energy")])).note == ""


def test_an_interval_has_no_finer_digits_than_its_half_width():
    table = pd.DataFrame({"v": [0.6042, 0.5], "low": [0.5221, None], "high": [0.6942, None]})
    columns = [with_interval("v", "OM_perf", "low", "high")]
    assert typeset(table, Layout(columns)).rows == [["0.60 (0.52 to 0.69)"], ["0.500"]]
    percent = [with_interval("v", "Kept (%)", "low", "high", scale=100)]
    assert typeset(table, Layout(percent)).rows == [["60 (52 to 69)"], ["50.0"]]


def test_thousands_are_apart_and_a_column_that_says_nothing_is_left_out():
    table = pd.DataFrame({"tokens": [301_056, 5], "nothing": [None, None]})
    found = typeset(table, Layout([whole("tokens", "Tokens"), plain("nothing", "Nothing")]))
    assert (found.heads, found.rows) == (["Tokens"], [["301,056"], ["5"]])


def test_what_is_the_same_in_all_rows_is_said_once():
    table = pd.DataFrame({"model": ["tiny", "tiny"], "gpu": ["h100", "cpu"], "batch": [8, 8]})
    columns = [plain("model", "Pair", folds=True), plain("gpu", "GPU", folds=True)]
    found = typeset(table, Layout([*columns, whole("batch", "Batch size", folds=True)]))
    assert (found.heads, found.rows) == (["GPU"], [["h100"], ["cpu"]])
    assert found.note == "In all rows: pair tiny, batch size 8."


def test_of_a_curve_the_answer_of_each_setting_is_read_once():
    table = pd.DataFrame({"setting": ["a", "a", "b"], "place": [1, 2, 1]})
    layout = Layout([plain("setting"), plain("place")], rows=once_per("setting"))
    assert typeset(table, layout).rows == [["a", "1"], ["b", "1"]]


def test_every_exhibit_of_a_report_has_columns_chosen_for_it(sweep):
    for name, exhibit in exhibits_of(sweep).items():
        assert layout_of(name) is not None, name
        found = numbers_of(exhibit.table, layout_of(name))
        assert found.rows and len(found.columns) <= 9, name
        assert not any("_" in head.replace("OM_perf", "").replace("Eff_o", "")
                       for head in found.columns), name  # fmt: skip


@pytest.mark.parametrize("name", ["loss_curves-response-250-W", "quality_against_joules-sft"])
def test_the_curves_of_one_setting_are_laid_out_like_those_of_all(name):
    assert layout_of(name) is layout_of(name.partition("-")[0]) is not None


def test_accuracy_kept_and_the_plain_ratio_of_a_setting_stand_in_one_row():
    row = {"group": "k", "setting": "sft", "num_seeds": 3, "at_chance": None}
    table = pd.DataFrame(
        [
            row | {"form": "accuracy_kept", "value": 0.27, "low": -0.01, "high": 0.56},
            row | {"form": "om_perf", "value": 0.49, "low": 0.29, "high": 0.69},
        ]
    )
    found = numbers_of(table, layout_of("accuracy_kept"))
    assert found.columns == ["Setting", "Seeds", "Accuracy kept (%)", "OM_perf"]
    assert found.rows == [("k", ["sft", "3", "27 (-1 to 56)", "0.49 (0.29 to 0.69)"])]


def test_a_difference_of_joules_is_marked_where_they_are_estimated(make, tmp_path):
    for seed in range(2):
        for paradigm, own_j in (("sft", 100.0), ("response", 120.0 + seed)):
            make.run(
                tmp_path / f"{paradigm}{seed}", paradigm=paradigm, seed=seed,
                student_key=f"{paradigm}{seed}", own_energy_j=own_j, own_energy_quality="estimated",
            )  # fmt: skip
    found = numbers_of(differences(collect([tmp_path]).runs).table, layout_of("comparisons"))
    rows = {row[0]: row for _, row in found.rows}
    # 20 and 21 J: 12.706 times 0.5 J of their mean, 20.5 J.
    assert rows["own energy"][2] == "+20 ± 6 J†"
    assert "†" not in rows["accuracy kept"][2] and "† estimated" in found.note
