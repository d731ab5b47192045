"""A year of service: kWh, money and days, as far as the joules carry them."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from multirun_analysis.collect.collection import collect
from multirun_analysis.statistics.served import by_machine
from multirun_analysis.statistics.site import Site
from multirun_analysis.values.rows import to_rows
from tests.multirun_analysis.page_words import section_of, words_of

SITE = Site("here", 100.0, 2.0, price_usd_per_kwh=0.25, price_source="a tariff")
SERVED = {"student_total_j_per_token": 1.0, "teacher_total_j_per_token": 3.0}
INHERITED = {"inherited_energy_j": 0.0, "inherited_energy_by_artifact_j": {}}
KNOWN = {"own_energy_random_sd_j": 0.0, "own_energy_shared_sd_j": 0.0}
KEPT = {
    "accuracy_kept": 0.8,
    "accuracy_kept_low": 0.7,
    "accuracy_kept_high": 0.9,
    "teacher_at_chance": None,
    "student_at_chance": None,
}


def text_of(directory, site: Site | None = SITE, tokens_per_day: float = 36_000, **columns: Any):
    """The section's text. By default serving is known exactly, for all runs; `columns` change it,
    with a list for one value a run."""
    found = collect([directory])
    found = replace(found, runs=found.runs.copy())  # In one piece: columns are added below.
    for subject in ("student", "teacher"):
        pooled = {
            "j_per_token": found.runs[f"{subject}_total_j_per_token"],
            "random_sd_j": 0.0,
            "shared_sd_j": 0.0,
            "degrees": math.inf,
            "key": subject,
            "measurements": 3,
        }
        for name, value in pooled.items():
            found.runs[f"{subject}_served_{name}"] = value
        found.runs[f"{subject}_total_interval_95_j"] = 0.0
    for name, value in (KEPT | columns).items():
        found.runs[name] = value
    return words_of(section_of(found, "provider", site=site, tokens_per_day=tokens_per_day))


def test_a_year_of_service_is_kwh_and_money_of_the_student_beside_the_teacher(make, tmp_path):
    make.run(tmp_path / "0", own_energy_j=3.6e6, **SERVED, **INHERITED, **KNOWN)
    text = text_of(tmp_path)
    # 13.14 million tokens a year: 3.65 and 10.95 kWh; times PUE 2 and 0.25 USD/kWh 1.825 USD, and
    # three times that of the teacher. Building is 1 kWh, repaid after 3.6 MJ / 2 J = 50 days.
    assert re.search(r"80 % 70 to 90 % 3\.65 1\d\.\d+ 1\.00 50 \d+ to \d+ 1\.8\d 3\.65", text)
    assert "Price at here: 0.25 USD/kWh (a tariff), PUE 2." in text


def test_kwh_and_money_stand_with_the_intervals_of_their_joules(make, tmp_path):
    make.run(tmp_path / "0", own_energy_j=3.6e6, **SERVED, **INHERITED, **KNOWN)
    text = text_of(tmp_path, student_served_random_sd_j=0.1 / 1.96)
    # The student is known to 10 %: 3.29 to 4.02 kWh. What is saved is 2 +- 0.1 J of a token, so
    # 7.30 kWh to 5 %, and half a USD for each of them.
    assert "3.65 3.28 to 4.01" in text or "3.65 3.29 to 4.01" in text
    assert re.search(r"3\.65 3\.4[67] to 3\.83", text)


@pytest.mark.parametrize(
    "unsure",
    [
        {"student_served_random_sd_j": None},
        {"student_served_random_sd_j": 0.5, "student_served_degrees": 2.0},
    ],
)
def test_money_and_days_are_withheld_where_the_joules_are_unresolved(make, tmp_path, unsure):
    """4.303 times 0.5 J is above 3 - 1 J; one measurement alone has no spread at all."""
    make.run(tmp_path / "0", own_energy_j=3.6e6, **SERVED, **INHERITED, **KNOWN)
    cells = text_of(tmp_path, **unsure).split("response", 1)[1]
    assert cells.count("unresolved") == 3
    assert "50" not in cells and "1.82" not in cells


def test_the_setting_that_keeps_most_comes_first_and_then_the_one_that_needs_least(make, tmp_path):
    dear, cheap = 2.0e6, 1.0e6
    make.run(tmp_path / "0", paradigm="feature", own_energy_j=dear, **SERVED, **INHERITED)
    make.run(
        tmp_path / "1", paradigm="response", student_key="b", own_energy_j=cheap, **SERVED,
        **INHERITED,
    )  # fmt: skip

    def order(**columns):
        text = text_of(tmp_path, **columns)
        return sorted(("feature", "response"), key=text.index)

    assert order() == ["response", "feature"]
    assert order(accuracy_kept=[0.85, 0.8]) == ["feature", "response"]


def test_students_of_one_architecture_are_not_ranked_by_noise_of_their_own_measurement(
    make, tmp_path
):
    """Single measurements of 244 and 134 uJ/token; both are served for the pooled 189 uJ."""
    for name, paradigm, single, own_j in (("0", "sft", 244e-6, 1e3), ("1", "feature", 134e-6, 2e3)):
        make.run(
            tmp_path / name, paradigm=paradigm, student_key=name, own_energy_j=own_j,
            student_total_j_per_token=single, teacher_total_j_per_token=411e-6, **INHERITED,
        )  # fmt: skip
    text = text_of(tmp_path, tokens_per_day=1e12, student_served_j_per_token=189e-6)
    assert text.index("sft") < text.index("feature")
    assert text.count("19,200") == 2  # 365e12 tokens of 189 uJ.


def test_estimated_settings_stand_below_measured_ones(make, tmp_path):
    make.run(tmp_path / "0", paradigm="sft", own_energy_quality="estimated", **SERVED, **INHERITED)
    make.run(tmp_path / "1", paradigm="feature", student_key="b", **SERVED, **INHERITED)
    text = text_of(tmp_path, accuracy_kept=[0.9, 0.5])
    assert text.index("feature") < text.index("sft") and "measured and estimated" in text


def test_what_is_at_chance_is_marked(make, tmp_path):
    make.run(tmp_path / "0", paradigm="sft", **SERVED, **INHERITED)
    make.run(tmp_path / "1", paradigm="feature", student_key="b", **SERVED, **INHERITED)
    text = text_of(
        tmp_path,
        accuracy_kept=[None, 0.1],
        accuracy_kept_low=None,
        teacher_at_chance=['["mmlu"]', "[]"],
        student_at_chance=["[]", '["arc"]'],
    )
    assert "sft not known teacher at chance on mmlu" in text
    assert "feature 10.0 % interval unknown; at chance on arc" in text
    assert text.index("feature") < text.index("sft")


def test_the_point_that_answers_is_named_in_the_heading(make, tmp_path):
    make.run(tmp_path / "0", paradigm="sft", **SERVED)
    make.run(tmp_path / "1", paradigm="feature", student_key="b", **SERVED)
    point: dict[str, Any] = {"serving_prompt_tokens": 64, "serving_new_tokens": 32}
    heading = "A year of 36,000 tokens a day at batch size 8, 64 prompt and 32 new tokens"
    assert heading in text_of(tmp_path, serving_batch_size=8, **point)
    apart = text_of(tmp_path, serving_batch_size=[8, 16], **point)
    assert "a day Tokens are" in apart
    assert "feature at batch size 16, 64 prompt and 32 new tokens" in apart


def test_without_a_price_there_are_joules_and_no_money(make, tmp_path):
    make.run(tmp_path / "0", **SERVED)
    assert "no price" in text_of(tmp_path, site=None)
    text = text_of(tmp_path, site=Site("here", 100.0, 2.0))
    assert "No price is known for site here." in text and text.rstrip().endswith("- -")


def test_a_student_that_saves_nothing_is_never_repaid(make, tmp_path):
    make.run(tmp_path / "0", **SERVED | {"student_total_j_per_token": 4.0})
    text = text_of(tmp_path)
    assert " never " in text and re.search(r"-1\.8\d $", text)


def test_no_student_served_is_no_section(make, tmp_path):
    nothing = {"student_total_j_per_token": None, "teacher_total_j_per_token": None}
    make.run(tmp_path / "0", **nothing)
    assert text_of(tmp_path) == ""


def test_seeds_served_on_two_machines_have_a_row_and_days_for_each(make, tmp_path):
    """3.6 MJ over 3 - 1 J and over 3 - 2 J a token: 50 and 100 days at 36,000 tokens a day."""
    for seed in range(3):
        make.run(
            tmp_path / str(seed), seed=seed, student_key=str(seed), own_energy_j=3.6e6, **SERVED,
            **INHERITED, **KNOWN,
        )  # fmt: skip
    keys = {"student_served_key": ["a", "b", "a"], "student_served_j_per_token": [1.0, 2.0, 1.0]}
    text = text_of(tmp_path, **keys)
    first, second = text.partition("response · machine 1")[2].split("response · machine 2")
    assert " 1.00 50 " in first and " 1.00 100 " in second
    assert "a setting that was served on several machines has a row for each." in text
    assert "several machines" not in text_of(tmp_path)


def test_a_seed_that_was_never_served_is_no_machine_of_its_own(make, tmp_path):
    for seed in range(3):
        make.run(tmp_path / str(seed), seed=seed, student_key=str(seed), **SERVED, **INHERITED)
    runs = collect([tmp_path]).runs
    runs["student_served_key"] = ["a", None, "b"]
    runs["teacher_served_key"] = ["t", None, "t"]
    parts = by_machine(to_rows(runs))
    named = [(apart, [run["run"] for run in rows]) for apart, rows in parts]
    assert named == [(" · machine 1", ["0"]), (" · machine 2", ["2"]), (" · not served", ["1"])]
