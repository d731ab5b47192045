"""The answer of the first screen: which student, at what energy, how sure."""

import re

from multirun_analysis.collect.collection import collect
from multirun_analysis.narrative.answer import answer


def test_the_first_screen_answers_which_student_at_what_energy_how_sure(sweep):
    found = answer(sweep.runs)
    assert re.match(
        r"Combined keeps 9\d\.\d % of its teacher's accuracy above chance \(95 % interval 9\d\.\d "
        r"to \d+\.\d %\)\. Building it took \d+ kJ\.$",
        found.headline,
    )
    assert "%), 95 % interval over 2 seeds. Second is " in found.sureness[0]
    assert found.sureness[1].startswith("The energy is measured, ± 4.8 % (one standard deviation)")
    assert found.warning is None
    assert [highlight.student for highlight in found.highlights] == ["combined", "sft", "combined"]


def test_a_single_seed_is_said_to_settle_nothing(make, tmp_path):
    make.run(tmp_path / "0", student_key="a", om_perf=0.95)
    make.run(tmp_path / "1", student_key="b", paradigm="sft", om_perf=0.90)
    found = answer(collect([tmp_path]).runs)
    assert "from a single seed" in found.sureness[0]
    assert "One seed is not enough to say that response is better" in found.sureness[0]


def test_seeds_apart_settle_the_first_place_and_seeds_together_do_not(make, tmp_path):
    for seed in range(3):
        for name, value in (("response", 0.95), ("sft", 0.90), ("feature", 0.948)):
            # What one seed does to response it undoes to feature: their order is chance.
            moved = (seed - 1) / 100 * {"feature": -1, "response": 1, "sft": 0}[name]
            changes = {"paradigm": name, "om_perf": value + moved, "seed": seed}
            make.run(tmp_path / f"{name}{seed}", student_key=f"{name}{seed}", **changes)
    runs = collect([tmp_path]).runs
    sure = answer(runs).sureness[0]
    assert "The difference from feature is within noise." in sure
    runs = runs[runs["paradigm"] != "feature"]
    assert "It is better than every other setting, beyond noise." in answer(runs).sureness[0]


def test_measured_students_are_ranked_without_the_estimated_ones(make, tmp_path):
    make.run(tmp_path / "0", student_key="a", om_perf=0.80)
    changes = {"own_energy_quality": "estimated", "inherited_energy_quality": "estimated"}
    make.run(tmp_path / "1", student_key="b", paradigm="sft", om_perf=0.99, **changes)
    found = answer(collect([tmp_path]).runs)
    assert found.headline.startswith("Response")
    assert "Not ranked, because their energy is not measured: 1 student." in found.sureness


def test_without_benchmarks_held_out_text_decides_and_lower_wins(make, tmp_path):
    make.run(tmp_path / "0", student_key="a", om_perf=None, student_bits_per_byte=1.2)
    changes = {"paradigm": "sft", "om_perf": None, "student_bits_per_byte": 1.1}
    make.run(tmp_path / "1", student_key="b", **changes)
    assert answer(collect([tmp_path]).runs).headline.startswith("Sft predicts held-out text best")
