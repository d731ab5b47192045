"""Accuracy kept: from records new and old, its interval, and what is no better than guessing."""

from __future__ import annotations

import json
import re

import pytest

from kdwatts.records.files import read_json
from multirun_analysis.collect.collection import collect
from multirun_analysis.commands.report_command import table
from multirun_analysis.figures.accuracy_against_energy import quality_against_energy
from multirun_analysis.narrative.answer import answer
from multirun_analysis.narrative.caveats import caveats
from multirun_analysis.narrative.findings import result_rows
from multirun_analysis.report.page import exhibits_of, report_html
from multirun_analysis.statistics.accuracy_words import (
    at_chance_words,
    is_at_chance,
    kept_words,
    mean_interval_of,
    share_words,
)
from multirun_analysis.statistics.comparisons import against_baseline, comparable_columns
from multirun_analysis.values.rows import to_rows
from tests.multirun_analysis.page_words import own_html, section_of


def rows_of(directory):
    return to_rows(collect([directory]).runs)


def test_an_older_record_gets_accuracy_kept_from_its_scores(make, tmp_path):
    """(0.45 - 0.25) / (0.65 - 0.25) = 0.5 of MMLU and 0.3 / 0.4 of GSM8K: 0.625 in the mean."""
    student, teacher = {"mmlu": 0.45, "gsm8k": 0.3}, {"mmlu": 0.65, "gsm8k": 0.4}
    make.scored(tmp_path / "0", student, teacher, om_perf=0.72)
    (run,) = rows_of(tmp_path)
    assert run["accuracy_kept"] == pytest.approx(0.625)
    assert run["accuracy_kept_low"] < 0.625 < run["accuracy_kept_high"]
    assert run["accuracy_kept_benchmarks"] == '["mmlu", "gsm8k"]'
    assert (run["accuracy_kept_reason"], run["om_perf"]) == (None, 0.72)
    assert collect([tmp_path]).scores.set_index("task")["chance"].to_dict() == {
        "mmlu": 0.25,
        "gsm8k": 0.0,
    }


def test_the_runs_own_configuration_says_what_counts_and_what_guessing_scores(make, tmp_path):
    """Ten answers to choose from: (0.3 - 0.1) / (0.5 - 0.1) is 0.5."""
    tasks = {"mmlu_pro": ("acc", 0.1)}
    make.scored(tmp_path / "0", {"mmlu_pro": 0.3}, {"mmlu_pro": 0.5}, tasks=tasks)
    (run,) = rows_of(tmp_path)
    assert run["accuracy_kept"] == pytest.approx(0.5)


def test_an_older_record_without_scores_has_no_accuracy_kept_but_a_reason(make, tmp_path):
    folder = make.scored(tmp_path / "0", {}, {}, om_perf=0.985)
    (folder / "eval.json").unlink()
    (run,) = rows_of(tmp_path)
    assert run["accuracy_kept"] is None
    assert run["accuracy_kept_reason"] == "its records hold no scores that it could be formed from"
    assert "98" not in answer(collect([tmp_path]).runs).headline


def test_a_benchmark_without_a_chance_level_is_left_out_and_said_to_be(make, tmp_path):
    scores = {"mmlu": 0.45, "truthfulqa_mc2": 0.4}, {"mmlu": 0.65, "truthfulqa_mc2": 0.5}
    make.scored(tmp_path / "0", *scores, om_perf=0.75)
    only = {"truthfulqa_mc2": 0.4}
    make.scored(tmp_path / "1", only, only, om_perf=1.0, student_key="b", paradigm="sft")
    collected = collect([tmp_path])
    both, alone = to_rows(collected.runs)
    assert both["accuracy_kept"] == pytest.approx(0.5)
    assert alone["accuracy_kept_reason"] == "no chance level is known of truthfulqa_mc2"
    text = dict(caveats(collected))["Accuracy"]
    assert "Left out, because guessing has no known score there: truthfulqa_mc2 (1 of 1" in text
    assert "is not known for 1 of 2 students: no chance level is known of truthfulqa_mc2" in text


def test_a_record_that_says_that_it_cannot_be_told_is_not_asked_again(make, tmp_path):
    make.run(tmp_path / "0", om_perf=0.98, accuracy_kept=None, accuracy_kept_benchmarks=[],
             teacher_at_chance=["mmlu"], student_at_chance=["mmlu"])  # fmt: skip
    (run,) = rows_of(tmp_path)
    assert run["accuracy_kept_reason"] == "the teacher is at chance on every benchmark (mmlu)"


def test_an_import_of_before_is_compared_only_where_both_were_asked_alike(imported_dir, tmp_path):
    for name in ("feature_1", "relation_1"):
        folder = tmp_path / name
        folder.mkdir()
        for path in (imported_dir / name).iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        record = read_json(folder / "metrics.json")
        old = {key: value for key, value in record.items() if "chance" not in key}
        old = {key: value for key, value in old.items() if "accuracy_kept" not in key}
        (folder / "metrics.json").write_text(json.dumps(old))
    feature, relation = rows_of(tmp_path)
    assert feature["accuracy_kept"] is relation["accuracy_kept"] is None
    assert "were evaluated differently" in relation["accuracy_kept_reason"]
    assert at_chance_words([feature]) == "at chance on 4 benchmarks"
    assert at_chance_words([relation]) == ""


def test_of_two_intervals_the_wider_is_told_and_named():
    def run(value, half):
        ends = {"accuracy_kept_low": value - half, "accuracy_kept_high": value + half}
        return {"accuracy_kept": value} | ends

    # Over 0.5 and 0.52 Student's is 12.706 * 0.01 wide on each side.
    over_seeds = mean_interval_of([run(0.5, 0.1), run(0.52, 0.1)], "accuracy_kept")
    assert over_seeds.half_width == pytest.approx(0.12706, rel=1e-4)
    assert over_seeds.words == "95 % interval over 2 seeds; over benchmark samples it is narrower"
    over_samples = mean_interval_of([run(0.5, 0.1), run(0.502, 0.2)], "accuracy_kept")
    assert (over_samples.low, over_samples.high) == pytest.approx((0.351, 0.651))
    assert over_samples.words == "95 % interval over benchmark samples; over 2 seeds it is narrower"
    assert mean_interval_of([run(0.5, 0.1)], "accuracy_kept").words.endswith("samples, one seed")
    assert mean_interval_of([{"accuracy_kept": 0.5}], "accuracy_kept").low is None


@pytest.mark.parametrize(
    ("value", "half", "words"),
    [
        (0.4, 0.15, "40 % (25 to 55 %)"),
        (0.4, 0.31, "40 % (9 to 71 %)"),
        (0.9693, 0.004, "96.9 % (96.5 to 97.3 %)"),
        (0.02, 0.05, "2 % (-3 to 7 %)"),
        (0.07, 0.073, "7 % (0 to 14 %)"),
    ],
)
def test_a_share_is_told_with_its_interval_and_no_finer(value, half, words):
    ends = {"accuracy_kept_low": value - half, "accuracy_kept_high": value + half}
    spread = mean_interval_of([{"accuracy_kept": value} | ends], "accuracy_kept")
    assert share_words(spread) == words


def test_a_teacher_at_chance_everywhere_is_not_known_in_the_headline(at_chance_dir):
    found = answer(collect([at_chance_dir]).runs)
    assert found.headline == (
        "Accuracy kept is not known: the teacher is at chance on every benchmark (mmlu). "
        "Response predicts held-out text best (1.011 ± 0.010 bits/byte). Building it took 326 kJ."
    )
    assert [highlight.question for highlight in found.highlights] == [
        "Best on held-out text", "Least energy to build", "Energy to serve the best",
    ]  # fmt: skip
    assert all("at chance on mmlu" in highlight.detail for highlight in found.highlights[:2])
    assert not re.search(r"accura|OM_perf", " ".join(found.sureness))


def test_without_held_out_text_the_headline_goes_on_with_the_least_energy(at_chance_dir):
    runs = collect([at_chance_dir]).runs.assign(student_bits_per_byte=None)
    found = answer(runs)
    assert found.headline == (
        "Accuracy kept is not known: the teacher is at chance on every benchmark (mmlu). "
        "Sft took the least energy to build: 226 ± 13 kJ (62.8 Wh)."
    )
    assert found.highlights[0].detail == "its accuracy cannot be compared; at chance on mmlu"


def test_nothing_is_ranked_or_drawn_by_an_accuracy_that_cannot_be_told(at_chance_dir):
    collected = collect([at_chance_dir])
    shown = exhibits_of(collected)
    assert not [name for name in shown if "accuracy" in name or name == "eff_overall"]
    assert "student_bits_per_byte_against_own_energy_j" in shown
    assert not quality_against_energy(collected.runs).figure.data
    told = comparable_columns(collected.runs)
    assert "om_perf" not in told and "student_bits_per_byte" in told
    assert against_baseline(collected.runs, ["accuracy_kept"]) == []
    page = own_html(report_html(collected))
    assert "<h2>Held-out text against energy</h2>" in page
    assert "There is no figure of accuracy kept. It is not known: the teacher is at" in page
    assert not re.search(r"keeps [\d.]+ %", page)


def test_a_score_at_chance_is_marked_wherever_it_stands(at_chance_dir):
    collected = collect([at_chance_dir])
    section = section_of(collected, "scores")
    mark = '<a class="sign" href="#sign-chance"><span class="chance">at chance</span></a>'
    assert f"<td>0.252 ± 0.010 {mark}<small>teacher 0.250 {mark}</small></td>" in section
    assert "not known, at chance on mmlu" in table(collected.runs)
    hovers = [
        text
        for exhibit in exhibits_of(collected).values()
        for trace in exhibit.figure.data
        for text in trace.hovertext or ()
        if "OM_perf" in text
    ]
    assert hovers and all("at chance on mmlu" in text for text in hovers)
    page = own_html(report_html(collected))
    runs_table = page.split("<h2>Runs</h2>")[1].split("</section>")[0]
    assert runs_table.count("not known") == runs_table.count("at chance on mmlu") == 4


def test_a_student_at_chance_under_a_better_teacher_is_never_praised(make, tmp_path):
    """0.26 with an error of 0.01 is guessing; its teacher has 0.65, so 2.5 % is kept."""
    for seed, score in enumerate((0.26, 0.262)):
        folder = tmp_path / f"{seed}"
        make.scored(folder, {"mmlu": score}, {"mmlu": 0.65}, seed=seed, student_key=f"s{seed}")
    runs = collect([tmp_path]).runs
    rows = to_rows(runs)
    assert rows[0]["accuracy_kept"] == pytest.approx(0.025) and is_at_chance(rows)
    headline = answer(runs).headline
    assert headline.startswith(
        "No student is better than guessing: all are at chance on every benchmark (mmlu). "
    )
    assert "keeps 2" not in headline


def test_a_setting_above_chance_goes_before_one_at_chance(make, tmp_path):
    make.scored(tmp_path / "0", {"mmlu": 0.26}, {"mmlu": 0.65}, student_key="a")
    make.scored(tmp_path / "1", {"mmlu": 0.45}, {"mmlu": 0.65}, student_key="b", paradigm="sft")
    assert answer(collect([tmp_path]).runs).headline.startswith("Sft keeps 50 % of")


def test_the_headline_goes_no_further_than_the_interval(make, tmp_path):
    """Of 0.4 with an interval from 0.25 to 0.56, over the benchmarks' samples."""
    ends = {"accuracy_kept_low": 0.25, "accuracy_kept_high": 0.56}
    make.run(tmp_path / "0", accuracy_kept=0.4, **ends)
    found = answer(collect([tmp_path]).runs)
    assert found.headline.startswith(
        "Response keeps 40 % of its teacher's accuracy above chance (95 % interval 25 to 56 %). "
    )


def test_seeds_that_pair_up_tell_what_overlapping_intervals_do_not(make, tmp_path):
    """Seeds move both by 10 points and their difference by 0.1: 2 points are beyond noise."""
    for seed in range(3):
        for name, value in (("response", 0.82), ("sft", 0.80)):
            own = seed / 1000 if name == "response" else 0.0
            make.run(
                tmp_path / f"{name}{seed}", paradigm=name, seed=seed, student_key=f"{name}{seed}",
                om_perf=value + seed / 10 + own,
            )  # fmt: skip
    sure = answer(collect([tmp_path]).runs).sureness[0]
    assert sure.endswith("It is better than every other setting, beyond noise.")


def test_one_run_at_chance_of_two_says_of_how_many_seeds():
    rows = [{"student_at_chance": '["mmlu"]'}, {"student_at_chance": "[]"}]
    assert at_chance_words(rows) == "at chance on mmlu (1 of 2 seeds)"
    assert kept_words([{"accuracy_kept": None, "accuracy_kept_reason": "why"}]) == "not known"
    assert kept_words([{"accuracy_kept": None}]) == "-"


def test_the_markdown_page_marks_the_students_and_the_teacher(at_chance_dir):
    heads, rows = result_rows(rows_of(at_chance_dir))
    kept = {row[0]: row[heads.index("Accuracy kept")] for row in rows}
    assert kept == {
        "sft": "not known, at chance on mmlu",
        "response": "not known, at chance on mmlu",
        "teacher": "-, at chance on mmlu",
    }
